"""The table of a model's parts: what each makes of an image, and its parameters."""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np

from trainer_module.config import ModelConfig
from trainer_module.model import ConvolutionalEncoder, FormulaModel


class Part(NamedTuple):
    """A row of the table."""

    name: str
    output: str  # shape without the batch; H and W are the image's sides, T its tokens
    trainable: int  # parameters that learning changes
    fixed: int  # parameters that it does not: moving statistics


def summarise(config: ModelConfig, vocabulary_size: int, max_rows: int) -> list[Part]:
    """Every part of the model that a configuration describes, in the order in which data flows.

    Args:
        config: the network's dimensions.
        vocabulary_size: tokens, the four specials included.
        max_rows: rows of cells in the tallest image.
    """
    model = FormulaModel(config, vocabulary_size, max_rows=max_rows)
    parts = [Part("(x - 128) / 128", "H, W, 1", 0, 0)]
    encoder = model.encoder
    down, across = 1, 1
    stages = zip(encoder.convolutions, encoder.norms, ConvolutionalEncoder.POOLS, strict=True)
    for convolution, norm, pool in stages:
        name = f"{convolution.name} 3x3 {convolution.filters}"
        if norm is not None and encoder.normalise_first:
            name += ", batch norm, ReLU"
        else:
            name += ", ReLU" + (", batch norm" if norm is not None else "")
        if pool is not None:
            name += f", max-pool {pool[0]}x{pool[1]}"
            down, across = down * pool[0], across * pool[1]
        trainable, fixed = _count(convolution, norm)
        parts.append(Part(name, f"{_share('H', down)}, {_share('W', across)}, {convolution.filters}", trainable, fixed))
    cells, units = f"{_share('H', down)} * {_share('W', across)}", model.config.decoder_units
    for direction in ("forward", "backward"):
        weights = [weight for weight in model.row_encoder.weights if weight.name.startswith(direction)]
        count = sum(int(np.prod(weight.shape)) for weight in weights)
        parts.append(Part(f"row encoder: {direction} LSTM {units // 2}", f"{cells}, {units // 2}", count, 0))
    if model.config.row_embedding:
        count = int(np.prod(model.row_encoder.row_embedding.shape))
        parts.append(Part("row encoder: initial states", "", count, 0))
    parts.append(
        Part(
            f"embedding {model.config.embedding_units}", f"T, {model.config.embedding_units}", *_count(model.embedding)
        )
    )
    parts.append(
        Part(
            f"decoder: attention, LSTM {units}, state of {3 * units}",
            f"T, {model.vocabulary_size}",
            *_count(model.decoder),
        )
    )
    return parts


def _count(*layers: keras.layers.Layer | None) -> tuple[int, int]:
    present = [layer for layer in layers if layer is not None]
    trainable = sum(int(np.prod(weight.shape)) for layer in present for weight in layer.trainable_weights)
    fixed = sum(int(np.prod(weight.shape)) for layer in present for weight in layer.non_trainable_weights)
    return trainable, fixed


def _share(side: str, divisor: int) -> str:
    return side if divisor == 1 else f"{side}/{divisor}"
