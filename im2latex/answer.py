"""The JSON form of an image's hypotheses, for `im2latex predict --json` and the HTTP service."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from im2latex.reading import Hypothesis

READ, BLANK = "read", "blank"


def status(hypotheses: Sequence[Hypothesis]) -> str:
    """Returns the status of an image: `READ`, or `BLANK` if it has no ink."""
    return BLANK if hypotheses[0].is_of_blank else READ


def describe(hypotheses: Iterable[Hypothesis], as_typed: bool) -> list[dict[str, Any]]:
    """Returns hypotheses as objects for JSON, in the same order, without the empty ones that fill up a beam.

    Args:
        hypotheses: hypotheses of one image, best first.
        as_typed: return LaTeX as a person would type it, instead of tokens separated by spaces.
    """
    return [
        {
            "latex": hypothesis.clean if as_typed else hypothesis.latex,
            "log_probability": hypothesis.log_probability,
            "probability": hypothesis.probability,
        }
        for hypothesis in hypotheses
        if math.isfinite(hypothesis.log_probability)
    ]
