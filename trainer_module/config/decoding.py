"""Configuration of decoding."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer_module.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DecodingConfig:
    """The default search of the trained model for the best formula."""

    beam_width: int = Field(default=1, ge=1, le=32, description="hypotheses kept at each step; 1: greedy decoding")
    length_penalty: float = Field(
        default=0.0,
        ge=-9.0,
        le=9.0,
        description="hypotheses of n tokens are ranked by log-probability over ((6 + n) / 6) to this power",
    )
    rescale_below: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="pictures that are read greedily with a lower probability (before calibration) are read again, "
        "with beam_width and in several sizes together; 0: never",
    )
    rescales: tuple[Annotated[float, Field(ge=0.25, le=4.0)], ...] = Field(
        default=(),
        max_length=8,
        description="the sizes besides 1, relative to the normalised picture; each token is chosen by its mean "
        "probability over them",
    )
