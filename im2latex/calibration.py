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

    def of_formula(self, log_probability: np.ndarray | float) -> np.ndarray:
        """Returns the calibrated probabilities of formulas, 0 to 1, from the model's natural log-probabilities."""
        return sigmoid(self.formula_slope * log_odds(log_probability) + self.formula_offset)


def log_odds(log_probability: np.ndarray | float) -> np.ndarray:
    """Converts log-probabilities to log-odds, in the same way as decoding."""
    below = np.minimum(log_probability, CERTAIN)
    return below - np.log1p(-np.exp(below))


def sigmoid(z: np.ndarray) -> np.ndarray:
    """Returns the logistic function of each number; it does not overflow."""
    return 0.5 * (1 + np.tanh(0.5 * z))


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
