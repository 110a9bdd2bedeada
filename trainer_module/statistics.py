"""Histograms of examples: of those that a model learns from, and of others as the model would see them."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from data.dataset.record import Record
from im2latex.images import ImageForm, normalise
from im2latex.statistics import OF_EXAMPLES, Statistics, add_formula, add_picture, empty
from trainer_module.examples import Example
from trainer_module.features import UNKNOWN

# Number of examples that are measured, at most: enough for histograms, and some seconds of work.
TRANSFORMED, RECORDS = 5000, 2000


def of_transformed(examples: Sequence[Example]) -> Statistics:
    """Measures transformed examples: at most `TRANSFORMED`, evenly spaced."""
    statistics = empty(*OF_EXAMPLES)
    step = max(1, -(-len(examples) // TRANSFORMED))
    for index in range(0, len(examples), step):
        example = examples[index]
        add_picture(statistics, np.asarray(Image.open(io.BytesIO(example.image))))
        add_formula(statistics, len(example.tokens), int(np.count_nonzero(example.tokens == UNKNOWN)))
    return statistics


def of_records(
    records: Iterable[Record], count: int, image: ImageForm, vocabulary: Iterable[str], max_tokens: int
) -> Statistics:
    """Measures records as a model would see them.

    Args:
        records: the records, in any order.
        count: their number; about `RECORDS` of them are measured, chosen by the checksum of the picture.
        image: the model's settings of the image normalisation.
        vocabulary: the tokens that it knows.
        max_tokens: longer formulas are left out, as in its training.
    """
    known, statistics = frozenset(vocabulary), empty(*OF_EXAMPLES)
    step = max(1, -(-count // RECORDS))
    for record in records:
        tokens = record.latex.split()
        if zlib.crc32(record.image) % step == 0 and len(tokens) <= max_tokens:
            add_picture(statistics, normalise(record.image, image))
            add_formula(statistics, len(tokens), sum(token not in known for token in tokens))
    return statistics
