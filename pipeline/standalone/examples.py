"""Reads a data set, in any format that can be imported, and builds its vocabulary."""

from __future__ import annotations

import array
import functools
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.dataset.record import BadRecord, decode
from data.dataset.tfrecords import read_records
from data.defaults import EVAL_SHARE, MAX_REJECTED_SHARE, MAX_TOKENS, TEST_SHARE
from data.importers.convert import convert
from data.importers.importing import chunked, hold_out, open_source
from data.importers.source import Candidate, Files
from data.parallel import ordered_map
from data.spelling import NORMAL
from im2latex.errors import UserError
from im2latex.images import normalise
from pipeline.standalone import say
from trainer_module.config.image import ImageConfig
from trainer_module.examples import Example, Examples
from trainer_module.features import SPECIAL_TEXTS, SPECIALS, UNKNOWN


class Formulas(NamedTuple):
    """The examples of a split before the vocabulary is built; tokens are numbered in the order of their first use."""

    examples: Examples
    tokens: list[str]  # the text of each number
    names: list[str]  # of the records; of validation alone

    def latex(self) -> Iterator[str]:
        """The formulas, tokens separated by spaces."""
        for example in self.examples:
            yield " ".join(self.tokens[i] for i in example.tokens)

    def numbered(self, vocabulary: Sequence[str]) -> Examples:
        """The examples with the ids of a vocabulary, the text of every id."""
        ids = {token: i for i, token in enumerate(vocabulary[SPECIALS:], SPECIALS)}
        return self.examples.renumbered(np.array([ids.get(token, UNKNOWN) for token in self.tokens], np.int32))


class _UntokenizedExample(NamedTuple):
    example: Example  # without tokens
    latex: str
    name: str


def read_splits(
    source: Path, config: ImageConfig, folder: Path, limit: int | None = None, spelling: str = NORMAL
) -> tuple[Formulas, Formulas]:
    """Reads the training and validation examples of a source, and normalises their images on all cores.

    Args:
        source: any source for `im2latex data import`, or a folder of TFRecords with train/ and eval/.
        config: how to normalise images.
        folder: where to keep the normalised images, in a file that disappears when the process ends.
        limit: maximum number of records of each split; None for all.
        spelling: spelling of the formulas, as in `data.spelling.respell`.

    Returns:
        The training examples, and the validation examples.

    Raises:
        UserError: the source does not exist, a split is empty, or too many records cannot be used.
    """
    candidates, raw, _files = _candidates(source, folder)  # the files of archives are there as long as `_files` is
    places: dict[str, array.array] = {"train": array.array("L"), "eval": array.array("L")}
    names: list[str] = []
    numbers: dict[str, int] = {}
    reasons: Counter[str] = Counter()
    chunks = chunked(_limited(candidates, places, limit))

    def usable() -> Iterator[Example]:
        total = 0
        for prepared in ordered_map(functools.partial(_prepare, raw=raw, config=config, spelling=spelling), chunks):
            for split, outcome in prepared:
                if not isinstance(outcome, _UntokenizedExample):
                    reasons[outcome] += 1
                    continue
                tokens = [numbers.setdefault(token, len(numbers)) for token in outcome.latex.split()]
                if split == "eval":
                    names.append(outcome.name)
                places[split].append(total)
                total += 1
                yield outcome.example._replace(tokens=np.array(tokens, np.int32))

    examples = Examples.write(usable(), folder)
    bad = sum(reasons.values())
    total = bad + len(examples)
    common = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    if bad > MAX_REJECTED_SHARE * total:
        raise UserError(f"{bad:,} of {total:,} records of {source} are unusable ({common}); check the data")
    if bad:
        say(f"left out {bad:,} unusable records ({common})")
    for name, indices in places.items():
        if not indices:
            raise UserError(f"{source} has no examples for {name}; check the data")
    training, validation = (examples[np.array(indices)] for indices in places.values())
    return Formulas(training, list(numbers), []), Formulas(validation, list(numbers), names)


def _candidates(source: Path, folder: Path) -> tuple[Iterator[Candidate], bool, Files | None]:
    """Returns the records of a source, with the same splits as an import, whether its images are pages, its files."""
    if (source / "train").is_dir():
        records = ((split, record) for split in ("train", "eval") for record in read_records(source / split))
        named = (Candidate(split, record.name, record.image, record.latex.encode()) for split, record in records)
        return named, False, None
    form, files, candidates, splits = open_source(source, scratch=folder)
    return hold_out(candidates, splits, EVAL_SHARE, TEST_SHARE), form.raw, files


def _limited(candidates: Iterable[Candidate], splits: Iterable[str], limit: int | None) -> Iterator[Candidate]:
    counts = dict.fromkeys(splits, 0)
    for candidate in candidates:
        if candidate.split in counts and (limit is None or counts[candidate.split] < limit):
            counts[candidate.split] += 1
            yield candidate


def _prepare(
    chunk: list[Candidate], raw: bool, config: ImageConfig, spelling: str
) -> list[tuple[str, _UntokenizedExample | str]]:
    """Returns for each candidate its split, and the example or the reason why it cannot be used."""
    prepared: list[tuple[str, _UntokenizedExample | str]] = []
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
        prepared.append((candidate.split, _UntokenizedExample(example, record.latex, record.name)))
    return prepared


def make_vocabulary(latex: Iterable[str], min_count: int) -> list[str]:
    """Builds the vocabulary, the text of every token id, in the same order as Transform.

    The special tokens come first, then the others by descending frequency; ties are in descending order of their bytes.

    Args:
        latex: the training formulas, tokens separated by spaces.
        min_count: tokens that occur less often are left out.
    """
    counts = Counter(token for formula in latex for token in formula.split())
    kept = [token for token, count in counts.items() if count >= min_count]
    return [*SPECIAL_TEXTS, *sorted(kept, key=lambda token: (counts[token], token.encode()), reverse=True)]
