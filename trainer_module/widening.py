"""A narrow model's weights as those of a wider one that computes the same (Net2Net, Chen et al. 2016, section 2.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from trainer_module.config.model import ModelConfig
from trainer_module.trained import Trained

# Copies of a unit must differ, or they would stay alike: kernels are multiplied by 1 plus noise of this deviation.
NOISE = 0.03


class _Copies:
    """Which old unit each unit of a wider layer is a copy of."""

    def __init__(self, old: int, new: int) -> None:
        self.of = np.arange(new) % old
        self.share = 1 / np.bincount(self.of, minlength=old)[self.of]  # of the old unit's effect

    def outgoing(self, weights: np.ndarray, axis: int) -> np.ndarray:
        """Weights that read the units: copies share what the unit gave."""
        shape = [1] * weights.ndim
        shape[axis] = -1
        return np.take(weights, self.of, axis) * self.share.reshape(shape)

    def incoming(self, weights: np.ndarray, gates: int = 1) -> np.ndarray:
        """Weights whose last axis holds the units, once or for each gate."""
        parts = np.split(weights, gates, axis=-1)
        return np.concatenate([np.take(part, self.of, -1) for part in parts], axis=-1)


def widened(start: Trained, model: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """The weights of a model to start from, widened where it is narrower and otherwise the same, else as they are.

    Args:
        start: the model to start from.
        model: dimensions of the model that starts from it.
        seed: of the noise.
    """
    sides = [(*of.filters, of.decoder_units) for of in (start.model, model)]
    same = dataclasses.replace(start.model, filters=model.filters, decoder_units=model.decoder_units)
    is_wider = sides[0] != sides[1] and all(old <= new for old, new in zip(*sides, strict=True))
    alike = dataclasses.replace(same, dropout=model.dropout, position_encoding=model.position_encoding) == model
    return (
        widen(start.weights, start.model, model, seed)
        if is_wider and alike and model.attention == "standard"
        else start.weights
    )


def widen(weights: Mapping[str, np.ndarray], old: ModelConfig, new: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """The weights of a wider model with standard attention; the gains of positions are left out, to be learned anew.

    Args:
        weights: of the narrow model, as `weights.named_weights` names them.
        old, new: dimensions of the two; embeddings are as wide, nothing is narrower.
        seed: of the noise.
    """
    channels = [_Copies(*sizes) for sizes in zip((1, *old.filters), (1, *new.filters), strict=True)]
    direction = _Copies(old.decoder_units // 2, new.decoder_units // 2)
    units = _Copies(old.decoder_units, new.decoder_units)
    # A cell is the forward and the backward output side by side.
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
            if kind == "position_gain":  # other channels carry other waves
                continue
            if kind.endswith("recurrent_kernel"):
                value = direction.outgoing(value, 0)
            elif kind.endswith("kernel"):
                value = channels[-1].outgoing(value, 0)
            value = direction.incoming(value, 4)
        elif kind == "attention_kernel":  # score = cell . Wa h, so both sides share
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
