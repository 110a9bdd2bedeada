"""Widens a model: weights of a wider model that computes the same (Net2Net, Chen et al. 2016, section 2.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from trainer_module.config.model import ModelConfig
from trainer_module.trained import Trained

# Copies of a unit would stay equal in training, so kernels are multiplied by 1 plus noise of this standard deviation.
NOISE = 0.03


class _Copies:
    """Maps each unit of a wider layer to the old unit that it copies.

    Attributes:
        of: index of the old unit.
        share: share of the old unit's effect, 1 / number of its copies.
    """

    def __init__(self, old: int, new: int) -> None:
        self.of = np.arange(new) % old
        self.share = 1 / np.bincount(self.of, minlength=old)[self.of]

    def outgoing(self, weights: np.ndarray, axis: int) -> np.ndarray:
        """Widens weights that read the units along `axis`; the copies share the effect of the old unit."""
        shape = [1] * weights.ndim
        shape[axis] = -1
        return np.take(weights, self.of, axis) * self.share.reshape(shape)

    def incoming(self, weights: np.ndarray, gates: int = 1) -> np.ndarray:
        """Widens weights that compute the units; the last axis contains the units once per gate."""
        parts = np.split(weights, gates, axis=-1)
        return np.concatenate([np.take(part, self.of, -1) for part in parts], axis=-1)


def widened(start: Trained, model: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Returns the weights of the model to start from, widened if narrower layers are the only difference, or unchanged.

    Args:
        start: the model to start from.
        model: dimensions of the model to initialise.
        seed: random seed of the noise.
    """
    return widen(start.weights, start.model, model, seed) if can_widen(start.model, model) else start.weights


def can_widen(old: ModelConfig, new: ModelConfig) -> bool:
    """Returns whether `widen` applies: standard attention, and narrower layers are the only difference."""
    widths = [(*config.filters, config.decoder_units) for config in (old, new)]
    same = dataclasses.replace(old, filters=new.filters, decoder_units=new.decoder_units)
    is_wider = widths[0] != widths[1] and all(narrow <= wide for narrow, wide in zip(*widths, strict=True))
    is_equal = dataclasses.replace(same, dropout=new.dropout, position_encoding=new.position_encoding) == new
    return is_wider and is_equal and new.attention == "standard"


def widen(weights: Mapping[str, np.ndarray], old: ModelConfig, new: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Widens the weights of a model with standard attention, without the position gains, which must be learned again.

    Args:
        weights: weights of the narrow model, with the names of `weights.named_weights`.
        old, new: dimensions of both models; the embeddings are equally wide, and nothing in `new` is narrower.
        seed: random seed of the noise.
    """
    channels = [_Copies(*sizes) for sizes in zip((1, *old.filters), (1, *new.filters), strict=True)]
    direction = _Copies(old.decoder_units // 2, new.decoder_units // 2)
    units = _Copies(old.decoder_units, new.decoder_units)
    # A cell is the concatenation of forward and backward output.
    cells = _Copies(1, 1)
    cells.of = np.concatenate([direction.of, old.decoder_units // 2 + direction.of])
    cells.share = np.tile(direction.share, 2)

    wide = {}
    for name, value in weights.items():
        layer, _, kind = name.rpartition("/")
        if layer.startswith("encoder/"):
            number = int(layer[-1])
            value = channels[number - 1].outgoing(value, 2) if kind == "kernel" else value
            value = channels[number].incoming(value)
        elif layer == "row_encoder":
            if kind == "position_gain":  # the position encoding of a channel depends on the number of channels
                continue
            if kind.endswith("recurrent_kernel"):
                value = direction.outgoing(value, 0)
            elif kind.endswith("kernel"):
                value = channels[-1].outgoing(value, 0)
            value = direction.incoming(value, 4)
        elif kind == "attention_kernel":  # score = cell . Wa h, so it reads units on both sides
            value = units.outgoing(cells.outgoing(value, 0), 1)
        elif kind == "combine_kernel":
            context, hidden = np.split(value, 2)
            value = units.incoming(np.concatenate([cells.outgoing(context, 0), units.outgoing(hidden, 0)]))
        elif kind in ("output_kernel", "hidden_kernel"):
            value = units.incoming(units.outgoing(value, 0), 4)
        elif layer == "decoder" and kind in ("embedding_kernel", "bias"):
            value = units.incoming(value, 4)
        elif kind == "logits_kernel":
            value = units.outgoing(value, 0)
        wide[name] = value.astype(np.float32)
    rng = np.random.default_rng(seed)
    for name, value in wide.items():
        if name.endswith("kernel"):
            wide[name] = (value * rng.normal(1, NOISE, value.shape)).astype(np.float32)
    return wide
