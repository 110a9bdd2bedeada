"""Reads and writes lists of formulas, for `im2latex data draw`, `mine` and `recombine`.

A list is a text file, gzipped or not, with one formula per line, raw or tokenised, or `source<TAB>formula`. Data sets
and folders in the layout of the processed im2latex-100k can be read too, with their splits.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from data.dataset.record import SPLITS
from data.dataset.tfrecords import read_records
from data.dataset.writer import is_dataset
from data.files import atomic_file
from data.importers.convert import CONTROL, MAX_FORMULA_BYTES
from data.importers.source import NOT_REGULAR, SPLIT_NAMES, FileLines, Files, line_number, without_mark
from data.parallel import ordered_map
from data.spelling import normal_form
from im2latex.errors import UserError
from im2latex.tokenizer import FormulaError, tokenize

_CHUNK = 2000


class Formula(NamedTuple):
    """A tokenised formula.

    Attributes:
      tokens: its tokens, separated by one space.
      source: name of its source, without spaces or semicolons.
      split: train, eval, test, or empty if its source has no splits.
      key: its `drawn_key`.
    """

    tokens: str
    source: str
    split: str
    key: str


class ListedFormula(NamedTuple):
    """A formula as it was read; `where` names its file and line."""

    latex: str
    source: str
    split: str
    where: str


class Problem(NamedTuple):
    """A line that is not a valid formula, and the reason."""

    where: str
    reason: str
    split: str


def read_formulas(
    paths: Iterable[Path],
    max_tokens: int,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Formula | Problem]:
    """Yields the formulas of lists, data sets and folders, tokenised, in order; problems in place of unusable lines.

    Args:
      paths: lists, data sets and folders.
      max_tokens: maximum number of tokens; longer formulas become problems.
      workers: number of processes; one per core by default.
      progress: called with the number of formulas read since the last call.

    Raises:
      UserError: a path cannot be read or is neither of these.
    """
    for chunk in ordered_map(_tokenized, _chunks(paths, max_tokens), workers):
        yield from chunk
        if progress is not None:
            progress(len(chunk))


def read_keys(paths: Iterable[Path], workers: int | None = None) -> set[str]:
    """Returns the `drawn_key`s of all formulas of lists, data sets and folders.

    Raises:
      UserError: as `read_formulas`.
    """
    return {formula.key for formula in read_formulas(paths, sys.maxsize, workers) if isinstance(formula, Formula)}


def read_lines(path: Path) -> Iterator[ListedFormula]:
    """Yields the formulas of a list, a data set or a folder without tokenising them.

    Raises:
      UserError: the path cannot be read or is neither of these.
    """
    if path.is_dir() and is_dataset(path):
        for split in SPLITS:
            if any(path.joinpath(split).iterdir()):
                for number, record in enumerate(read_records(path / split)):
                    yield ListedFormula(record.latex, label_of(path.name), split, f"{path / split}, record {number}")
    elif path.is_dir():
        yield from _read_folder(path)
    else:
        yield from _read_list(path)


def drawn_key(tokens: str) -> str:
    """Returns a key that is equal for formulas that look the same: the normal form without braces and spaces.

    Raises:
      FormulaError: the formula cannot be parsed.
    """
    return " ".join(token for token in normal_form(tokens).split() if token not in _UNDRAWN)


_UNDRAWN = {"{", "}", "~", "\\", "\\quad"}


def label_of(name: str) -> str:
    """Returns a source's name in a form that fits into a record's name, without semicolons and spaces."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name)


def _chunks(paths: Iterable[Path], max_tokens: int) -> Iterator[tuple[list[ListedFormula], int]]:
    for path in paths:
        chunk: list[ListedFormula] = []
        for line in read_lines(path):
            chunk.append(line)
            if len(chunk) == _CHUNK:
                yield chunk, max_tokens
                chunk = []
        yield chunk, max_tokens


def _tokenized(work: tuple[list[ListedFormula], int]) -> list[Formula | Problem]:
    lines, max_tokens = work
    results: list[Formula | Problem] = []
    for line in lines:
        if CONTROL.search(line.latex):
            results.append(Problem(line.where, "control character in the formula", line.split))
            continue
        try:
            tokens = tokenize(line.latex)
            joined = " ".join(tokens)
            key = drawn_key(joined)
        except FormulaError as error:
            results.append(Problem(line.where, str(error), line.split))
            continue
        if not tokens or len(tokens) > max_tokens:
            reason = f"more than {max_tokens} tokens" if tokens else "empty formula"
            results.append(Problem(line.where, reason, line.split))
        else:
            results.append(Formula(joined, line.source, line.split, key))
    return results


def _read_list(path: Path) -> Iterator[ListedFormula]:
    name = label_of(path.name.split(".")[0])
    if path.exists() and not path.is_file():  # opening a pipe would wait for another process
        raise UserError(f"{path} is a {NOT_REGULAR}; give a list of formulas or a data set")
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = gzip.GzipFile(fileobj=raw) if zipped else raw
            # A line without an end is read up to a limit, which is beyond that of a formula.
            lines = iter(functools.partial(stream.readline, 2 * MAX_FORMULA_BYTES), b"")
            for number, content in enumerate(lines, start=1):
                if number == 1:
                    content = without_mark(content, str(path))
                if len(content) == 2 * MAX_FORMULA_BYTES:
                    raise UserError(f"{path}, line {number} is longer than a formula; check that it is the right file")
                line = content.decode("utf-8", "replace").rstrip("\r\n")
                source, tab, latex = line.rpartition("\t")
                if latex.strip():
                    yield ListedFormula(latex, label_of(source) if tab else name, "", f"{path}:{number}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is cut off or damaged; make or download it again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a list of formulas or a data set") from error


def _read_folder(path: Path) -> Iterator[ListedFormula]:
    """Yields the formulas of the processed im2latex-100k; images are not needed."""
    files = Files(path)
    names, lists = files.matching("*formulas*.lst"), files.matching("*_filter.lst")
    if len(names) != 1 or not lists:
        raise UserError(
            f"{path} is neither a data set nor a folder with im2latex_formulas.norm.lst and im2latex_*_filter.lst; "
            "name one of these, or a list of formulas"
        )
    formulas = FileLines(files.read(names[0]))
    for name in lists:
        split = SPLIT_NAMES.get(Path(name).stem.removeprefix("im2latex_").removesuffix("_filter"))
        for number, row in enumerate(FileLines(files.read(name)), start=1):
            line = [line_number(field) for field in row.decode("utf-8", "replace").split()[1:2]]
            if split is None or not line or line[0] >= len(formulas):
                raise UserError(
                    f"{path / name}, line {number}: the split is unknown, or the list of formulas has no such line; "
                    "correct the list"
                )
            latex = formulas[line[0]].decode("utf-8", "replace")
            yield ListedFormula(latex, label_of(path.name), split, f"{name}:{number}")


def write_list(path: Path, formulas: Iterable[tuple[str, str]]) -> None:
    """Writes a list of formulas atomically, gzipped if its name ends in .gz.

    Args:
      path: the file to write.
      formulas: source and tokens of each formula.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        # The gzip header has no name and no time, so that the same formulas give the same bytes.
        with atomic_file(path) as raw, contextlib.ExitStack() as stack:
            file: IO[bytes] | gzip.GzipFile = raw
            if path.name.endswith(".gz"):
                file = stack.enter_context(gzip.GzipFile("", "wb", fileobj=raw, mtime=0))
            for source, tokens in formulas:
                file.write(f"{source}\t{tokens}\n".encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --out") from error


def digest(text: str) -> str:
    """Returns the first twelve hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
