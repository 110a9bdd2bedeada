"""From a trained model's plain arrays to a model of Keras and back, and to another model that starts from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from im2latex.errors import UserError
from trainer_module.config.image import STRIDE, ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.model import FormulaModel
from trainer_module.trained import Trained

# The weights with a row or a column for each token, and which of their axes that is.
OF_TOKENS = {"embedding/embeddings": 0, "decoder/logits_kernel": 1}


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


def extended(vocabulary: Sequence[str], known: Sequence[str]) -> list[str]:
    """A vocabulary, and behind it the tokens that the model to start from knows beside it: they are not forgotten."""
    own = set(vocabulary)
    return [*vocabulary, *(token for token in known if token not in own)]


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
