"""Converts a model's log-probabilities to calibrated probabilities."""

from __future__ import annotations

import math
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

    def of_formula(self, log_probability: float) -> float:
        """Returns the calibrated probability of a formula, 0 to 1, from the model's natural log-probability."""
        below = min(log_probability, CERTAIN)
        log_odds = below - math.log1p(-math.exp(below))
        calibrated = self.formula_slope * log_odds + self.formula_offset
        return 1 / (1 + math.exp(min(-calibrated, 700.0)))  # without overflow


def bins_of(probability: np.ndarray | float) -> np.ndarray:
    """Returns the index of each probability's bin, int64."""
    return np.minimum((np.asarray(probability) * BINS).astype(np.int64), BINS - 1)


def expected_calibration_error(count: np.ndarray, right: np.ndarray, probability: np.ndarray) -> float:
    """Returns the expected calibration error (Naeini et al. 2015), 0 to 1; 0 without examples.

    This is the difference between the mean probability and the share of correct examples in each bin, averaged over the
    bins with their numbers of examples as weights.

    Args:
        count: number of examples in each bin, (BINS,).
        right: number of correct examples in each bin, (BINS,).
        probability: sum of the probabilities in each bin, (BINS,).
    """
    return float(np.abs(probability - right).sum() / max(count.sum(), 1))
