"""Import format: pictures with their LaTeX, NAME.png and NAME.tex, in one folder, or in folders train, eval and test.

`im2latex serve --collect` saves corrections in this way. Pictures without LaTeX are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.dataset.record import SPLITS
from data.importers.archive import IMAGES
from data.importers.source import Candidate, Files, Format
from im2latex.tokenizer import FormulaError, tokenize

LATEX = "*.tex"


def _folders(files: Files) -> dict[str, Path]:
    """Returns the folders with LaTeX, by split; a folder without folders of splits is all of train."""
    if not files.source.is_dir():
        return {}
    folders = {split: files.source / split for split in SPLITS}
    with_latex = {split: folder for split, folder in folders.items() if any(folder.glob(LATEX))}
    return with_latex or ({"train": files.source} if files.matching(LATEX) else {})


def _detect(files: Files) -> bool:
    return bool(_folders(files))


def _read(files: Files, vocabulary: Path | None) -> Iterator[Candidate]:
    for split, folder in _folders(files).items():
        pictures = {path.stem: path for path in sorted(folder.iterdir()) if path.name.lower().endswith(IMAGES)}
        for path in sorted(folder.glob(LATEX)):
            picture = pictures.get(path.stem)
            if picture is None:
                yield Candidate(split, path.stem, b"", b"", "missing image file")
                continue
            try:
                tokens = tokenize(path.read_text("utf-8"))
            except UnicodeDecodeError:
                yield Candidate(split, path.stem, b"", b"", "bad UTF-8")
            except FormulaError as error:
                yield Candidate(split, path.stem, b"", b"", f"unreadable formula: {error}")
            else:
                yield Candidate(split, path.stem, picture, " ".join(tokens).encode())


def _splits(files: Files) -> set[str]:
    return set(_folders(files))


FORMAT = Format(
    "pairs", "pictures with .tex files of the same names, such as corrections", "*.tex", _detect, _read, _splits
)
