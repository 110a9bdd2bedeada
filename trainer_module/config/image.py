"""Configuration of the image normalisation."""

from __future__ import annotations

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from trainer_module.config import STRICT

# The convolutional encoder halves both sides three times.
STRIDE = 8


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImageConfig:
    """How an image is normalised before the model sees it."""

    max_height: int = Field(
        default=64,
        ge=STRIDE,
        le=4096,
        multiple_of=STRIDE,
        description="tallest image the model reads, pixels; taller ones are scaled down",
    )
    max_width: int = Field(
        default=320,
        ge=STRIDE,
        le=4096,
        multiple_of=STRIDE,
        description="widest image the model reads, pixels; wider ones are scaled down",
    )
    border: int = Field(default=4, ge=0, le=64, description="white border left around the ink, pixels")
    glyph_size: int = Field(
        default=0,
        ge=0,
        le=64,
        description="size of an em that glyphs are scaled to, pixels; 0: images keep their size",
    )

    @model_validator(mode="after")
    def _border_leaves_room(self) -> ImageConfig:
        for name, limit in (("max_height", self.max_height), ("max_width", self.max_width)):
            if limit <= 2 * self.border:
                raise ValueError(f"{name}={limit} leaves no room between borders of {self.border} pixels")
        return self
