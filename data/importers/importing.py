"""Imports a data set in any format that `data.importers.formats` lists."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from data.dataset.writer import DatasetSummary, DatasetWriter
from data.defaults import EVAL_SHARE, MAX_REJECTED_SHARE, MAX_TOKENS, TEST_SHARE
from data.importers.convert import convert_chunk
from data.importers.formats import FORMATS
from data.importers.source import SPLIT_NAMES, Candidate, Files, Format, image_size
from data.parallel import ordered_map
from data.spelling import NORMAL, known_spelling
from im2latex.errors import UserError

# Several chunks are in memory at once.
_CHUNK, _CHUNK_BYTES = 128, 16 << 20


def _fraction(name: str, salt: str) -> float:
    """Returns a number in [0, 1) that depends on the name and the salt only."""
    return int.from_bytes(hashlib.sha256(f"{salt} {name}".encode()).digest()[:6], "big") / 2**48


def hold_out(
    candidates: Iterable[Candidate], present: set[str], eval_share: float, test_share: float
) -> Iterator[Candidate]:
    """Fills splits that the source has no list for: eval from train, then test from eval, by a hash of the name."""
    for candidate in candidates:
        split = candidate.split
        if "eval" not in present and split == "train" and _fraction(candidate.name, "eval") < eval_share:
            split = "eval"
        if "test" not in present and split == "eval" and _fraction(candidate.name, "test") < test_share:
            split = "test"
        yield candidate._replace(split=split)


def repeated(candidates: Iterable[Candidate], times: int) -> Iterator[Candidate]:
    """Repeats the candidates of train; the names of repetitions end with ~2, ~3 and so on."""
    for candidate in candidates:
        yield candidate
        for number in range(2, times + 1 if candidate.split == "train" else 0):
            yield candidate._replace(name=f"{candidate.name}~{number}")


def sampled(candidates: Iterable[Candidate], share: float) -> Iterator[Candidate]:
    """Leaves out candidates of train except for a share, chosen by a hash of the name."""
    return (one for one in candidates if one.split != "train" or _fraction(one.name, "sample") < share)


class OpenedSource(NamedTuple):
    """An opened source.

    Attributes:
      format: its format.
      files: its files; those of archives are there as long as this object is.
      candidates: its records, in the splits of the source's own lists.
      splits: the splits that the source has lists for.
    """

    format: Format
    files: Files
    candidates: Iterator[Candidate]
    splits: set[str]


def open_source(
    source: Path, layout: str | None = None, vocabulary: Path | None = None, scratch: Path | None = None
) -> OpenedSource:
    """Opens a source and detects its format.

    Args:
      source, layout, vocabulary: as in `import_dataset`.
      scratch: folder for the files of archives; None for the system's folder of temporary files.

    Raises:
      UserError: the format is unknown or the source is incomplete. Some gaps show only while the candidates are read.
    """
    files = Files(source, scratch)
    form = _named(layout) if layout else _detected(files)
    splits = {SPLIT_NAMES[name] for name in form.splits(files) if name in SPLIT_NAMES}
    return OpenedSource(form, files, form.read(files, vocabulary), splits)


def _named(name: str) -> Format:
    if name not in FORMATS:
        raise UserError(f"there is no format {name}; the formats are {', '.join(FORMATS)}")
    return FORMATS[name]


def _detected(files: Files) -> Format:
    for form in FORMATS.values():
        if form.detect(files):
            return form
    raise UserError(
        f"{files.source} has none of the known layouts ({', '.join(form.looks_like for form in FORMATS.values())}); "
        "check the folder, or name the layout with --format"
    )


def import_dataset(
    source: Path | str,
    out: Path | str,
    layout: str | None = None,
    vocabulary: Path | None = None,
    max_tokens: int = MAX_TOKENS,
    eval_share: float = EVAL_SHARE,
    test_share: float = TEST_SHARE,
    allow_rejects: float = MAX_REJECTED_SHARE,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    overwrite: bool = False,
    spelling: str = NORMAL,
    repeat: int = 1,
    added: Path | None = None,
    added_share: float = 1.0,
) -> DatasetSummary:
    """Imports a data set in any of the formats.

    Args:
      source: a folder or .tar.gz in one of the formats.
      out: the folder to make.
      layout: name of the format, one of FORMATS; detected by default.
      vocabulary: file of tokens, for the format tfrecords; by default latex_vocab.txt in the source.
      max_tokens: formulas with more tokens are rejected.
      eval_share: share of train to use for eval if the source has no validation list.
      test_share: share of eval to use for test if the source has no test list.
      allow_rejects: maximum share of rejected records; with more, nothing is written.
      workers: number of processes; one per core by default.
      progress: called with the number of records processed since the last call.
      overwrite: also replace a folder that is not a data set.
      spelling: spelling of the formulas, see `data.spelling.respell`.
      repeat: number of times to write each training record of `source`.
      added: another data set, in any format, whose records are written too.
      added_share: share of its training records to write.

    Returns:
      Summary of the written data set.

    Raises:
      UserError: the source is incomplete, its format or the spelling is unknown, too many records were rejected, or
        `out` cannot be written.
    """
    source, parent = Path(source), Path(out).absolute().parent
    opened = open_source(source, layout, vocabulary, parent if parent.is_dir() else None)
    form, candidates, splits = opened.format, opened.candidates, opened.splits
    held_out = {
        split: f"{share:.0%} of {origin}"
        for split, share, origin in (("eval", eval_share, "train"), ("test", test_share, "eval"))
        if split not in splits
    }
    details = {"layout": form.name, "max_tokens": max_tokens, "held_out": held_out, "spelling": spelling}
    if repeat > 1:
        details["repeat"] = repeat
    sources = [(form, repeated(hold_out(candidates, splits, eval_share, test_share), repeat))]
    if added is not None:
        other = open_source(added, scratch=parent if parent.is_dir() else None)
        details |= {"added": added.name, "added_share": added_share}
        sources.append(
            (other.format, sampled(hold_out(other.candidates, other.splits, eval_share, test_share), added_share))
        )
    with DatasetWriter(out, source.name, details, allow_rejects, overwrite) as writer:
        for form, candidates in sources:
            convert_all = functools.partial(
                convert_chunk, raw=form.raw, max_tokens=max_tokens, spelling=known_spelling(spelling)
            )
            for converted in ordered_map(convert_all, chunked(candidates), workers):
                for split, name, outcome in converted:
                    if isinstance(outcome, bytes):
                        writer.write_encoded(split, outcome)
                    else:
                        writer.reject(split, name, outcome)
                if progress is not None:
                    progress(len(converted))
    assert writer.summary is not None
    return writer.summary


def chunked(candidates: Iterable[Candidate]) -> Iterator[list[Candidate]]:
    """Divides candidates into lists of at most `_CHUNK`, with images of about `_CHUNK_BYTES` at most."""
    chunk: list[Candidate] = []
    size = 0
    for candidate in candidates:
        chunk.append(candidate)
        size += image_size(candidate.image)
        if len(chunk) == _CHUNK or size > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
