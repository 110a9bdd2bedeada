"""What can be set about images, the vocabulary, the model and its training.

Every knob is a field with one line that says what it does and its unit. A value out of
range is refused when the configuration is made, with the name of the knob
(`pydantic.ValidationError`; `pipeline.config` turns it into one sentence).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

# The convolutional encoder halves both sides three times.
STRIDE = 8

# The file in a ModelRun that says what `training.precision = "auto"` chose.
PRECISION = "precision"

STRICT = ConfigDict(extra="forbid")


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
        description="size of an em that glyphs are brought to, pixels; 0: images keep their size",
    )

    @model_validator(mode="after")
    def _border_leaves_room(self) -> ImageConfig:
        for name, limit in (("max_height", self.max_height), ("max_width", self.max_width)):
            if limit <= 2 * self.border:
                raise ValueError(f"{name}={limit} leaves no room between borders of {self.border} pixels")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VocabularyConfig:
    """Which tokens the model can read and write."""

    min_count: int = Field(
        default=2, ge=1, description="a token seen fewer times in the training split becomes unknown"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    """The network: convolutions, row encoder, attention decoder (Deng et al. 2017, section 4)."""

    filters: tuple[
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
    ] = Field(default=(64, 128, 256, 256, 512, 512), description="channels of the six convolutions")
    normalisation: Literal["after_relu", "before_relu"] = Field(
        default="after_relu", description="batch norm after the ReLU (seed) or before it (paper)"
    )
    decoder_units: int = Field(
        default=512,
        ge=2,
        multiple_of=2,
        description="units of the decoder LSTM; each direction of the row encoder has half",
    )
    embedding_units: int = Field(default=80, ge=1, description="size of a token's embedding")
    hidden_recurrence: bool = Field(
        default=False, description="hidden-to-hidden term in the decoder LSTM (paper: yes, seed: no)"
    )
    row_embedding: bool = Field(
        default=False, description="learned initial state for each row of the row encoder (paper: yes, seed: no)"
    )
    position_encoding: bool = Field(
        default=False, description="waves of a cell's row and column added to it (MI2LS; Wang and Liu 2019)"
    )
    attention: Literal["standard", "coarse_only", "hierarchical", "sparsemax", "hard"] = Field(
        default="standard", description="over all cells, or from a coarse grid to a fine one (paper, section 4)"
    )
    dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="share of the decoder's attention output dropped in training"
    )


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
    weight_decay: float = Field(default=0.01, ge=0, description="share of a weight, times the rate, that adamw takes")
    warmup_steps: int = Field(default=0, ge=0, description="steps in which the rate rises to its peak")
    schedule: Literal["cosine", "plateau", "constant"] = Field(
        default="plateau",
        description="rate after warm-up: to zero as a cosine, halved when validation perplexity stalls, or constant",
    )
    patience: int = Field(
        default=0, ge=0, description="stop after so many epochs without a lower validation perplexity; 0: never"
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
        description="share of the training images that are changed as pens, cameras and files change",
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32", description="numbers to compute with in training; auto takes the faster, by trying both"
    )
    start_from: str = Field(
        default="",
        description="model to start from: reader (comes with im2latex), or the folder of a pushed one or of trained "
        "weights; empty: none",
    )
    seed: int = Field(default=0, ge=0, description="seed of weights, shuffling and dropout")
    operation_threads: int = Field(
        default=0,
        ge=0,
        description="CPU threads that share one operation, 0 for all cores; a small model is faster with 1",
    )
    checkpoint_minutes: float = Field(default=5.0, gt=0, description="minutes between checkpoints within an epoch")
