"""Mines formulas from LaTeX sources into a list, without duplicates, unknown commands and held-out formulas."""

from __future__ import annotations

import functools
import gzip
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data.formulas.documents import closure, find_formulas, roots
from data.formulas.lists import drawn_key, label_of, read_keys, write_list
from data.formulas.macros import MacroError
from data.latex.program import is_local, unknown_command
from data.parallel import ordered_map
from data.spelling import normal_form
from im2latex.errors import UserError
from im2latex.tokenizer import FormulaError, tokenize

_SOURCES = (".tex", ".ltx", ".latex", ".sty", ".cls")
_ARCHIVES = (".gz", ".tgz", ".tar")
# Limits for one file, and for all files of an archive together.
_MAX_BYTES = 32 * 1024 * 1024
_MAX_ARCHIVE_BYTES = 256 * 1024 * 1024


class MinedFormula(NamedTuple):
    """A formula of a document: its tokens, its normal form, and its `drawn_key`."""

    tokens: str
    form: str
    key: str


@dataclass
class Mined:
    """Counts of a mining run.

    Attributes:
      documents: number of documents read.
      written: number of formulas in the list.
      duplicates: number of formulas left out because an earlier one has the same normal form.
      excluded: number of formulas left out because they look the same as a held-out formula.
      rejected: number of formulas left out for other reasons, by reason.
      unreadable: paths of the archives that could not be read.
    """

    documents: int = 0
    written: int = 0
    duplicates: int = 0
    excluded: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)


def mine(
    sources: Sequence[Path],
    out: Path,
    max_tokens: int,
    exclude: Sequence[Path] = (),
    label: str | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Mined:
    """Writes the formulas of LaTeX sources as a list of lines `source<TAB>tokens`.

    Args:
      sources: files, folders, and .tar.gz as from arXiv; folders may contain such archives.
      out: the list to write, gzipped if its name ends in .gz.
      max_tokens: maximum number of tokens in a formula.
      exclude: lists and data sets; formulas that look the same as one of theirs are left out.
      label: the source to write; the name of the file, folder or archive by default.
      workers: number of processes; one per core by default.
      progress: called with the number of documents read since the last call.

    Raises:
      UserError: a source cannot be read, there are no formulas, or the list cannot be written.
    """
    mined = Mined()
    held_out = read_keys(exclude, workers)
    work = (
        (label or label_of(source.name.split(".")[0]), document)
        for source in sources
        for document in _documents(source, mined)
    )
    results = ordered_map(functools.partial(_mine, max_tokens=max_tokens), work, workers)
    write_list(out, _kept(results, mined, held_out, progress))
    if not mined.written:
        raise UserError(
            f"{', '.join(map(str, sources))} contains no LaTeX formulas; give .tex files, or .tar.gz of them"
        )
    return mined


class DocumentFormulas(NamedTuple):
    """The formulas of a document.

    Attributes:
      source: the source to write for its formulas.
      formulas: the formulas, without duplicates.
      duplicates: number of duplicates.
      rejected: number of formulas left out, by reason.
    """

    source: str
    formulas: list[MinedFormula]
    duplicates: int
    rejected: Counter[str]


def _kept(
    results: Iterable[DocumentFormulas], mined: Mined, held_out: set[str], progress: Callable[[int], None] | None
) -> Iterator[tuple[str, str]]:
    """Yields the source and tokens of each formula to write, and updates the counts in `mined`."""
    seen: set[str] = set()
    for result in results:
        mined.documents += 1
        mined.duplicates += result.duplicates
        mined.rejected.update(result.rejected)
        for formula in result.formulas:
            if formula.form in seen:
                mined.duplicates += 1
            elif formula.key in held_out:
                mined.excluded += 1
            else:
                seen.add(formula.form)
                mined.written += 1
                yield result.source, formula.tokens
        if progress is not None:
            progress(1)
    if not mined.written:
        raise UserError("the sources contain no formulas; give files, folders or .tar.gz of LaTeX")


def _mine(work: tuple[str, tuple[str, dict[str, str]]], max_tokens: int) -> DocumentFormulas:
    """Extracts the formulas of a document."""
    source, (root, files) = work
    formulas: dict[str, MinedFormula] = {}
    duplicates = 0
    rejected: Counter[str] = Counter()
    for formula in find_formulas(files, root):
        if isinstance(formula, MacroError):
            rejected[str(formula)] += 1
            continue
        try:
            tokens = tokenize(formula)
            joined = " ".join(tokens)
            if not tokens or len(tokens) > max_tokens:
                rejected[f"more than {max_tokens} tokens" if tokens else "an empty formula"] += 1
            elif not is_local(joined):
                rejected[f"a command that is not known: {unknown_command(joined)}"] += 1
            else:
                form = normal_form(joined)
                duplicates += form in formulas
                formulas.setdefault(form, MinedFormula(joined, form, drawn_key(joined)))
        except FormulaError as error:
            rejected[str(error)] += 1
    return DocumentFormulas(source, list(formulas.values()), duplicates, rejected)


def _documents(source: Path, mined: Mined) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the documents of a source: the name of the main file, and the files that it includes, by name."""
    if source.is_dir():
        files = {}
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            suffix = path.suffix.lower()
            if suffix in _ARCHIVES:
                try:
                    yield from _documents(path, mined)
                except UserError:
                    mined.unreadable.append(str(path))
            elif suffix in _SOURCES:
                files[path.relative_to(source).as_posix()] = _decoded(_read(path))
    elif source.suffix.lower() in _ARCHIVES:
        files = _unpacked(source)
    else:
        files = {source.name: _decoded(_read(source))}
    for root in roots(files):
        yield root, closure(files, root)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error


def _decoded(content: bytes) -> str:
    """Decodes UTF-8, or else Windows-1252, and converts line ends to line feeds."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _unpacked(path: Path) -> dict[str, str]:
    """Reads the LaTeX files of an archive into memory. arXiv also has single files compressed with gzip only."""
    files: dict[str, str] = {}
    left = _MAX_ARCHIVE_BYTES
    try:
        with open(path, "rb") as raw:
            if not tarfile.is_tarfile(raw):
                raw.seek(0)
                return {path.stem: _decoded(gzip.GzipFile(fileobj=raw).read(_MAX_BYTES))}
            raw.seek(0)
            with tarfile.open(fileobj=raw) as archive:
                for member in archive:
                    name = PurePosixPath(member.name)
                    content = archive.extractfile(member) if member.isfile() else None
                    if content and name.suffix.lower() in _SOURCES and member.size <= min(left, _MAX_BYTES):
                        left -= member.size
                        files[str(name)] = _decoded(content.read())
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(f"{path} is not a readable archive of LaTeX ({error}); download it again") from error
    return files
