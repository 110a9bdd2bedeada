"""The folder of corrections."""

from __future__ import annotations

import datetime
import io
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from im2latex.corrections import Corrections, Full, is_correction
from im2latex.errors import ImageError, UserError

NOW = datetime.datetime(2026, 11, 27, 15, 4, 23, tzinfo=datetime.timezone.utc)


def picture(level: int = 0, kind: str = "PNG", **options: object) -> bytes:
    image = Image.new("L", (30, 20), 255)
    image.paste(level, (5, 5, 20, 8))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def corrections(tmp_path: Path) -> Corrections:
    return Corrections(tmp_path / "corrections", 10**6, lambda: NOW)


def test_file_names_of_corrections_have_the_time_and_the_person(corrections: Corrections) -> None:
    name, is_new = corrections.save(picture(), r"\frac ab +x^2", "Ada Łovelace/../x")
    assert is_new and is_correction(name)
    assert re.fullmatch(r"correction-20261127T150423Z-Ada_Łovelace_.._x-[0-9a-f]{12}-[0-9a-f]{8}", name)
    files = sorted(path for path in corrections.folder.rglob("*") if path.is_file())
    assert files == [corrections.folder / "train" / f"{name}{suffix}" for suffix in (".png", ".tex")]
    assert files[1].read_text("utf-8") == "\\frac { a } { b } + x ^ { 2 }\n"
    with Image.open(files[0]) as saved, Image.open(io.BytesIO(picture())) as original:
        assert saved.tobytes() == original.tobytes()
    assert corrections.save(picture(1), "x").name.split("-")[2] == "anonymous"


def test_a_correction_is_saved_once_whatever_the_spelling_and_the_file(corrections: Corrections) -> None:
    first = corrections.save(picture(), "x_1^2")
    again = corrections.save(picture(compress_level=0), "x^{2}_{1}", "bob")
    assert again == (first.name, False)
    assert corrections.save(picture(), "x_1^3").is_new
    assert corrections.save(picture(9), "x_1^2").is_new
    assert len(list(corrections.folder.rglob("*.tex"))) == 3


def test_metadata_is_not_kept_and_photos_are_turned(corrections: Corrections) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "my garden"  # turned by 90 degrees; description
    name = corrections.save(picture(kind="JPEG", exif=exif), "x").name
    content = (corrections.folder / "train" / f"{name}.png").read_bytes()
    assert b"garden" not in content
    with Image.open(io.BytesIO(content)) as saved:
        assert saved.format == "PNG" and saved.size == (20, 30)


def test_a_few_corrections_fill_every_split_and_a_picture_stays_in_its_own(corrections: Corrections) -> None:
    for level in range(10):
        corrections.save(picture(level), "x")
    count = {split: len(list((corrections.folder / split).glob("*.tex"))) for split in ("train", "eval", "test")}
    assert count == {"train": 6, "eval": 2, "test": 2}
    for level in range(10):
        corrections.save(picture(level), "y")
    for split in ("train", "eval", "test"):
        pictures = {path.stem.split("-")[3] for path in (corrections.folder / split).glob("*.tex")}
        assert len(pictures) == count[split]


def test_nothing_is_saved_above_the_limit(tmp_path: Path) -> None:
    small = Corrections(tmp_path, 2 * len(picture()) + 20)
    small.save(picture(), "x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Full, match="--max-collected"):
        for level in range(1, 9):
            small.save(picture(level), "x")
            before = sorted(tmp_path.rglob("*"))
    assert sorted(tmp_path.rglob("*")) == before
    assert sum(path.stat().st_size for path in before if path.is_file()) <= 2 * len(picture()) + 20


@pytest.mark.parametrize(
    ("latex", "why"),
    [("", "is empty"), ("  % nothing", "is empty"), (r"\frac {", "cannot be used"), ("x\0y", "control characters"),
     ("x" * 501, "more than 500 symbols"), ("x\ud800", "control characters")],
)  # fmt: skip
def test_latex_that_is_no_formula_is_refused(corrections: Corrections, latex: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        corrections.save(picture(), latex)
    assert list(corrections.folder.iterdir()) == []


def test_a_file_that_is_not_a_picture_is_refused(corrections: Corrections) -> None:
    for wrong in (b"", b"no picture", picture()[:60]):
        with pytest.raises(ImageError):
            corrections.save(wrong, "x")
    with pytest.raises(UserError, match="more than 40 characters"):
        corrections.save(picture(), "x", "a" * 41)
    assert list(corrections.folder.iterdir()) == []


def test_a_failed_write_leaves_no_correction(corrections: Corrections, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(Full, match="No space left on device"):
            corrections.save(picture(), "x")
    assert [path for path in corrections.folder.rglob("*") if path.is_file()] == []
    assert corrections.save(picture(), "x").is_new


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--collect"):
        Corrections(tmp_path / "file", 10**6)
