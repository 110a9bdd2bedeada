from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from data.commands import app
from data.dataset.record import SPLITS, Record
from data.dataset.tfrecords import read_records
from data.dataset.writer import DatasetSummary
from data.defaults import HELD_OUT_FONT
from data.formulas.lists import Formula, Problem, drawn_key
from data.latex.rendering import render
from data.pictures.drawing import Plan, draw_dataset, make_plan
from data.pictures.looks import FONTS, Looks, installed_fonts, look_of
from im2latex.errors import UserError

ROOT = Path(__file__).parents[3]
MISSING = [program for program in ("latex", "dvipng") if shutil.which(program) is None]
LATEX = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
CHROMIUM = pytest.mark.skipif(shutil.which("chromium") is None, reason="not installed: chromium")
PLAIN = Looks(
    katex=0, degraded=0, bold=0, inline=0, border=(4, 4), fonts={"cm": 1}, sizes={10: 1}, resolutions={100: 1}
)


def formulas(*texts: str, split: str = "", source: str = "own") -> list[Formula | Problem]:
    return [Formula(text, source, split, drawn_key(text)) for text in texts]


def drawn(out: Path, plan: Plan, **options) -> DatasetSummary:
    return draw_dataset(out, [Path("own")], plan, {}, **{"allow_rejects": 0.9, "workers": 1, **options})


def records(folder: Path, split: str = "train") -> list[Record]:
    return list(read_records(folder / split)) if any((folder / split).iterdir()) else []


def picture(record: Record) -> np.ndarray:
    with Image.open(io.BytesIO(record.image)) as image:
        return np.asarray(image)


# --- the plan ---------------------------------------------------------------------------------


def in_splits(plan: Plan) -> dict[str, list[str]]:
    pairs = list(zip(plan.splits, plan.pictures, strict=True))
    return {split: sorted(picture.tokens for where, picture in pairs if where == split) for split in SPLITS}


def test_splits_of_the_sources_are_kept() -> None:
    inputs = [*formulas("x", split="train"), *formulas("y", split="eval"), *formulas("z", split="test"), *formulas("w")]
    assert in_splits(make_plan(inputs, PLAIN, 1, split="train")) == {"train": ["w", "x"], "eval": ["y"], "test": ["z"]}


def test_formulas_that_look_like_held_out_ones_are_not_in_train() -> None:
    inputs = [
        *formulas("{ x } ^ { 2 }", "y \\, z", "z"),
        *formulas("x ^ { 2 }", split="eval"),
        *formulas("y z", split="test"),
    ]
    plan = make_plan(inputs, PLAIN, 1, split="train")
    assert in_splits(plan) == {"train": ["z"], "eval": ["x ^ { 2 }"], "test": ["y z"]}
    assert [reason for _, _, reason in plan.rejects] == 2 * ["draws the same as a formula of eval or test"]


def test_a_repeated_formula_is_drawn_once_and_held_out_if_any_copy_is() -> None:
    inputs = [*formulas("x", "y", "x", split="train"), *formulas("x", split="test"), *formulas("x", split="train")]
    plan = make_plan(inputs, PLAIN, 1)
    assert in_splits(plan) == {"train": ["y"], "eval": [], "test": ["x"]} and plan.duplicates == 3


def test_lists_are_spread_over_the_splits_by_look() -> None:
    shares = {"eval_share": 0.2, "test_share": 0.25}
    texts = [f"x _ {{ {' '.join(str(i))} }}" for i in range(2000)]
    plan = make_plan(formulas(*texts), PLAIN, 1, **shares)
    counts = {split: len(tokens) for split, tokens in in_splits(plan).items()}
    # 4 standard deviations of 0.15 and 0.05 among 2,000 are 64 and 39.
    assert counts["eval"] == pytest.approx(300, abs=64) and counts["test"] == pytest.approx(100, abs=39)
    spelled = make_plan(
        formulas(*(f"{{ x }} _ {{ {' '.join(str(i))} }}" for i in range(2000))), PLAIN, 2, 1, None, 0.2, 0.25
    )
    assert {split: len(tokens) for split, tokens in in_splits(spelled).items()} == counts


