"""The raw im2latex-100k, with full pages.

formulas.lst, {train,validate,test}.lst (in the download with im2latex_ before) with lines `<formula line> <image>
<rendering>`, full pages in a folder or a .tar.gz. Pages are cropped to the ink, bordered and halved as im2markup does,
formulas are tokenised. Formula lines count from 0 and end with a line feed and nothing else.
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
