"""Compares the distances of `im2latex.drift` with those of TensorFlow Data Validation."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2

from components.example_validator.comparison import _as_tfdv, by_tfdv
from im2latex.drift import CATEGORIES, Comparison, compare
from im2latex.statistics import FEATURES, Histogram, Statistics


def random(rng: np.random.Generator) -> Statistics:
    """Histograms with many empty bins, and very different numbers of values."""
    histograms = {}
    for name, feature in FEATURES.items():
        bins = len(feature.bounds) + 1
        shares = rng.dirichlet(np.full(bins, rng.choice([0.05, 1.0, 20.0])))
        counts = rng.multinomial(feature.least + int(rng.integers(0, 10**6)), shares)
        histograms[name] = Histogram(feature.bounds, counts.tolist(), float(rng.uniform()))
    return histograms


@pytest.mark.parametrize("seed", range(8))
def test_each_distance_is_that_of_the_drift_and_skew_comparators(seed: int) -> None:
    rng = np.random.default_rng(seed)
    learned, current = random(rng), random(rng)
    at_most = dict.fromkeys(FEATURES, 0.05)
    own = compare(learned, current, at_most)
    assert by_tfdv(learned, current, at_most) == [
        Comparison(one.feature, one.reference, one.current, pytest.approx(one.distance, abs=1e-9), one.threshold)
        for one in own
    ]
    assert [one.feature for one in own] == list(FEATURES)
    schema = schema_pb2.Schema()
    for name in FEATURES:
        kind = schema_pb2.BYTES if name in CATEGORIES else schema_pb2.FLOAT
        comparator = schema.feature.add(name=name, type=kind).skew_comparator
        (comparator.infinity_norm if name in CATEGORIES else comparator.jensen_shannon_divergence).threshold = 0.05
    anomalies = tfdv.validate_statistics(
        _as_tfdv(learned, at_most), schema, serving_statistics=_as_tfdv(current, at_most)
    )
    skew = {info.path.step[0]: info.skew_measurements[0].value for info in anomalies.drift_skew_info}
    assert skew == {one.feature: pytest.approx(one.distance, abs=1e-9) for one in own}
    # Its verdict is the same too.
    assert set(anomalies.anomaly_info) == {one.feature for one in own if one.status == "drifted"}
