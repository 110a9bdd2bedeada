"""What is said of the readings of an image, by `im2latex predict --json` and by the service."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from im2latex.reading import Hypothesis

READ, BLANK, DOUBTFUL = "read", "blank", "doubtful"


def status(hypotheses: Sequence[Hypothesis], min_confidence: float = 0.0) -> str:
    """What came of an image: `READ`, `BLANK` where it holds no ink and there was nothing to read, or `DOUBTFUL` where
    the probability of the best reading is below the least that is wanted."""
    if hypotheses[0].is_of_blank:
        return BLANK
    return DOUBTFUL if hypotheses[0].probability < min_confidence else READ


def describe(hypotheses: Iterable[Hypothesis], as_typed: bool) -> list[dict[str, Any]]:
    """Hypotheses as JSON has them, the best first; without those that fill up a beam.

    Args:
        hypotheses: of one image.
        as_typed: LaTeX as a person would type it, instead of tokens separated by spaces.
    """
    return [
        {
            "latex": hypothesis.clean if as_typed else hypothesis.latex,
            "log_probability": hypothesis.log_probability,
            "probability": hypothesis.probability,
            "tokens": list(zip(hypothesis.latex.split(), hypothesis.token_probability, strict=False)),
        }
        for hypothesis in hypotheses
        if math.isfinite(hypothesis.log_probability)
    ]
