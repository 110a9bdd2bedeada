"""Histograms of the pictures and formulas that a model was trained on, or that a service has read.

The bins are fixed, so that histograms can be added, compared and exported without the data. Adding a picture takes
some ten microseconds. This module uses NumPy only.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from im2latex.images import WHITE

# A pixel of a normalised picture is ink if it is darker than this grey level.
INK_BELOW = 128


class Feature(NamedTuple):
    """What a histogram counts.

    Attributes:
        help: what is measured.
        unit: as in a name of Prometheus: pixels, tokens or ratio.
        bounds: upper bounds of the bins, inclusive; one more bin has everything above.
        threshold: default for the largest distance between two histograms, see `im2latex.drift`.
        least: with fewer values, histograms of the same data differ by chance.
    """

    help: str
    unit: str
    bounds: tuple[float, ...]
    threshold: float = 0.1
    least: int = 100


def _powers(first: int, last: int, bins_per_octave: int) -> tuple[float, ...]:
    octaves = math.log2(last / first)
    return tuple(round(first * 2 ** (i / bins_per_octave)) for i in range(round(octaves * bins_per_octave) + 1))


FEATURES = {
    "width": Feature("Width of the picture as the model sees it", "pixels", _powers(8, 2048, 2)),
    "height": Feature("Height of the picture as the model sees it", "pixels", _powers(8, 256, 4)),
    "ink": Feature("Share of ink in the picture as the model sees it", "ratio", tuple(i / 50 for i in range(1, 21))),
    "length": Feature("Length of the formula", "tokens", (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256)),
    "unknown": Feature("Whether a token of a formula is outside the vocabulary", "ratio", (0,), 0.01, 2000),
    "confidence": Feature("Probability that the formula is right", "ratio", tuple(i / 10 for i in range(1, 10))),
}


@dataclass
class Histogram:
    """Counts of the values of a feature, by bin."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float, times: int = 1) -> None:
        """Counts a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """The mean of the values; NaN if there are none."""
        return self.sum / self.count if self.count else math.nan


Statistics = dict[str, Histogram]
# The features of examples, and those of the requests to a service.
OF_EXAMPLES = ("width", "height", "ink", "length", "unknown")
OF_REQUESTS = ("width", "height", "ink", "length", "confidence")


def empty(*names: str) -> Statistics:
    """Returns a histogram without values for each feature."""
    return {name: Histogram(FEATURES[name].bounds) for name in names}


def add_picture(statistics: Statistics, pixels: np.ndarray) -> None:
    """Counts the size and ink of a picture that is normalised as the model reads it, uint8 (height, width).

    A blank picture is not counted.
    """
    if pixels.min() == WHITE:
        return
    height, width = pixels.shape
    statistics["width"].add(width)
    statistics["height"].add(height)
    statistics["ink"].add(np.count_nonzero(pixels < INK_BELOW) / pixels.size)


def add_formula(statistics: Statistics, length: int, unknown: int) -> None:
    """Counts the length of a formula in tokens, and how many of its tokens are outside the vocabulary."""
    statistics["length"].add(length)
    statistics["unknown"].add(1, unknown)
    statistics["unknown"].add(0, length - unknown)


def of_values(name: str, values: Iterable[float]) -> Histogram:
    """Returns the histogram of the values of a feature."""
    (histogram,) = empty(name).values()
    for value in values:
        histogram.add(value)
    return histogram


def to_document(statistics: Statistics) -> dict[str, Any]:
    """Returns statistics as an object for JSON: for each feature its bounds, counts and sum."""
    return {
        name: {"bounds": list(histogram.bounds), "counts": histogram.counts, "sum": round(histogram.sum, 6)}
        for name, histogram in statistics.items()
    }


def from_document(document: Mapping[str, Any]) -> Statistics:
    """Reads what `to_document` returned. Features with other bins, which another version wrote, are left out.

    Raises:
        ValueError: it is no such document.
    """
    if not isinstance(document, Mapping):
        raise ValueError("statistics have to be an object")
    return {
        name: _histogram(name, document[name], feature.bounds)
        for name, feature in FEATURES.items()
        if name in document and _bounds(name, document[name]) == feature.bounds
    }


def _bounds(name: str, document: Any) -> tuple[float, ...]:
    if not isinstance(document, Mapping) or not isinstance(document.get("bounds"), Sequence):
        raise ValueError(f"{name} has to be an object with bounds, counts and sum")
    return tuple(document["bounds"])


def _histogram(name: str, document: Mapping[str, Any], bounds: tuple[float, ...]) -> Histogram:
    counts, total = document.get("counts"), document.get("sum")
    if (
        not isinstance(counts, list)
        or len(counts) != len(bounds) + 1
        or not all(type(count) is int and count >= 0 for count in counts)
        or isinstance(total, bool)
        or not isinstance(total, int | float)
    ):
        raise ValueError(f"{name} has to have {len(bounds) + 1} counts, whole numbers from 0, and a sum")
    return Histogram(bounds, list(counts), float(total))
