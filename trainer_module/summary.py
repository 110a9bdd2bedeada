"""The table of a model's parts, with their output shapes and parameters."""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np

from trainer_module.attention import BLOCK
from trainer_module.config.image import STRIDE
from trainer_module.config.model import ModelConfig
from trainer_module.encoder import Convolutions, RowEncoder
from trainer_module.model import FormulaModel

# Pixels along each side of a coarse cell.
SIDE = STRIDE * BLOCK


class ModelPart(NamedTuple):
    """A row of the table."""

    name: str
    output: str  # output shape without the batch; H and W are the image's height and width, T its number of tokens
    trainable: int  # number of trainable parameters
    fixed: int  # number of non-trainable parameters: moving statistics


def summarise(config: ModelConfig, vocabulary_size: int, max_rows: int) -> list[ModelPart]:
    """Lists the parts of the model that a configuration describes, from input to output.

    Args:
        config: the network's dimensions.
        vocabulary_size: number of tokens, including the four special tokens.
        max_rows: rows of cells in the tallest image.
    """
    model = FormulaModel(config, vocabulary_size, max_rows=max_rows)
    parts = [ModelPart("(x - 128) / 128", "H, W, 1", 0, 0)]
    parts += _convolutions(model.encoder, 1, 1)
    units = config.decoder_units
    if model.row_encoder is not None:
        parts += _row_encoder("row encoder", model.row_encoder, STRIDE)
    if model.coarse_encoder is not None and model.coarse_row_encoder is not None:
        parts += _convolutions(model.coarse_encoder, STRIDE, STRIDE)
        parts.append(ModelPart(f"max-pool {BLOCK}x{BLOCK}", f"H/{SIDE}, W/{SIDE}, {config.filters[-1]}", 0, 0))
        parts += _row_encoder("coarse row encoder", model.coarse_row_encoder, SIDE)
    parts.append(
        ModelPart(
            f"embedding {model.config.embedding_units}", f"T, {model.config.embedding_units}", *_count(model.embedding)
        )
    )
    parts.append(
        ModelPart(
            f"decoder: {'' if config.attention == 'standard' else config.attention.replace('_', ' ') + ' '}attention, "
            f"LSTM {units}, state of {3 * units}",
            f"T, {model.vocabulary_size}",
            *_count(model.decoder),
        )
    )
    return parts


def _convolutions(layers: Convolutions, down: int, across: int) -> list[ModelPart]:
    """Returns a row for each convolution. The input is `down` times lower, `across` times narrower than the image."""
    parts = []
    for convolution, norm, pool in zip(layers.convolutions, layers.norms, layers.pools, strict=True):
        name = f"{convolution.name} 3x3 {convolution.filters}"
        if norm is not None and layers.normalise_first:
            name += ", batch norm, ReLU"
        else:
            name += ", ReLU" + (", batch norm" if norm is not None else "")
        if pool is not None:
            name += f", max-pool {pool[0]}x{pool[1]}"
            down, across = down * pool[0], across * pool[1]
        output = f"{_share('H', down)}, {_share('W', across)}, {convolution.filters}"
        parts.append(ModelPart(name, output, *_count(convolution, norm)))
    return parts


def _row_encoder(name: str, layer: RowEncoder, stride: int) -> list[ModelPart]:
    """Returns a row for each direction, one for the initial states, and one for the position encoding."""
    parts = []
    for direction in ("forward", "backward"):
        weights = [weight for weight in layer.weights if weight.name.startswith(direction)]
        count = sum(int(np.prod(weight.shape)) for weight in weights)
        output = f"{_share('H', stride)} * {_share('W', stride)}, {layer.units}"
        parts.append(ModelPart(f"{name}: {direction} LSTM {layer.units}", output, count, 0))
    if layer.rows:
        parts.append(ModelPart(f"{name}: initial states", "", int(np.prod(layer.row_embedding.shape)), 0))
    if layer.positions:
        parts.append(ModelPart(f"{name}: positions", "", int(np.prod(layer.position_gain.shape)), 0))
    return parts


def _count(*layers: keras.layers.Layer | None) -> tuple[int, int]:
    present = [layer for layer in layers if layer is not None]
    trainable = sum(int(np.prod(weight.shape)) for layer in present for weight in layer.trainable_weights)
    fixed = sum(int(np.prod(weight.shape)) for layer in present for weight in layer.non_trainable_weights)
    return trainable, fixed


def _share(side: str, divisor: int) -> str:
    return side if divisor == 1 else f"{side}/{divisor}"
