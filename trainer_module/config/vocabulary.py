"""Configuration of the vocabulary."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer_module.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VocabularyConfig:
    """Which tokens the model can read and write."""

    min_count: int = Field(
        default=2, ge=1, description="a token seen fewer times in the training split becomes unknown"
    )