def test_looks_do_not_depend_on_what_else_is_drawn() -> None:
    def by_name(plan: Plan) -> set[str]:
        return {picture.name for picture in plan.pictures}

    few, many = make_plan(formulas("x", "y"), Looks(), 1, 2), make_plan(formulas("a", "y", "b", "x"), Looks(), 1, 3)
    assert len(by_name(few)) == 4 and by_name(few) < by_name(many)
    assert by_name(make_plan(formulas("x", "y"), Looks(), 2, 2)).isdisjoint(by_name(few))


def test_commands_that_are_not_known_are_left_out_with_their_names() -> None:
    plan = make_plan([*formulas("x", r"\tuple { x }"), Problem("list:3", "{ without }", "")], PLAIN, 1)
    assert [reason for _, _, reason in plan.rejects] == ["{ without }", r"a command that is not drawn: \tuple"]
    assert plan.rejects[0][:2] == ("list:3", "train")


def test_a_chunk_has_one_font() -> None:
    plan = make_plan(formulas(*(f"x _ {{ {i} }}" for i in range(9))), Looks(fonts={"cm": 1, "times": 1}), 1, 100)
    chunks = plan.chunks()
    assert sorted(picture.number for chunk in chunks for picture in chunk) == list(range(900))
    for chunk in chunks:
        assert len({picture.look.font for picture in chunk}) == 1 and len(chunk) <= 256
        assert [picture.look.resolution for picture in chunk] == sorted(picture.look.resolution for picture in chunk)


# --- drawing ----------------------------------------------------------------------------------


@LATEX
@pytest.mark.integration
def test_a_plain_look_is_what_the_renderer_draws(tmp_path: Path) -> None:
    texts = ["x + 1 = 3", r"\frac { a } { b }", r"\sum _ { i } x _ { i }", r"\begin{array} { c c } 1 & 2 \end{array}"]
    drawn(tmp_path / "set", make_plan(formulas(*texts), PLAIN, 1))
    images = {record.latex: picture(record) for record in records(tmp_path / "set")}
    assert sorted(images) == sorted(texts)
    for text, image in images.items():
        np.testing.assert_array_equal(image, render(text, 100, 4, "latex"), err_msg=text)


@LATEX
@pytest.mark.integration
def test_size_style_weight_and_border_are_drawn(tmp_path: Path) -> None:
    def image(latex: str, **changes) -> np.ndarray:
        out = tmp_path / "set"
        drawn(out, make_plan(formulas(latex), PLAIN.model_copy(update={"border": (0, 0)} | changes), 1))
        return picture(records(out)[0])

    plain = image("1")
    # The figure 1 is 6.66 pt high at 10 pt (its outline in cmr10), and 100 dpi have 100 / 72.27 pixels in a pt.
    assert plain.shape[0] == pytest.approx(6.66 * 100 / 72.27, abs=1)
    assert image("1", sizes={20.74: 1}).shape[0] == pytest.approx(2.074 * 6.66 * 100 / 72.27, abs=1)
    assert image("1", resolutions={300: 1}).shape[0] == pytest.approx(6.66 * 300 / 72.27, abs=1)
    assert image("1", border=(7, 7)).shape == (plain.shape[0] + 14, plain.shape[1] + 14)
    assert (image("l", bold=1) < 128).sum() > 1.2 * (image("l") < 128).sum()
    # In inline style, limits are next to the operator.
    inline, display = image(r"\sum _ { i } ^ { n }", inline=1), image(r"\sum _ { i } ^ { n }")
    assert inline.shape[0] < 0.6 * display.shape[0] and inline.shape[1] > display.shape[1]


