from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from im2latex import cli
from im2latex.errors import UserError
from pipeline.cli import app
from tests.im2latex.serving.conftest import encoded


def predict(model: Path, *arguments: object, stdin: bytes = b"") -> Result:
    environment = {"IM2LATEX_HOME": str(model.parents[2])}
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], input=stdin, env=environment)


@pytest.fixture(scope="module")
def pushed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in a workspace, pushed last."""
    serving = tmp_path_factory.mktemp("workspace") / "serving" / "im2latex"
    serving.mkdir(parents=True)
    (serving / "7").symlink_to(model)
    return serving / "7"


@pytest.fixture
def files(tmp_path: Path, images: list[bytes]) -> list[Path]:
    """Writes pictures to a folder, one of them to a subfolder, and a file that is not an image."""
    (tmp_path / "more").mkdir()
    paths = [tmp_path / f"{number}.png" for number in range(len(images) - 1)] + [tmp_path / "more" / "last.PNG"]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    (tmp_path / "notes.txt").write_text("no picture")
    return paths


@pytest.fixture(scope="module")
def expected(signatures: Any, images: list[bytes]) -> list[str]:
    import tensorflow as tf

    return [signatures["predict_images"](images=tf.constant([image]))["latex"][0].numpy().decode() for image in images]


def test_one_image_is_one_line_of_latex_by_the_model_pushed_last(
    pushed: Path, files: list[Path], expected: list[str]
) -> None:
    answer = predict(pushed, files[0])
    assert (answer.exit_code, answer.stdout) == (0, expected[0] + "\n")
    assert answer.stderr == f"model: im2latex 7 ({pushed})\n"


def test_several_are_named_in_the_order_they_were_given(
    pushed: Path, files: list[Path], expected: list[str], images: list[bytes]
) -> None:
    answer = predict(pushed, files[3], "-", files[0].parent, stdin=images[4])
    lines = [line.split("\t") for line in answer.stdout.splitlines()]
    folder = [[str(file), latex] for file, latex in zip(files, expected, strict=True)]
    assert lines == [folder[3], ["-", expected[4]], *folder]
    assert answer.exit_code == 0


def test_json_has_probabilities_and_the_alternatives_of_the_beam(
    model: Path, pushed: Path, files: list[Path], signatures: Any, images: list[bytes]
) -> None:
    import tensorflow as tf

    own = signatures["predict_alternatives"](
        images=tf.constant(images[:1]), width=tf.constant(3), length_penalty=tf.constant(0.0)
    )
    (line,) = predict(pushed, "--json", "--alternatives", 3, "--model", model, files[0]).stdout.splitlines()
    document = json.loads(line)
    assert document["path"] == str(files[0])
    assert [one["latex"].encode() for one in document["alternatives"]] == own["latex"][0].numpy().tolist()
    for one, log_probability in zip(document["alternatives"], own["log_probability"][0].numpy().tolist(), strict=True):
        assert one["log_probability"] == pytest.approx(log_probability, rel=0, abs=1e-3)
        assert one["probability"] == pytest.approx(math.exp(one["log_probability"]), abs=2e-5)
        assert [token for token, _ in one["tokens"]] == one["latex"].split()
        total = math.prod(probability for _, probability in one["tokens"])
        assert 1.001 * total >= one["probability"] > 0  # the end is no token
    assert document["latex"] == document["alternatives"][0]["latex"]
    greedy = json.loads(predict(pushed, "--json", files[0]).stdout)
    assert "alternatives" not in greedy and greedy["log_probability"] < 0


def test_alternatives_are_lines_with_their_probabilities(pushed: Path, files: list[Path]) -> None:
    lines = [line.split("\t") for line in predict(pushed, "--alternatives", 3, files[0]).stdout.splitlines()]
    shares = [float(share) for share, _ in lines]
    assert len({latex for _, latex in lines}) == 3 and shares == sorted(shares, reverse=True)


def test_clean_leaves_out_the_blanks(pushed: Path, files: list[Path], expected: list[str]) -> None:
    assert predict(pushed, "--clean", files[1]).stdout == expected[1].replace(" ", "") + "\n"


def test_unreadable_images_are_reported_and_the_others_are_read(
    pushed: Path, files: list[Path], tmp_path: Path, expected: list[str], picture: Image.Image
) -> None:
    broken = {
        "empty.png": b"",
        "torn.png": files[2].read_bytes()[:-30],
        "torn.tif": encoded(picture, "TIFF")[:-200],
        "notes.txt": b"no picture",
        "pixel.png": encoded(Image.new("L", (1, 1))),
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "hollow").mkdir()
    wrong = [*(tmp_path / name for name in broken), tmp_path / "absent.png", tmp_path / "hollow"]
    answer = predict(pushed, *wrong, files[0])
    assert answer.exit_code == 1
    assert answer.stdout == f"{files[0]}\t{expected[0]}\n"
    _, *complaints = answer.stderr.splitlines()
    assert len(complaints) == len(wrong)
    for path, sentence in zip(
        [wrong[-1], *wrong[:-1]],
        ["the folder has no images", "the image is empty", "the image is damaged", "the image is damaged",
         "the image is damaged, or of another format", "the image has 1 x 1 pixels",
         "the file cannot be read (No such file or directory); check the path"],
        strict=True,
    ):  # fmt: skip
        assert any(line.startswith(f"im2latex: {path}: {sentence}") for line in complaints), (path, complaints)


def test_a_blank_picture_gives_an_empty_line_and_a_message(pushed: Path, files: list[Path], tmp_path: Path) -> None:
    blank = tmp_path / "more" / "blank.png"
    Image.new("L", (60, 20), 250).save(blank)
    alone = predict(pushed, "--model", pushed, blank)
    assert (alone.exit_code, alone.stdout) == (0, "\n")
    assert alone.stderr == f"im2latex: {blank}: the picture is blank\n"
    assert predict(pushed, "--model", pushed, files[0], blank).stdout.splitlines()[1] == f"{blank}\t"
    assert predict(pushed, "--alternatives", 3, blank).stdout == "0.000\t\n"


def test_json_has_the_status_of_a_blank_picture(pushed: Path, files: list[Path], tmp_path: Path) -> None:
    Image.new("L", (60, 20), 250).save(tmp_path / "blank.png")
    answer = predict(pushed, "--model", pushed, "--json", files[0], tmp_path / "blank.png")
    read, blank = map(json.loads, answer.stdout.splitlines())
    assert read["status"] == "read" and read["latex"]
    assert (blank["status"], blank["latex"], blank["probability"]) == ("blank", "", 0.0)
    assert answer.stderr == ""


def test_more_images_than_fit_into_memory_at_once_are_all_read(
    pushed: Path, files: list[Path], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("im2latex.command.HELD", 4)
    answer = predict(pushed, *files, *files)
    assert [line.split("\t")[1] for line in answer.stdout.splitlines()] == expected * 2


def test_a_result_below_the_confidence_is_one_sentence(pushed: Path, files: list[Path]) -> None:
    sure = {
        path: json.loads(line)["probability"]
        for path, line in zip(files, predict(pushed, "--json", *files).stdout.splitlines(), strict=True)
    }
    bound = sorted(sure.values())[len(sure) // 2]
    answer = predict(pushed, "--min-confidence", bound, *files)
    good = [str(path) for path in files if sure[path] >= bound]
    assert 0 < len(good) < len(files)
    assert (answer.exit_code, [line.split("\t")[0] for line in answer.stdout.splitlines()]) == (1, good)
    assert answer.stderr.splitlines()[1:] == [
        f"im2latex: {path}: the result is doubtful: its probability is {sure[path]:.3f}"
        for path in files
        if sure[path] < bound
    ]
    documents = [
        json.loads(line) for line in predict(pushed, "--min-confidence", bound, "--json", *files).stdout.splitlines()
    ]
    assert [document["status"] for document in documents] == [
        "read" if sure[path] >= bound else "doubtful" for path in files
    ]
    assert predict(pushed, "--min-confidence", 1.5, files[0]).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("predict", "x.png", "--nope"), "no such option: --nope; see `im2latex predict --help`"),
        (("serve", "x"), "no such argument: x; see `im2latex serve --help`"),
        (("monitor", "--ulr", "x"), "no such option: --ulr; see `im2latex monitor --help`"),
    ],
)
def test_an_unknown_option_names_the_help_of_its_command(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.run([*arguments])
    assert (stop.value.code, *capsys.readouterr()) == (2, "", f"im2latex: {sentence}\n")


def test_inverted_and_transparent_pictures_are_read_as_the_plain_one(
    pushed: Path, tmp_path: Path, picture: Image.Image
) -> None:
    ink = picture.point(lambda level: 255 - level)
    for name, image in {
        "plain.png": picture,
        "dark.jpg": ink.convert("RGB"),
        "clear.webp": Image.merge("LA", (Image.new("L", picture.size), ink)).convert("RGBA"),
        "sheet.tiff": Image.fromarray(np.pad(np.asarray(picture), 40, constant_values=255)),
    }.items():
        image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    lines = dict(line.rsplit("\t") for line in predict(pushed, tmp_path).stdout.splitlines())
    latex = {Path(path).name: read for path, read in lines.items()}
    assert latex["plain.png"] == latex["clear.webp"] == latex["sheet.tiff"] and "dark.jpg" in latex


def test_a_model_without_a_beam_is_a_user_error(tmp_path: Path, pushed: Path, files: list[Path]) -> None:
    from tests.components.serving_check.models import save, sure

    folder = save(tmp_path / "3", lambda images: sure(images))
    with pytest.raises(UserError, match="3 has no signature predict_alternatives"):
        raise predict(pushed, "--model", folder, "--alternatives", 2, files[0]).exception or AssertionError
    with pytest.raises(UserError, match="there is no model .*nowhere; name a folder"):
        raise predict(pushed, "--model", tmp_path / "nowhere", files[0]).exception or AssertionError


def run(*arguments: object, **streams: Any) -> Any:
    """The command as a process, on the model that comes with im2latex."""
    command = [sys.executable, "-m", "im2latex", "predict", "--model", "reader", *map(os.fsencode, map(str, arguments))]
    settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 300, **streams}
    return subprocess.run(command, **settings)


@pytest.mark.integration
def test_odd_files_and_names_are_a_sentence_each_and_the_others_are_read(tmp_path: Path, images: list[bytes]) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    names = [b"line\nbreak.png", b"bell\x07\x1b[31m.png", b"latin-\xe4.png", b"tab\t.png"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(images[0])
    photograph = Image.Exif()
    photograph[0x0112], photograph[0x927C] = 6, "odd"
    Image.open(io.BytesIO(images[0])).convert("L").save(tmp_path / "turned.jpg", exif=photograph)
    with open("/dev/zero", "rb") as endless:
        answer = run("-", tmp_path / "pipe.png", "/dev/null", "x" * 300 + ".png", tmp_path, stdin=endless)
    lines = [line.split("\t") for line in answer.stdout.decode().splitlines()]
    assert {Path(name).name for name, _ in lines} == {
        r"line\nbreak.png", r"bell\x07\x1b[31m.png", r"latin-\udce4.png", r"tab\t.png", "turned.jpg"
    }  # fmt: skip
    message = answer.stderr.decode().splitlines()[1:]
    assert answer.returncode == 1 and len(message) == 4
    for sentence, line in zip(
        ["-: the file has more than", "pipe.png: this is a pipe or device", "/dev/null: this is a pipe", "x.png: "],
        message,
        strict=True,
    ):
        assert sentence in line


@pytest.mark.integration
def test_an_answer_that_cannot_be_written_is_a_sentence(tmp_path: Path, images: list[bytes]) -> None:
    (tmp_path / "formula.png").write_bytes(images[0])
    with open("/dev/full", "wb") as full:
        answer = run(tmp_path / "formula.png", stdout=full)
    assert answer.returncode == 1 and b"cannot be written to standard output (No space left" in answer.stderr
    answer = run(tmp_path / "formula.png", stdout=None, preexec_fn=lambda: os.close(1))
    assert answer.returncode == 1 and b"standard output is closed" in answer.stderr
    answer = run("-", tmp_path / "formula.png", preexec_fn=lambda: os.close(0))
    assert answer.returncode == 1 and b"-: standard input is closed" in answer.stderr and answer.stdout
    assert b"Traceback" not in answer.stderr


def test_a_folder_that_cannot_be_read_is_a_sentence_and_the_others_are_read(
    pushed: Path, files: list[Path], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if Path(path).name == "more":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    answer = predict(pushed, files[0].parent)
    assert answer.exit_code == 1 and answer.stdout.count("\n") == len(files) - 1
    assert f"im2latex: {files[-1].parent}: the folder cannot be read (Permission denied)\n" in answer.stderr
