"""Import format: the raw im2latex-100k, with full pages.

Files: formulas.lst and {train,validate,test}.lst (with the prefix im2latex_ in the download) with lines `<formula line>
<image> <rendering>`, and full pages in a folder or a .tar.gz. The import crops pages to the ink, adds a border and
halves them as im2markup does, and tokenises formulas. Formula lines are numbered from 0 and end with a line feed only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.importers.source import Candidate, Files, Format, read_lists

FORMULAS, LISTS = "*formulas.lst", "*.lst"


def _detect(files: Files) -> bool:
    return bool(files.matching(FORMULAS))


def _read(files: Files, vocabulary: Path | None) -> Iterator[Candidate]:
    return read_lists(files, FORMULAS, LISTS, name_first=False, suffix=".png")


def _splits(files: Files) -> set[str]:
    return {Path(name).stem.removeprefix("im2latex_") for name in files.matching(LISTS)}


FORMAT = Format("raw", "the raw im2latex-100k, with full pages", "formulas.lst", _detect, _read, _splits, raw=True)
