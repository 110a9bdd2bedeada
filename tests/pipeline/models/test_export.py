"""The command `im2latex export`."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner, Result

from data.dataset.record import Record, encode
from data.dataset.tfrecords import frame
from im2latex import Reader, __version__
from im2latex.errors import UserError
from im2latex.statistics import of_values
from pipeline.cli import app
from tests.components.serving_check.models import draw, save_reader
from trainer_module.signatures import FormulaReader, read_exported
from trainer_module.trained import load_weights


def export(*arguments: object) -> Result:
    # As in the command, but only for this test.
    return CliRunner().invoke(app, ["export", *map(str, arguments)], env={"KERAS_BACKEND": "tensorflow"})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "7"
    save_reader(folder)
    return folder


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_a_pushed_model_round_trips_through_a_file_of_weights(model: Path, tmp_path: Path, precision: str) -> None:
    file = tmp_path / "made" / "mine.npz"
    answer = export(
        "--model", model, "--format", "weights", "--precision", precision, "--out", file,
        "--note", "data=mine, and yours", "--note", "scores=BLEU = 0.8",
    )  # fmt: skip
    assert answer.exit_code == 0, answer.output
    original, kept = read_exported(model), load_weights(file)
    assert kept[:4] == original[:4]
    assert kept.provenance == {
        "date": datetime.date.today().isoformat(), "im2latex": __version__,
        "data": "mine, and yours", "scores": "BLEU = 0.8",
    }  # fmt: skip
    numbers = sum(weight.size for weight in original.weights.values())
    assert answer.stdout == f"{file}: {numbers:,} parameters, 12 tokens, {file.stat().st_size:,} bytes\n"
    assert export("--weights", file, "--out", tmp_path / "model").exit_code == 0
    again = read_exported(tmp_path / "model")
    assert again.provenance["data"] == "mine, and yours"
    for name, value in kept.weights.items():
        np.testing.assert_array_equal(again.weights[name], value)
    images = tf.constant(draw(6))
    before, after = (tf.saved_model.load(str(folder)).signatures for folder in (model, tmp_path / "model"))
    if precision == "float32":
        read, expected = (signatures["predict_images"](images=images)["latex"] for signatures in (after, before))
        assert read.numpy().tolist() == expected.numpy().tolist()


def test_a_model_gets_the_statistics_of_the_data_that_it_was_trained_on(model: Path, tmp_path: Path) -> None:
    records = [Record(image, "a b unheard c", str(number)) for number, image in enumerate(draw(9) * 20)]
    (tmp_path / "mine.tfrecord").write_bytes(b"".join(frame(encode(record)) for record in records))
    arguments = ["--model", model, "--training-data", tmp_path / "mine.tfrecord", "--format", "weights"]
    answer = export(*arguments, "--out", tmp_path / "weights.npz")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.startswith("180 training examples, 180 of them measured\n")
    statistics, reader = Reader(tmp_path / "weights.npz").statistics, Reader(model)
    assert not reader.statistics
    widths = [image.shape[1] for image in map(reader.normalise, draw(9) * 20) if image is not None]
    assert statistics["width"] == of_values("width", widths)
    assert (statistics["length"].mean, statistics["unknown"].mean) == (4, 0.25)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--weights", "{0}", "--out", "{0}/model"], "there are no weights in .*: weights.npz is missing"),
        (["--weights", "{0}/mine.npz", "--out", "{0}/model"], "there is no file .*/mine.npz"),
        (["--model", "{0}", "--out", "{0}/model"], "is not a model that this pipeline exported"),
        (["--out", "{0}/model"], "give either --weights or --model"),
        (["--weights", "{0}", "--model", "{0}", "--out", "{0}/model"], "give either --weights or --model"),
        (["--model", "{1}", "--out", "{0}"], "exists already; choose another --out"),
        (["--model", "{1}", "--out", "{0}/model", "--note", "mine"], "--note takes NAME=TEXT, .* not 'mine'"),
        (["--model", "{1}", "--format", "weights", "--out", "/proc/mine.npz"], "cannot write /proc/mine.npz: "),
    ],
)
def test_an_error_is_one_sentence_and_leaves_no_files(
    model: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    answer = export(*(argument.format(tmp_path, model) for argument in arguments))
    with pytest.raises(UserError, match=sentence):
        raise answer.exception or AssertionError(answer.output)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence_and_leaves_no_files(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(reader: FormulaReader, folder: str) -> None:
        Path(folder).mkdir()
        raise tf.errors.ResourceExhaustedError(None, None, f"{folder}; No space left on device")

    monkeypatch.setattr(FormulaReader, "save", full)
    answer = export("--model", model, "--out", tmp_path / "made")
    with pytest.raises(UserError, match="cannot write .*/made: .*; No space left on device; choose another --out"):
        raise answer.exception or AssertionError(answer.output)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_a_pushed_model_and_its_weights_give_the_same_onnx_file(model: Path, tmp_path: Path, precision: str) -> None:
    from_model, weights, from_weights = (tmp_path / name for name in ("a.onnx", "weights.npz", "b.onnx"))
    options = ("--format", "onnx", "--precision", precision)
    assert export("--model", model, *options, "--out", from_model).exit_code == 0
    assert export("--model", model, "--format", "weights", "--out", weights).exit_code == 0
    assert export("--weights", weights, *options, "--out", from_weights).exit_code == 0
    images = draw(6)
    first, second = (Reader(file).read_each(images) for file in (from_model, from_weights))
    assert first == second
    if precision == "float32":
        assert first == Reader(model).read_each(images)
