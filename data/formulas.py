"""Lists of formulas: what `im2latex data draw`, `mine` and `recombine` read and write.

A list is a text file, gzipped or not, with a formula a line, raw or tokenised, or `source<TAB>formula`. Data sets of
`data.records` and folders in the layout of the processed im2latex-100k are read as well, with their splits.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from data.errors import UserError
from data.im2latex import SPLIT_NAMES, Files
from data.parallel import ordered_map
from data.records import SPLITS, is_dataset, read_records
from data.tokenizer import FormulaError, tokenize

_CHUNK = 2000


class Formula(NamedTuple):
    """A formula: its tokens separated by one space, where it is from, and its split, empty where it has none."""

    tokens: str
    source: str
    split: str = ""


class Line(NamedTuple):
    """A formula as it was read; `where` is its file and line."""

    latex: str
    source: str
    split: str
    where: str


class Problem(NamedTuple):
    """A line that is no formula, and why."""

    where: str
    reason: str
    split: str


def read_formulas(
    paths: Iterable[Path],
    max_tokens: int,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Formula | Problem]:
    """The formulas of lists, data sets and folders, tokenised, in order.

    Args:
      paths: what to read.
      max_tokens: of the longest formula.
      workers: processes, otherwise one for each core.
      progress: called with the number of formulas read since the last call.

    Raises:
      UserError: a path that cannot be read or holds no formulas.
    """
    for chunk in ordered_map(_tokenized, _chunks(paths, max_tokens), workers):
        yield from chunk
        if progress is not None:
            progress(len(chunk))


def read_lines(path: Path) -> Iterator[Line]:
    """The formulas of a list, a data set or a folder, as they stand there.

    Raises:
      UserError: the path cannot be read or holds no formulas.
    """
    if path.is_dir() and is_dataset(path):
        for split in SPLITS:
            if any(path.joinpath(split).iterdir()):
                for number, record in enumerate(read_records(path / split)):
                    yield Line(record.latex, _label(path.name), split, f"{path / split}, record {number}")
    elif path.is_dir():
        yield from _read_folder(path)
    else:
        yield from _read_list(path)


def drawn_key(tokens: str) -> str:
    """What two formulas share if they differ by braces and spaces alone, which rarely draw."""
    return _UNDRAWN.sub("", f" {tokens} ")


# Spaces of LaTeX's, and braces that are tokens of their own; blanks between tokens go with them.
_UNDRAWN = re.compile(r"(?<= )(?:[{}~]|\\|\\[,;:!>]|\\q?quad)(?= )| ")


def _label(name: str) -> str:
    """A source's name for the name of a record, where semicolons separate."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name)


def _chunks(paths: Iterable[Path], max_tokens: int) -> Iterator[tuple[list[Line], int]]:
    for path in paths:
        chunk: list[Line] = []
        for line in read_lines(path):
            chunk.append(line)
            if len(chunk) == _CHUNK:
                yield chunk, max_tokens
                chunk = []
        yield chunk, max_tokens


def _tokenized(work: tuple[list[Line], int]) -> list[Formula | Problem]:
    lines, max_tokens = work
    found: list[Formula | Problem] = []
    for line in lines:
        try:
            tokens = tokenize(line.latex)
        except FormulaError as error:
            found.append(Problem(line.where, str(error), line.split))
            continue
        if not tokens or len(tokens) > max_tokens:
            reason = f"more than {max_tokens} tokens" if tokens else "empty formula"
            found.append(Problem(line.where, reason, line.split))
        else:
            found.append(Formula(" ".join(tokens), line.source, line.split))
    return found


def _read_list(path: Path) -> Iterator[Line]:
    name = _label(path.name.split(".")[0])
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            for number, content in enumerate(gzip.GzipFile(fileobj=raw) if zipped else raw, start=1):
                line = content.decode("utf-8", "replace").rstrip("\r\n")
                source, tab, latex = line.rpartition("\t")
                if latex.strip():
                    yield Line(latex, _label(source) if tab else name, "", f"{path}:{number}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is cut off or damaged; make or download it again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a list of formulas or a data set") from error


def _read_folder(path: Path) -> Iterator[Line]:
    """The processed im2latex-100k, without its images."""
    files = Files(path)
    names, lists = files.matching("*formulas*.lst"), files.matching("*_filter.lst")
    if len(names) != 1 or not lists:
        raise UserError(
            f"{path} is neither a data set nor a folder with im2latex_formulas.norm.lst and im2latex_*_filter.lst; "
            "give one of these, or a list of formulas"
        )
    formulas = files.read(names[0]).decode("utf-8", "replace").removesuffix("\n").split("\n")
    for name in lists:
        split = SPLIT_NAMES.get(Path(name).stem.removeprefix("im2latex_").removesuffix("_filter"))
        for number, row in enumerate(files.read(name).decode("utf-8", "replace").splitlines(), start=1):
            place = row.split()[1:2]
            if split is None or not place or not place[0].isdecimal() or int(place[0]) >= len(formulas):
                raise UserError(f"{path / name}, line {number}: no formula line of a known split; correct the list")
            yield Line(formulas[int(place[0])], _label(path.name), split, f"{name}:{number}")


def digest(text: str) -> str:
    """Twelve hexadecimal digits for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
