"""Trained models as plain arrays: kept in a file, made into a model again, given to another model to start from."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from pydantic import ValidationError

from data.errors import UserError
from trainer_module.config.image import STRIDE, ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.model import FormulaModel

WEIGHTS = "weights.npz"

# The weights with a row or a column for each token, and which of their axes that is.
OF_TOKENS = {"embedding/embeddings": 0, "decoder/logits_kernel": 1}


class Trained(NamedTuple):
    """A trained model, and all that is needed to read an image with it."""

    model: ModelConfig
    image: ImageConfig
    vocabulary: list[str]  # the text of each token id
    max_tokens: int  # formulas are cut there
    weights: dict[str, np.ndarray]  # as `named_weights` names them


def named_weights(model: FormulaModel) -> dict[str, keras.Variable]:
    """Every weight of a model under its path, such as `encoder/conv1/kernel`, in Keras's order."""
    return {weight.path.removeprefix(f"{model.name}/"): weight for weight in model.weights}


def new_model(
    config: ModelConfig, image: ImageConfig, vocabulary: Sequence[str], dtype: str = "float32"
) -> FormulaModel:
    """A model with fresh weights for images so normalised and a vocabulary."""
    return FormulaModel(config, len(vocabulary), max_rows=image.max_height // STRIDE, dtype=dtype)


def model_of(trained: Trained) -> FormulaModel:
    """The trained model, in float32.

    Raises:
        UserError: the weights are not those of its configuration.
    """
    model = new_model(trained.model, trained.image, trained.vocabulary)
    missing = warm_start(model, trained.vocabulary, trained.weights, trained.vocabulary)
    if missing:
        raise UserError(f"the model lacks the weights {', '.join(missing)}; it was written by another version")
    return model


def weights_of(model: FormulaModel) -> dict[str, np.ndarray]:
    """The values of all weights, as `named_weights` names them."""
    return {name: keras.ops.convert_to_numpy(variable) for name, variable in named_weights(model).items()}


def warm_start(
    model: FormulaModel, vocabulary: Sequence[str], weights: Mapping[str, np.ndarray], known: Sequence[str]
) -> list[str]:
    """Gives a model the weights of another one.

    A token that both know takes its weights along, wherever it stands in either vocabulary. What the
    other model has not, such as a coarse grid, stays as it is.

    Args:
        model: takes the weights.
        vocabulary: the text of its token ids.
        weights: of the other model, as `named_weights` names them.
        known: the text of the other model's token ids.

    Returns:
        The names of the weights that the other model has not.

    Raises:
        UserError: a weight has another shape; nothing is changed then.
    """
    places = {token: i for i, token in enumerate(known)}
    shared = np.array([(i, places[token]) for i, token in enumerate(vocabulary) if token in places], int).T
    given, missing = {}, []
    for name, variable in named_weights(model).items():
        if name not in weights:
            missing.append(name)
            continue
        value = weights[name]
        if name in OF_TOKENS:
            mixed = np.moveaxis(np.array(keras.ops.convert_to_numpy(variable)), OF_TOKENS[name], 0)
            source = np.moveaxis(value, OF_TOKENS[name], 0)
            if mixed.shape[1:] == source.shape[1:]:
                mixed[shared[0]] = source[shared[1]]
                value = np.moveaxis(mixed, 0, OF_TOKENS[name])
        if tuple(variable.shape) != value.shape:
            raise UserError(
                f"the model to start from has {name} of shape {value.shape}, this one of {tuple(variable.shape)}: "
                "give the sections model and image the values of that model, or start from none"
            )
        given[name] = value
    for name, variable in named_weights(model).items():
        if name in given:
            variable.assign(given[name])
    return missing


def description(trained: Trained) -> dict[str, Any]:
    """All but the weights, for JSON."""
    return {
        "model": dataclasses.asdict(trained.model),
        "image": dataclasses.asdict(trained.image),
        "vocabulary": trained.vocabulary,
        "max_tokens": trained.max_tokens,
    }


def from_description(described: Mapping[str, Any], weights: dict[str, np.ndarray]) -> Trained:
    """Undoes `description`.

    Raises:
        KeyError, TypeError, ValidationError: something is missing or not allowed.
    """
    return Trained(
        ModelConfig(**described["model"]),
        ImageConfig(**described["image"]),
        list(described["vocabulary"]),
        int(described["max_tokens"]),
        weights,
    )


def save_weights(folder: Path, trained: Trained) -> None:
    """Writes a trained model to `WEIGHTS`; a kill leaves the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{WEIGHTS}.writing"
    with temporary.open("wb") as file:
        np.savez(file, description=np.array(json.dumps(description(trained))), **trained.weights)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / WEIGHTS)


def load_weights(folder: Path) -> Trained:
    """Reads what `save_weights` wrote.

    Raises:
        UserError: there is nothing, or it is damaged.
    """
    path = folder / WEIGHTS
    try:
        with np.load(path) as saved:
            weights = {name: saved[name] for name in saved if name != "description"}
            return from_description(json.loads(str(saved["description"])), weights)
    except FileNotFoundError:
        raise UserError(f"there are no weights in {folder}: {WEIGHTS} is missing") from None
    except (
        EOFError,
        KeyError,
        OSError,
        TypeError,
        ValidationError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(f"{path} is damaged, or was written by another version ({type(error).__name__})") from None
