"""Compares histograms: how far current data are from the training data of a model.

The distances are those of TensorFlow Data Validation (tensorflow.org/tfx/data_validation/get_started, "Checking data
skew and drift"): the Jensen-Shannon divergence (Lin 1991, with logarithms to base 2) between histograms of numbers, and
the L-infinity distance, the largest difference of a share, between counts of categories.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from im2latex.statistics import FEATURES, Histogram, Statistics

# The features that are categories: a token is known or unknown.
CATEGORIES = ("unknown",)
OK, DRIFTED = "ok", "drifted"


class Comparison(NamedTuple):
    """The distance between two histograms of a feature, 0 to 1.

    Attributes:
        reference: mean of the feature in the training data.
        current: mean of the feature in the other data.
    """

    feature: str
    reference: float
    current: float
    distance: float
    threshold: float

    @property
    def status(self) -> str:
        """`DRIFTED` if the distance is above the threshold, else `OK`."""
        return DRIFTED if self.distance > self.threshold else OK

    @property
    def text(self) -> str:
        """The comparison in a few words."""
        return f"{self.feature} {self.distance:.3f} (threshold {self.threshold:g})"


def thresholds(features: Iterable[str]) -> dict[str, float]:
    """Returns the default thresholds by feature."""
    return {name: FEATURES[name].threshold for name in features}


def compare(reference: Statistics, current: Statistics, at_most: Mapping[str, float]) -> list[Comparison]:
    """Compares the features that both have with enough values, in the order of `at_most`.

    Args:
        reference: of the training data.
        current: of other data.
        at_most: threshold by feature.
    """
    comparisons = []
    for name, bound in at_most.items():
        if comparable(name, reference, current):
            old, new = reference[name], current[name]
            comparisons.append(Comparison(name, old.mean, new.mean, distance(name, old, new), bound))
    return comparisons


def comparable(name: str, *several: Statistics) -> bool:
    """Whether all statistics have enough values of a feature to compare them."""
    return all(name in statistics and statistics[name].count >= FEATURES[name].least for statistics in several)


def distance(name: str, first: Histogram, second: Histogram) -> float:
    """Returns the distance that TensorFlow Data Validation has for a feature, 0 to 1."""
    shares = [np.array(histogram.counts) / histogram.count for histogram in (first, second)]
    return l_infinity(*shares) if name in CATEGORIES else jensen_shannon(*shares)


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the Jensen-Shannon divergence of two distributions over the same bins, in bits: 0 to 1."""
    middle = (first + second) / 2
    return float(sum(np.sum(p[p > 0] * np.log2(p[p > 0] / middle[p > 0])) for p in (first, second)) / 2)


def l_infinity(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the largest difference between the shares of a category, 0 to 1."""
    return float(np.abs(first - second).max())


def drifted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Returns the comparisons whose distance is above the threshold."""
    return [comparison for comparison in comparisons if comparison.status == DRIFTED]
