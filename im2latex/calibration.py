"""Converts a model's log-probabilities to calibrated probabilities."""

from __future__ import annotations

from typing import NamedTuple

# Maximum log-probability before calibration, so that the log-odds are finite.
CERTAIN = -1e-5


class Calibration(NamedTuple):
    """A logistic regression for tokens and one for whole formulas (Platt scaling, Guo et al. 2017, section 4.2).

    The calibrated probability is sigmoid(slope * x + offset), where x is the log-odds of the model's probability. The
    default values leave the model's probabilities unchanged.
    """

    token_slope: float = 1.0
    token_offset: float = 0.0
    formula_slope: float = 1.0
    formula_offset: float = 0.0
