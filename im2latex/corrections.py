"""Corrections that people make on the page of the service: pictures with their LaTeX, for the next training.

    train/correction-20261127T150423Z-ada-3f2a9c81d0e4-b7aa12cd.png    pixels alone, without the metadata of the file
    train/correction-20261127T150423Z-ada-3f2a9c81d0e4-b7aa12cd.tex    tokens, separated by one space

The name has the time in UTC, the person, and digests of the picture and of the tokens. `im2latex data import` reads the
folder.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from im2latex.errors import UserError
from im2latex.pictures import without_metadata
from im2latex.tokenizer import FormulaError, tokenize

PREFIX = "correction-"
ANONYMOUS = "anonymous"
LONGEST_NAME = 40
MOST_TOKENS = 500
# The split of the first corrections; further ones repeat this order. So a few are enough for every split.
SPLITS = ("train", "test", "train", "eval", "train")
_NO_WORD = re.compile(r"[^\w.]+")


class Full(Exception):
    """There is no room for another correction; the message says why."""


class Saved(NamedTuple):
    """A saved correction."""

    name: str  # of its files, without suffix
    is_new: bool  # False if the same correction of the same picture was saved before


def is_correction(name: str) -> bool:
    """Returns whether a record with this name is a correction."""
    return name.startswith(PREFIX)


class Corrections:
    """A folder of corrections. Several services may share it; files may be added, edited and removed at any time.

    Args:
        folder: the folder, made if it does not exist.
        max_bytes: maximum size of all files.
        now: returns the time in UTC.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.timezone.utc),
    ) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._now = now
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UserError(
                f"corrections cannot be saved in {folder} ({error.strerror}); choose another --collect"
            ) from None

    def save(self, image: bytes, latex: str, person: str = "") -> Saved:
        """Saves a correction; only one thread at a time may call this.

        A picture that was corrected before stays in its split, so that no model is evaluated on a picture that it has
        learned from.

        Args:
            image: bytes of an image file.
            latex: its LaTeX.
            person: who corrected it; what is no letter, digit or dot becomes an underscore.

        Raises:
            Full: the limit is reached, or the files cannot be written.
            UserError: the image, the LaTeX or the name cannot be used.
        """
        tokens = _tokens(latex)
        if len(person) > LONGEST_NAME:
            raise UserError(f"the name has more than {LONGEST_NAME} characters; shorten it")
        who = _NO_WORD.sub("_", person).strip("_") or ANONYMOUS
        png, text = without_metadata(image), f"{tokens}\n".encode()
        of_picture, of_tokens = hashlib.sha256(png).hexdigest()[:12], hashlib.sha256(text).hexdigest()[:8]
        try:
            files = [path for split in set(SPLITS) for path in (self.folder / split).glob("*.*")]
            saved = [path for path in files if path.suffix == ".tex" and is_correction(path.name)]
            for path in saved:
                if path.stem.endswith(f"-{of_picture}-{of_tokens}"):
                    return Saved(path.stem, False)
            same = [path.parent.name for path in saved if f"-{of_picture}-" in path.stem]
            split = same[0] if same else SPLITS[len(saved) % len(SPLITS)]
            if sum(path.stat().st_size for path in files) + len(png) + len(text) > self._max_bytes:
                raise Full("the folder for corrections is full; its operator can raise --max-collected")
            name = f"{PREFIX}{self._now():%Y%m%dT%H%M%SZ}-{who}-{of_picture}-{of_tokens}"
            # The import takes a picture only with its LaTeX, so what a killed service leaves is no correction.
            for suffix, content in ((".png", png), (".tex", text)):
                _write(self.folder / split / f"{name}{suffix}", content)
        except OSError as error:
            raise Full(
                f"the correction cannot be written ({error.strerror}); tell the operator of the service"
            ) from None
        return Saved(name, True)


def _tokens(latex: str) -> str:
    """Returns LaTeX as tokens, separated by one space.

    Raises:
        UserError: it has no tokens, too many, or cannot be read.
    """
    try:
        tokens = tokenize(latex)
    except FormulaError as error:
        raise UserError(f"the LaTeX cannot be used ({error}); correct it") from None
    if not tokens:
        raise UserError("the LaTeX is empty; write what the picture shows")
    if not "".join(tokens).isprintable():
        raise UserError("the LaTeX has control characters; remove them")
    if len(tokens) > MOST_TOKENS:
        raise UserError(f"the LaTeX has more than {MOST_TOKENS} symbols; send a part of the picture")
    return " ".join(tokens)


def _write(file: Path, content: bytes) -> None:
    """Writes a file atomically."""
    file.parent.mkdir(exist_ok=True)
    partial = file.with_name(f".{file.name}.writing")
    try:
        with partial.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