@LATEX
@pytest.mark.integration
def test_each_font_draws_letters_of_its_own(tmp_path: Path) -> None:
    text = r"a g Q + \frac { 1 2 3 } { \alpha } \in \mathbb { R } , \mathcal { L } , \left( \mathbf { v } \right)"
    fonts = sorted(installed_fonts())
    pictures = []
    for font in fonts:
        drawn(tmp_path / font, make_plan(formulas(text), PLAIN.model_copy(update={"fonts": {font: 1.0}}), 1))
        pictures.append(picture(records(tmp_path / font)[0]))
    assert "cm" in fonts
    assert len({(image.shape, image.tobytes()) for image in pictures}) == len(fonts)


@LATEX
@pytest.mark.integration
def test_formulas_that_latex_cannot_set_are_rejected_with_the_reason(tmp_path: Path) -> None:
    texts = ["x", "a & b", r"\mathrm { \quad }", r"\left. \right.", r"\hspace { x }"]
    summary = drawn(tmp_path / "set", make_plan(formulas(*texts), PLAIN, 1))
    assert summary.counts["train"] == 1
    rejects = [json.loads(line) for line in (tmp_path / "set" / "rejects.jsonl").read_text().splitlines()]
    assert sorted(reject["reason"] for reject in rejects) == [
        "a formula without ink",
        "a formula without ink",
        "latex: Misplaced alignment tab character &",
        "latex: Missing number, treated as zero",
    ]
    assert all(look_of(reject["name"]) is not None for reject in rejects)


@LATEX
@pytest.mark.integration
@pytest.mark.skipif("mathptmx.sty" not in FONTS["times"].needs or "times" not in installed_fonts(), reason="no Times")
def test_degradations_are_those_of_the_name(tmp_path: Path) -> None:
    looks = Looks(katex=0, degraded=1, fonts={"times": 1}, degradations={"ink": 1, "jpeg": 1, "transparency": 1})
    drawn(tmp_path / "set", make_plan(formulas("x + 1"), looks, 1, 12))
    modes = set()
    for record in records(tmp_path / "set"):
        look = look_of(record.name)
        assert look is not None and look.degradations
        kinds = {kind for kind, _ in look.degradations}
        with Image.open(io.BytesIO(record.image)) as image:
            assert (image.mode == "RGBA") == ("transparency" in kinds)
            modes.add(image.mode)
            if kinds == {"jpeg"}:
                assert image.mode == "L"
    assert modes == {"L", "RGB", "RGBA"}


@CHROMIUM
@pytest.mark.integration
def test_katex_is_drawn_in_the_colours_of_its_theme(tmp_path: Path) -> None:
    looks = Looks(katex=1, degraded=0, border=(5, 5), themes={"light": 1, "sepia": 1, "dark": 1})
    drawn(tmp_path / "set", make_plan(formulas("x + 1", r"\unknown", r"\hspace { 1 c m } x"), looks, 1, 9))
    corners = {}
    for record in records(tmp_path / "set"):
        look = look_of(record.name)
        assert look is not None and record.latex == "x + 1"
        image = picture(record)
        assert (image[:5] == image[0, 0]).all() and (image[:, -5:] == image[0, 0]).all()
        corners[look.theme] = image[0, 0].tolist()
    assert corners == {"light": 255, "sepia": [0xFB, 0xF0, 0xD9], "dark": 0x1E}
    reasons = (tmp_path / "set" / "rejects.jsonl").read_text()
    assert reasons.count(r"not drawn: \\unknown") == 1 and reasons.count("KaTeX: Invalid size") == 9


# --- the same bytes, and going on -------------------------------------------------------------


def many(count: int = 300) -> Plan:
    return make_plan(formulas(*(f"x _ {{ {' '.join(str(i))} }}" for i in range(count))), PLAIN, 1, 2)


class Interrupted:
    """Raises KeyboardInterrupt when progress reports that something is done."""

    def __init__(self) -> None:
        self.reported: list[int] = []

    def __call__(self, count: int) -> None:
        self.reported.append(count)
        if sum(self.reported) > 0:
            raise KeyboardInterrupt


