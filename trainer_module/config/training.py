"""Configuration of training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer_module.config import STRICT

# File in a ModelRun artifact with the precision that `training.precision = "auto"` chose.
PRECISION = "precision"

# Environment variable: set if the parent process shows standard output on a terminal and logs standard error.
TERMINAL = "IM2LATEX_TERMINAL"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainingConfig:
    """How the model learns."""

    epochs: int = Field(default=12, ge=1, description="passes over the training examples")
    batch_size: int = Field(default=20, ge=1, description="images in a batch, at most")
    max_tokens: int = Field(
        default=150, ge=1, description="training formulas with more tokens are left out; decoding stops there"
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field(default="sgd", description="sgd, adam or adamw")
    learning_rate: float = Field(default=0.1, gt=0, description="peak learning rate")
    weight_decay: float = Field(
        default=0.01, ge=0, description="weight decay of adamw, multiplied by the learning rate"
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps in which the learning rate rises to its peak")
    schedule: Literal["cosine", "plateau", "constant"] = Field(
        default="plateau",
        description="rate after warm-up: to zero as a cosine, halved when validation perplexity stalls, or constant",
    )
    patience: int = Field(
        default=0,
        ge=0,
        description="epochs without a lower validation perplexity after which the training stops; 0: never",
    )
    clip_norm: float = Field(default=5.0, gt=0, description="gradients are scaled down to this global norm")
    short_first: bool = Field(default=False, description="the first epoch goes from short formulas to long ones")
    label_smoothing: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="probability mass spread over all tokens of the target"
    )
    augmentation: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="share of the training images that are blurred, rotated, made noisy, ...",
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32", description="number format of the training; auto: try both, and take the faster one"
    )
    start_from: str = Field(
        default="",
        description="model to start from: reader (comes with im2latex), or the folder of a pushed one or of trained "
        "weights; empty: none",
    )
    start_share: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="share of start_from in the average with the trained weights; a higher share forgets less",
    )
    seed: int = Field(default=0, ge=0, description="seed of weights, shuffling and dropout")
    operation_threads: int = Field(
        default=0,
        ge=0,
        description="CPU threads that share one operation, 0 for all cores; a small model is faster with 1",
    )
    checkpoint_minutes: float = Field(default=5.0, gt=0, description="minutes between checkpoints within an epoch")
