"""Configuration of the search for hyperparameters."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from trainer_module.config import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TuningConfig:
    """The search for learning rate, width and dropout before the training."""

    trials: int = Field(default=0, ge=0, description="short trainings that are compared; 0: no tuning")
    epochs: int = Field(default=3, ge=1, description="passes over the training examples in a trial")
    examples: int = Field(default=0, ge=0, description="training examples of a trial; 0: all")
    learning_rate: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.25, 4.0),
        description="lowest and highest learning rate, as factors of training.learning_rate; empty: not searched",
    )
    width: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.75, 1.0, 1.25),
        description="factors of model.filters and model.decoder_units to choose from; empty: not searched",
    )
    dropout: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        default=(0.0, 0.4), description="lowest and highest model.dropout; empty: not searched"
    )
    seed: int = Field(default=0, ge=0, description="seed of the values that are tried")

    @field_validator("trials")
    @classmethod
    def _trials_can_be_compared(cls, trials: int) -> int:
        if trials == 1:
            raise ValueError("1 trial has nothing to be compared with: use 2 or more, or 0 for no tuning")
        return trials

    @field_validator("learning_rate", "dropout")
    @classmethod
    def _range_is_not_empty(cls, bounds: tuple[float, ...]) -> tuple[float, ...]:
        if bounds and (len(bounds) != 2 or bounds[0] >= bounds[1]):
            raise ValueError("a range has two numbers, the lower one first")
        return bounds

    @model_validator(mode="after")
    def _something_is_searched(self) -> TuningConfig:
        if self.trials and not (self.learning_rate or self.width or self.dropout):
            raise ValueError("learning_rate, width and dropout are all empty: give one of them, or set trials to 0")
        return self
