"""Measures the examples of a run: lengths, sizes, vocabulary, and the records that the import rejected."""

from __future__ import annotations

import array
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data.dataset.tfrecords import read_split
from trainer_module.features import SPECIAL_TEXTS

# How many names of rejects with the same reason are shown, and how many tokens outside the vocabulary.
NAMES, TOKENS = 3, 24


class Split(NamedTuple):
    """Measurements of a split."""

    lengths: np.ndarray  # of the formulas, tokens, (examples,)
    widths: np.ndarray  # of the original images, pixels, (examples,)
    heights: np.ndarray
    tokens: Counter[str]


def measure(folder: Path) -> Split:
    """Measures the records in a split's folder.

    Raises:
        UserError: a file is damaged, or holds records of another kind.
    """
    lengths, widths, heights = (array.array("i") for _ in range(3))  # a list would take 100 bytes for an example
    tokens = Counter[str]()
    for record in read_split(folder):
        formula = record.latex.split()
        lengths.append(len(formula))
        tokens.update(formula)
        with Image.open(io.BytesIO(record.image)) as image:  # decodes the header only
            widths.append(image.width)
            heights.append(image.height)
    return Split(np.array(lengths), np.array(widths), np.array(heights), tokens)


def images(folder: Path, numbers: Sequence[int]) -> dict[int, bytes]:
    """Reads the encoded images of some records of a split, by record number."""
    needed = set(numbers)
    return {number: record.image for number, record in enumerate(read_split(folder)) if number in needed}


class Coverage(NamedTuple):
    """How much of some formulas a vocabulary covers."""

    size: int  # of the vocabulary, without special tokens
    tokens: int  # in all formulas
    distinct: int  # distinct tokens in the formulas
    unknown: list[tuple[str, int]]  # the most frequent tokens outside the vocabulary, with counts, in descending order
    unknown_distinct: int  # distinct tokens outside the vocabulary
    unknown_tokens: int  # their number in all formulas
    formulas: int
    affected: int  # formulas with an unknown token, which a model with this vocabulary cannot predict exactly
    untried: int  # tokens of the vocabulary that occur in no formula


def coverage(vocabulary: Sequence[str], formulas: Iterable[str]) -> Coverage:
    """Compares formulas with a vocabulary, which is the text of each token id."""
    known = set(vocabulary) - set(SPECIAL_TEXTS)
    counts, total, affected = Counter[str](), 0, 0
    for formula in formulas:
        tokens = formula.split()
        counts.update(tokens)
        total += 1
        affected += not known.issuperset(tokens)
    unknown = sorted(((t, n) for t, n in counts.items() if t not in known), key=lambda item: (-item[1], item[0]))
    return Coverage(
        size=len(known),
        tokens=sum(counts.values()),
        distinct=len(counts),
        unknown=unknown[:TOKENS],
        unknown_distinct=len(unknown),
        unknown_tokens=sum(count for _, count in unknown),
        formulas=total,
        affected=affected,
        untried=len(known - set(counts)),
    )


class Reason(NamedTuple):
    """The rejects with the same reason."""

    text: str
    records: int
    names: list[str]  # of the first few


class Data(NamedTuple):
    """The description of a folder of TFRecords."""

    folder: str
    described: dict[str, Any]  # content of dataset.json; {} if it is not used
    rejects: list[Reason] | None  # None if there is no rejects.jsonl
    error: str = ""  # why the description is missing


def read_data(folder: str, read_at: int) -> Data:
    """Reads dataset.json and rejects.jsonl.

    Args:
        folder: folder of TFRecords.
        read_at: time at which the run read the folder, milliseconds since 1970; 0 if unknown.
    """
    path = Path(folder, "dataset.json")
    if "://" in folder:
        return Data(folder, {}, None, "The folder is in a bucket, which the report does not read.")
    if not Path(folder).is_dir():
        return Data(folder, {}, None, "The folder no longer exists.")
    if not path.is_file():
        return Data(
            folder, {}, None, "The folder has no dataset.json, so its source and its rejected records are unknown."
        )
    if read_at and path.stat().st_mtime * 1000 > read_at:
        return Data(folder, {}, None, "The data set was made again after this run had read it.")
    described = json.loads(path.read_text("utf-8"))
    rejects = Path(folder, "rejects.jsonl")
    return Data(folder, described, _reasons(rejects) if rejects.is_file() else None)


def _reasons(rejects: Path) -> list[Reason]:
    names: dict[str, list[str]] = {}
    records: Counter[str] = Counter()
    with rejects.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            reject = json.loads(line)
            records[reject["reason"]] += 1
            if len(first := names.setdefault(reject["reason"], [])) < NAMES:
                first.append(f"{reject['split']}: {reject['name']}")
    reasons = [Reason(text, records[text], first) for text, first in names.items()]
    return sorted(reasons, key=lambda reason: (-reason.records, reason.text))
