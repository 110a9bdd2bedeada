"""The reliability diagram of the report."""

from __future__ import annotations

import numpy as np
import pytest

from components.report.confidence import confidence
from components.report.predictions import Evaluated
from components.report.sections import Missing
from tests.components.report.conftest import Material


def test_formulas_stand_in_bins_of_their_probability(material: Material, evaluated: Evaluated, page: str) -> None:
    reliability = confidence(evaluated)
    # As `write_evaluation` has them.
    probabilities = np.exp(-0.1 * np.arange(1, 16))
    right = np.array([p.target == p.read for p in evaluated.predictions])
    for bin in reliability.bins:
        low, high = map(float, bin.range.split("\N{EN DASH}"))
        inside = (probabilities >= low) & (probabilities < high)
        assert bin.formulas == inside.sum() > 0
        assert bin.probability == f"{probabilities[inside].mean():.3f}"
        assert bin.right == f"{right[inside].mean():.3f}"
    assert sum(bin.formulas for bin in reliability.bins) == 15
    diagonal, curve = reliability.chart.lines
    assert len(curve.points) == len(reliability.bins)
    (x0, y0), (x1, y1) = diagonal.points
    for bin, (x, y) in zip(reliability.bins, curve.points, strict=True):
        assert (x - x0) / (x1 - x0) == pytest.approx(float(bin.probability), abs=1e-3)
        assert (y - y0) / (y1 - y0) == pytest.approx(float(bin.right), abs=1e-3)
    assert "Formulas by probability" in page and f"(calibration error) is {reliability.error}." in page


def test_an_evaluation_without_probabilities_says_so(evaluated: Evaluated) -> None:
    with pytest.raises(Missing, match="has no probabilities"):
        confidence(evaluated._replace(statistics=0 * evaluated.statistics))
    with pytest.raises(Missing, match="has no probabilities"):
        confidence(evaluated._replace(statistics=evaluated.statistics[:-30]))
