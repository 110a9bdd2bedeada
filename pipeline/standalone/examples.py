"""The examples of a data set in any format that can be imported, and their vocabulary, in memory."""

from __future__ import annotations

import functools
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.dataset.record import BadRecord, decode
from data.dataset.tfrecords import read_records
from data.defaults import EVAL_SHARE, MAX_REJECTED_SHARE, MAX_TOKENS, TEST_SHARE
from data.importers.convert import convert
from data.importers.importing import chunked, hold_out, open_source
from data.importers.source import Candidate
from data.parallel import ordered_map
from data.spelling import NORMAL
from im2latex.errors import UserError
from im2latex.images import normalise
from pipeline.standalone import say
from trainer_module.batching import Example
from trainer_module.config.image import ImageConfig
from trainer_module.features import SPECIAL_TEXTS, UNKNOWN


class Formula(NamedTuple):
    """An example before there is a vocabulary."""

    example: Example  # without tokens
    latex: str  # tokens separated by spaces
    name: str

    def numbered(self, ids: Mapping[str, int]) -> Example:
        """The example with the ids of its tokens."""
        tokens = [ids.get(token, UNKNOWN) for token in self.latex.split()]
        return self.example._replace(tokens=np.array(tokens, np.int32))


def read_splits(
    source: Path, config: ImageConfig, limit: int | None = None, spelling: str = NORMAL
) -> tuple[list[Formula], list[Formula]]:
    """The training and the validation examples of a source, their images normalised on all cores.

    Args:
        source: whatever `im2latex data import` takes, or a folder of TFRecords with train/ and eval/.
        config: how to normalise images.
        limit: read at most so many records of each split; None: all.
        spelling: of the formulas, as `data.spelling.respell` takes it.

    Raises:
        UserError: there is no such source, a split is empty, or too many records are bad.
    """
    candidates, raw = _candidates(source)
    splits: dict[str, list[Formula]] = {"train": [], "eval": []}
    reasons: Counter[str] = Counter()
    chunks = chunked(_limited(candidates, splits, limit))
    for prepared in ordered_map(functools.partial(_prepare, raw=raw, config=config, spelling=spelling), chunks):
        for split, outcome in prepared:
            if isinstance(outcome, Formula):
                splits[split].append(outcome)
            else:
                reasons[outcome] += 1
    bad = sum(reasons.values())
    total = bad + sum(len(formulas) for formulas in splits.values())
    common = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    if bad > MAX_REJECTED_SHARE * total:
        raise UserError(f"{bad:,} of {total:,} records of {source} are unusable ({common}); check the data")
    if bad:
        say(f"left out {bad:,} unusable records ({common})")
    for name, formulas in splits.items():
        if not formulas:
            raise UserError(f"{source} has no examples for {name}; check the data")
    return splits["train"], splits["eval"]


def _candidates(source: Path) -> tuple[Iterator[Candidate], bool]:
    """The records of a source in the splits that an import gives them, and whether its images are full pages."""
    if (source / "train").is_dir():
        records = ((split, record) for split in ("train", "eval") for record in read_records(source / split))
        return (Candidate(split, record.name, record.image, record.latex.encode()) for split, record in records), False
    form, candidates, splits = open_source(source)
    return hold_out(candidates, splits, EVAL_SHARE, TEST_SHARE), form.raw


def _limited(candidates: Iterable[Candidate], splits: Iterable[str], limit: int | None) -> Iterator[Candidate]:
    seen = dict.fromkeys(splits, 0)
    for candidate in candidates:
        if candidate.split in seen and (limit is None or seen[candidate.split] < limit):
            seen[candidate.split] += 1
            yield candidate


def _prepare(chunk: list[Candidate], raw: bool, config: ImageConfig, spelling: str) -> list[tuple[str, Formula | str]]:
    """Of each candidate its split, and what it holds or the reason it is bad."""
    prepared: list[tuple[str, Formula | str]] = []
    for candidate in chunk:
        try:
            record = decode(convert(candidate, raw, MAX_TOKENS, spelling))
        except BadRecord as error:
            prepared.append((candidate.split, error.reason))
            continue
        pixels, file = normalise(record.image, config), io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        height, width = pixels.shape
        example = Example(file.getvalue(), height, width, np.zeros(0, np.int32))
        prepared.append((candidate.split, Formula(example, record.latex, record.name)))
    return prepared


def make_vocabulary(latex: Iterable[str], min_count: int) -> list[str]:
    """The text of every token id, as Transform numbers them: the specials, then the tokens.

    The most frequent come first, of equally frequent ones the last in the order of their bytes.

    Args:
        latex: the training formulas, tokens separated by spaces.
        min_count: tokens seen fewer times are left out.
    """
    counts = Counter(token for formula in latex for token in formula.split())
    kept = [token for token, count in counts.items() if count >= min_count]
    return [*SPECIAL_TEXTS, *sorted(kept, key=lambda token: (counts[token], token.encode()), reverse=True)]
