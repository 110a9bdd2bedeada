"""From a model's log-probabilities to probabilities that mean what they say."""

from __future__ import annotations

from typing import NamedTuple

# Log-probabilities above this count as this: nothing is certain.
CERTAIN = -1e-5


class Calibration(NamedTuple):
    """A logistic regression for tokens and one for whole formulas (Platt scaling, Guo et al. 2017, section 4.2).

    The probability of being right is sigmoid(slope * x + offset), where x are the log-odds that the model gives. What
    stands here leaves the model's probabilities as they are.
    """

    token_slope: float = 1.0
    token_offset: float = 0.0
    formula_slope: float = 1.0
    formula_offset: float = 0.0