@LATEX
@pytest.mark.integration
def test_an_interrupted_command_continues_to_the_same_bytes(tmp_path: Path) -> None:
    straight = drawn(tmp_path / "straight", many(), workers=2)
    interrupted = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path / "set", many(), progress=interrupted)
    assert not (tmp_path / "set").exists() and len(list((tmp_path / "set.drawing").glob("*.records"))) == 1
    reported: list[int] = []
    summary = drawn(tmp_path / "set", many(), progress=reported.append)
    # The chunk that was done is not drawn again.
    assert reported[0] == sum(interrupted.reported) and sum(reported) == 600
    assert summary.fingerprint == straight.fingerprint and not (tmp_path / "set.drawing").exists()
    for one, other in zip(records(tmp_path / "set"), records(tmp_path / "straight"), strict=True):
        assert one == other


@LATEX
@pytest.mark.integration
def test_a_killed_command_continues_to_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("".join(f"x_{{{i}}}\n" for i in range(600)))
    (tmp_path / "looks").write_text("katex = 0\n[fonts]\ncm = 1\n[resolutions]\n80 = 1\n100 = 1\n")
    command = [sys.executable, "-c", "from data.commands import app; app()", "draw", "list", "--split", "train"]
    command += ["--looks", "looks", "--workers", "1", "--out"]
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    process = subprocess.Popen([*command, "set"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while not list(tmp_path.glob("set.drawing/*.records")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for name in ("set", "straight"):
        subprocess.run([*command, name], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list", "looks", "set", "straight", "tmp"]
    assert not list((tmp_path / "tmp").iterdir())  # the killed command left its files in set.drawing
    descriptions = [json.loads((tmp_path / name / "dataset.json").read_text()) for name in ("set", "straight")]
    assert descriptions[0] == descriptions[1] and descriptions[0]["counts"]["train"] == 600


@LATEX
def test_finished_chunks_of_another_command_are_not_used(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path / "set", many(20), progress=Interrupted())
    with pytest.raises(UserError, match="set.drawing contains pictures of a command with other formulas or options"):
        drawn(tmp_path / "set", many(30))


@LATEX
def test_two_commands_do_not_draw_into_one_folder(tmp_path: Path) -> None:
    (tmp_path / "set.drawing").mkdir()
    lock = os.open(tmp_path / "set.drawing", os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another command is writing to .*set.drawing"):
            drawn(tmp_path / "set", many(20))
    finally:
        os.close(lock)


# --- the command ------------------------------------------------------------------------------


def command(*arguments: str | Path) -> Callable[[], object]:
    return lambda: CliRunner().invoke(app, ["draw", *map(str, arguments)], catch_exceptions=False)


@LATEX
@pytest.mark.integration
def test_the_held_out_font_is_drawn_on_request_alone(tmp_path: Path) -> None:
    if HELD_OUT_FONT not in installed_fonts():
        pytest.skip(f"the font {HELD_OUT_FONT} is not installed")
    (tmp_path / "list").write_text("x\ny\n")
    out = tmp_path / "set"
    result = CliRunner().invoke(
        app, ["draw", f"{tmp_path}/list", "--out", str(out), "--held-out-font", "--split", "test"]
    )
    assert result.exit_code == 0 and "2 records" in result.output, result.output
    assert {record.name.split(";")[2] for record in records(out, "test")} == {HELD_OUT_FONT}


def test_refusals_are_user_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list").write_text("x\n")
    (tmp_path / "wrong").write_text("{\n")
    with pytest.raises(UserError, match="there is no split dev"):
        command(tmp_path / "list", "--out", tmp_path / "set", "--split", "dev")()
    monkeypatch.setattr("data.pictures.looks.installed_fonts", lambda: frozenset(FONTS))
    with pytest.raises(UserError, match="none of the formulas can be drawn"):
        command(tmp_path / "wrong", "--out", tmp_path / "set", "--workers", "1")()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="latex and dvipng cannot be found"):
        command(tmp_path / "list", "--out", tmp_path / "set", "--katex-share", "0")()
    with pytest.raises(UserError, match="cannot be found.*--katex-share 0"):
        command(tmp_path / "list", "--out", tmp_path / "set", "--katex-share", "1")()
    assert not (tmp_path / "set").exists() and not (tmp_path / "set.drawing").exists()
