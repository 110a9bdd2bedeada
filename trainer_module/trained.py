"""A trained model as plain arrays, and the files that store it. It uses NumPy only, so that it works without Keras."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from data.files import atomic_file
from im2latex.calibration import Calibration
from im2latex.errors import UserError
from im2latex.graph import onnx_model
from im2latex.weights import DESCRIPTION, SCALE, opened_weights
from trainer_module.config.decoding import DecodingConfig
from trainer_module.config.image import ImageConfig
from trainer_module.config.model import ModelConfig

Precision = Literal["float32", "float16", "int8"]


class Trained(NamedTuple):
    """A trained model, and everything that is needed to read an image with it.

    Attributes:
        model: dimensions of the network.
        image: settings of the image normalisation.
        vocabulary: text of each token id.
        max_tokens: maximum number of tokens in a formula.
        weights: weights by name, see `weights.named_weights`.
        decoding: default settings of the search.
        provenance: how the model was made, as text: date, data, run, scores.
        calibration: how log-probabilities become probabilities.
        statistics: histograms of the training data, see `im2latex.statistics`; {} for older models.
    """

    model: ModelConfig
    image: ImageConfig
    vocabulary: list[str]
    max_tokens: int
    weights: dict[str, np.ndarray]
    decoding: DecodingConfig = DecodingConfig()
    provenance: Mapping[str, str] = {}
    calibration: Calibration = Calibration()
    statistics: Mapping[str, Any] = {}


def description(trained: Trained) -> dict[str, Any]:
    """Returns everything but the weights as an object for JSON."""
    return {
        "model": dataclasses.asdict(trained.model),
        "image": dataclasses.asdict(trained.image),
        "vocabulary": trained.vocabulary,
        "max_tokens": trained.max_tokens,
        "decoding": dataclasses.asdict(trained.decoding),
        "provenance": dict(trained.provenance),
        "calibration": trained.calibration._asdict(),
        "statistics": dict(trained.statistics),
    }


def from_description(described: Mapping[str, Any], weights: dict[str, np.ndarray]) -> Trained:
    """Makes a model from its `description` and weights. Entries that older models do not have get the defaults.

    Raises:
        KeyError, TypeError, ValidationError: an entry is missing or invalid.
    """
    return Trained(
        ModelConfig(**described["model"]),
        ImageConfig(**described["image"]),
        list(described["vocabulary"]),
        int(described["max_tokens"]),
        weights,
        DecodingConfig(**described.get("decoding", {})),
        dict(described.get("provenance", {})),
        Calibration(**described.get("calibration", {})),
        dict(described.get("statistics", {})),
    )


def onnx_of(trained: Trained, precision: Precision = "float32") -> bytes:
    """Converts a model to an ONNX file for `im2latex.Reader`, which runs it with ONNX Runtime.

    Args:
        trained: the model, in float32.
        precision: precision of the stored matrices, see `save_weights`.

    Raises:
        UserError: as `save_weights`.
    """
    note = json.dumps(description(trained), ensure_ascii=False)
    stored = _all_stored(trained, precision)
    return onnx_model(
        dataclasses.asdict(trained.model), stored, trained.max_tokens, note, trained.calibration, trained.vocabulary
    )


def save_onnx(file: Path, trained: Trained, precision: Precision = "float32") -> None:
    """Writes the ONNX file of a model (`onnx_of`) atomically."""
    content = onnx_of(trained, precision)
    with atomic_file(file) as opened:
        opened.write(content)


def save_weights(file: Path, trained: Trained, precision: Precision = "float32") -> None:
    """Writes a trained model to one file, atomically.

    The file is not compressed: that would make it 8 % smaller, and take four times as long to load.

    Matrices and convolutions are stored with the given precision. Vectors (biases, moving statistics) are always stored
    in float32, because they are small and have a wide range.

    Args:
        file: the .npz file.
        trained: the model, in float32.
        precision: precision of the stored matrices. `int8` stores integers from -127 to 127 with a float32 scale for
            each output channel (the last axis).

    Raises:
        UserError: a weight is not finite, or too large for float16.
    """
    stored = _all_stored(trained, precision)
    described = json.dumps(description(trained), ensure_ascii=False)
    with atomic_file(file) as opened:
        np.savez(opened, **{DESCRIPTION: np.array(described)}, **stored)


def load_weights(source: Path) -> Trained:
    """Reads a model that `save_weights` wrote, with weights in float32.

    Args:
        source: the file, or a folder that contains the file `WEIGHTS`.

    Raises:
        UserError: the file is missing or damaged.
    """
    with opened_weights(source) as saved:
        weights = {name: _restored(saved, name) for name in saved if name != DESCRIPTION and not name.endswith(SCALE)}
        return from_description(json.loads(str(saved[DESCRIPTION])), weights)


def load_description(source: Path) -> Trained:
    """Reads a model like `load_weights` but without its weights, which takes only milliseconds."""
    with opened_weights(source) as saved:
        return from_description(json.loads(str(saved[DESCRIPTION])), {})


def _all_stored(trained: Trained, precision: Precision) -> dict[str, np.ndarray]:
    stored: dict[str, np.ndarray] = {}
    for name, value in trained.weights.items():
        stored |= _stored(name, value, "float32" if value.ndim < 2 else precision)
    return stored


def _stored(name: str, value: np.ndarray, precision: Precision) -> dict[str, np.ndarray]:
    if precision == "int8":
        largest = np.abs(value).max(axis=tuple(range(value.ndim - 1)))
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        arrays = {name: np.rint(value / scale).clip(-127, 127).astype(np.int8), f"{name}{SCALE}": scale}
    else:
        with np.errstate(over="ignore"):  # overflow is refused below
            arrays = {name: value.astype(precision)}
    if not all(np.isfinite(array).all() for array in (value, *arrays.values())):
        raise UserError(f"the weight {name} has values that {precision} cannot store; take --precision float32")
    return arrays


def _restored(saved: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    value = saved[name].astype(np.float32)
    return value * saved[f"{name}{SCALE}"] if f"{name}{SCALE}" in saved else value
