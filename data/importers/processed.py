"""Import format: the processed im2latex-100k, whose images and tokens are ready to use.

Files: im2latex_formulas.norm.lst, im2latex_{train,validate,test}_filter.lst with lines `<image> <formula line>`, and
images in a folder or a .tar.gz. Formula lines are numbered from 0 and end with a line feed only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.importers.source import Candidate, Files, Format, read_lists

LISTS = "*_filter.lst"


def _detect(files: Files) -> bool:
    return bool(files.matching(LISTS))


def _read(files: Files, vocabulary: Path | None) -> Iterator[Candidate]:
    return read_lists(files, "*formulas.norm.lst", LISTS, name_first=True, suffix="")


def _splits(files: Files) -> set[str]:
    return {name.removeprefix("im2latex_").removesuffix("_filter.lst") for name in files.matching(LISTS)}


FORMAT = Format("processed", "the processed im2latex-100k", "im2latex_*_filter.lst", _detect, _read, _splits)
