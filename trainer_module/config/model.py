"""Configuration of the network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer_module.config import STRICT


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
        default="after_relu", description="batch norm after the ReLU (Image2Latex-TF2) or before it (paper)"
    )
    decoder_units: int = Field(
        default=512,
        ge=2,
        multiple_of=2,
        description="units of the decoder LSTM; each direction of the row encoder has half",
    )
    embedding_units: int = Field(default=80, ge=1, description="size of a token's embedding")
    hidden_recurrence: bool = Field(
        default=False, description="hidden-to-hidden term in the decoder LSTM (paper: yes, Image2Latex-TF2: no)"
    )
    row_embedding: bool = Field(
        default=False,
        description="learned initial state for each row of the row encoder (paper: yes, Image2Latex-TF2: no)",
    )
    position_encoding: bool = Field(
        default=False,
        description="sinusoidal encoding of row and column, added to each cell (MI2LS; Wang and Liu 2019)",
    )
    attention: Literal["standard", "coarse_only", "hierarchical", "sparsemax", "hard"] = Field(
        default="standard",
        description="attention over all cells, or from a coarse grid to a fine one (paper, section 4)",
    )
    dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="share of the decoder's attention output dropped in training"
    )
