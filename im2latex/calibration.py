"""Converts a model's log-probabilities to calibrated probabilities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Maximum log-probability before calibration, so that the log-odds are finite.
CERTAIN = -1e-5
# Number of probability bins, of equal width, for the expected calibration error.
BINS = 10


class Calibration(NamedTuple):
    """A logistic regression for tokens and one for whole formulas (Platt scaling, Guo et al. 2017, section 4.2).

    The calibrated probability is sigmoid(slope * x + offset), where x is the log-odds of the model's probability. The
    default values leave the model's probabilities unchanged.
    """

    token_slope: float = 1.0
    token_offset: float = 0.0
    formula_slope: float = 1.0
    formula_offset: float = 0.0


def bins_of(probability: np.ndarray | float) -> np.ndarray:
    """Returns the index of each probability's bin, int64."""
    return np.minimum((np.asarray(probability) * BINS).astype(np.int64), BINS - 1)
