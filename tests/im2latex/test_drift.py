"""Distances between histograms; tests/components/example_validator compares them with TensorFlow Data Validation's."""

from __future__ import annotations

import numpy as np
import pytest

from im2latex.drift import DRIFTED, OK, compare, distance, drifted, jensen_shannon, thresholds
from im2latex.statistics import OF_EXAMPLES, OF_REQUESTS, of_values


def test_the_jensen_shannon_divergence_is_that_of_its_definition() -> None:
    same, sure, other = np.array([0.5, 0.5]), np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert jensen_shannon(same, same) == 0
    assert jensen_shannon(sure, other) == 1
    # Lin 1991, equation 5.1: H((p + q) / 2) - H(p) / 2 - H(q) / 2, in bits.
    entropy = -0.75 * np.log2(0.75) - 0.25 * np.log2(0.25)
    assert jensen_shannon(sure, same) == jensen_shannon(same, sure) == pytest.approx(entropy - 0.5)


def test_the_distance_of_unknown_tokens_is_the_difference_of_their_shares() -> None:
    few, many = of_values("unknown", [0] * 98 + [1] * 2), of_values("unknown", [0] * 45 + [1] * 5)
    assert distance("unknown", few, many) == pytest.approx(0.08)


def test_only_distant_features_have_drifted() -> None:
    rng = np.random.default_rng(1)
    reference = {name: of_values(name, rng.normal(40, 5, 5000)) for name in ("width", "height", "length")}
    current = {
        "width": of_values("width", rng.normal(40, 5, 500)),
        "height": of_values("height", rng.normal(70, 5, 500)),
        "length": of_values("length", rng.normal(70, 5, 99)),  # too few
        "confidence": of_values("confidence", rng.uniform(size=500)),  # not reference
    }
    comparisons = compare(reference, current, thresholds(OF_REQUESTS))
    assert [(one.feature, one.status) for one in comparisons] == [("width", OK), ("height", DRIFTED)]
    assert drifted(comparisons) == comparisons[1:]
    assert comparisons[0].distance < 0.02 and comparisons[1].distance > 0.9
    assert comparisons[1].text == f"height {comparisons[1].distance:.3f} (threshold 0.1)"
    lenient = compare(reference, current, dict.fromkeys(OF_REQUESTS, 1.0))
    assert drifted(lenient) == []


def test_samples_of_the_same_data_are_nearer_than_the_thresholds() -> None:
    """The fewest values that are compared, a thousand times."""
    rng = np.random.default_rng(2)
    at_most = thresholds(OF_EXAMPLES)

    def sample(formulas: int) -> dict:
        unknown = rng.random(20 * formulas) < 0.002
        sizes = {name: of_values(name, rng.lognormal(4, 0.7, formulas)) for name in ("width", "height", "length")}
        ink = of_values("ink", rng.beta(3, 20, formulas))
        return {**sizes, "ink": ink, "unknown": of_values("unknown", unknown.astype(int))}

    reference = sample(2000)
    for _ in range(200):
        comparisons = compare(reference, sample(100), at_most)
        assert len(comparisons) == 5 and drifted(comparisons) == []
