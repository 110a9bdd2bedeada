"""Section of the report about calibration: compares predicted probabilities with the share of correct formulas."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from components.formula_metrics.scores import MILLIONTH, SCORES
from components.report import charts
from components.report.predictions import Evaluated
from components.report.sections import Missing
from components.report.wording import number
from im2latex.calibration import BINS


class Bin(NamedTuple):
    """A bin of formulas with similar probabilities."""

    range: str
    formulas: int
    probability: str  # mean
    right: str  # share of correct formulas


class Confidence(NamedTuple):
    """A reliability diagram (Guo et al. 2017, section 2) and the figures in it."""

    chart: charts.Chart
    bins: list[Bin]
    error: str


def confidence(evaluated: Evaluated) -> Confidence:
    """Returns the reliability diagram of the evaluated formulas.

    Raises:
        Missing: the evaluation has no probabilities.
    """
    score = SCORES["calibration_error"]
    total = evaluated.statistics[score.part]
    if len(total) != 3 * BINS or not total.any():
        raise Missing("The evaluation has no probabilities: another version of the pipeline wrote it.")
    counts, right, millionths = total.reshape(3, BINS)
    filled = np.flatnonzero(counts)
    probabilities, shares = millionths[filled] / MILLIONTH / counts[filled], right[filled] / counts[filled]
    bins = [
        Bin(f"{i / BINS:.1f}\N{EN DASH}{(i + 1) / BINS:.1f}", int(counts[i]), number(probability, 3), number(share, 3))
        for i, probability, share in zip(filled, probabilities, shares, strict=True)
    ]
    points = list(zip(probabilities.tolist(), shares.tolist(), strict=True))
    return Confidence(charts.reliability(points), bins, score.shown(score.value(total)))
