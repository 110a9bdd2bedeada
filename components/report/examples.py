"""The examples of a run: their lengths and sizes, their vocabulary, and what was set aside before."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data.dataset.tfrecords import read_split
from trainer_module.features import SPECIAL_TEXTS

# Names shown of the rejects with the same reason, and tokens shown of those that are not in the vocabulary.
NAMES, TOKENS = 3, 24


class Split(NamedTuple):
    """What was measured of a split."""

    lengths: np.ndarray  # tokens, (examples,)
    widths: np.ndarray  # pixels, of the images as they came
    heights: np.ndarray
    tokens: Counter[str]


def measure(folder: Path) -> Split:
    """Measures the records in the folder of a split.

    Raises:
        UserError: a file is damaged, or holds other records.
    """
    lengths, sizes, tokens = [], [], Counter[str]()
    for record in read_split(folder):
        formula = record.latex.split()
        lengths.append(len(formula))
        tokens.update(formula)
        with Image.open(io.BytesIO(record.image)) as image:  # reads the size alone
            sizes.append(image.size)
    widths, heights = np.array(sizes).reshape(-1, 2).T
    return Split(np.array(lengths), widths, heights, tokens)


def images(folder: Path, numbers: Sequence[int]) -> dict[int, bytes]:
    """The encoded images of some records of a split, by their numbers."""
    wanted = set(numbers)
    return {number: record.image for number, record in enumerate(read_split(folder)) if number in wanted}


class Coverage(NamedTuple):
    """A vocabulary beside the formulas it is to write."""

    size: int  # tokens, without the specials
    tokens: int  # of the formulas
    distinct: int
    unknown: list[tuple[str, int]]  # tokens that are not in the vocabulary, with their counts, the most frequent first
    unknown_distinct: int
    unknown_tokens: int
    formulas: int
    affected: int  # formulas with an unknown token, which no model with this vocabulary can read without a fault
    untried: int  # tokens of the vocabulary that no formula has


def coverage(vocabulary: Sequence[str], formulas: Sequence[str]) -> Coverage:
    """Counts what of the formulas is in a vocabulary, the text of each token id."""
    known = set(vocabulary) - set(SPECIAL_TEXTS)
    counts = Counter(token for formula in formulas for token in formula.split())
    unknown = sorted(((t, n) for t, n in counts.items() if t not in known), key=lambda item: (-item[1], item[0]))
    return Coverage(
        size=len(known),
        tokens=sum(counts.values()),
        distinct=len(counts),
        unknown=unknown[:TOKENS],
        unknown_distinct=len(unknown),
        unknown_tokens=sum(count for _, count in unknown),
        formulas=len(formulas),
        affected=sum(not known.issuperset(formula.split()) for formula in formulas),
        untried=len(known - set(counts)),
    )


class Reason(NamedTuple):
    """Rejects with the same reason."""

    text: str
    records: int
    names: list[str]  # of the first few


class Data(NamedTuple):
    """What a folder of TFRecords says of itself."""

    folder: str
    described: dict[str, Any]  # dataset.json; {} where there is none
    rejects: list[Reason] | None  # None where there is no list
    # Why nothing is said about it, or "".
    error: str = ""


def read_data(folder: str, read_at: int) -> Data:
    """Reads dataset.json and rejects.jsonl.

    Args:
        folder: of TFRecords.
        read_at: when the run read it, milliseconds since 1970; 0 if that is not known.
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
    for line in rejects.read_text("utf-8").split("\n"):
        if line:
            reject = json.loads(line)
            names.setdefault(reject["reason"], []).append(f"{reject['split']}: {reject['name']}")
    found = [Reason(reason, len(of), of[:NAMES]) for reason, of in names.items()]
    return sorted(found, key=lambda reason: (-reason.records, reason.text))
