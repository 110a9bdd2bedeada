"""Converts trained models from plain arrays to Keras models and back, and initialises models from others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from im2latex.errors import UserError
from trainer_module.config.image import STRIDE, ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.model import FormulaModel
from trainer_module.trained import Trained

# The weights with a row or column per token, and the axis of the tokens.
OF_TOKENS = {"embedding/embeddings": 0, "decoder/logits_kernel": 1}


def named_weights(model: FormulaModel) -> dict[str, keras.Variable]:
    """Returns the weights of a model by path, such as `encoder/conv1/kernel`, in Keras's order."""
    return {weight.path.removeprefix(f"{model.name}/"): weight for weight in model.weights}


def new_model(
    config: ModelConfig, image: ImageConfig, vocabulary: Sequence[str], dtype: str = "float32"
) -> FormulaModel:
    """Makes a model with new weights.

    Args:
        config: dimensions of the network.
        image: settings of the image normalisation.
        vocabulary: text of each token id.
        dtype: Keras dtype policy.
    """
    return FormulaModel(config, len(vocabulary), max_rows=image.max_height // STRIDE, dtype=dtype)


def model_of(trained: Trained) -> FormulaModel:
    """Makes a Keras model from a trained model, in float32.

    Raises:
        UserError: the weights do not match the configuration.
    """
    model = new_model(trained.model, trained.image, trained.vocabulary)
    missing = warm_start(model, trained.vocabulary, trained.weights, trained.vocabulary)
    if missing:
        raise UserError(f"the model lacks the weights {', '.join(missing)}; it was written by another version")
    return model


def weights_of(model: FormulaModel) -> dict[str, np.ndarray]:
    """Returns the values of all weights, with the names of `named_weights`."""
    return {name: keras.ops.convert_to_numpy(variable) for name, variable in named_weights(model).items()}


def extended(vocabulary: Sequence[str], known: Sequence[str]) -> list[str]:
    """Appends the tokens that the model to start from knows to a vocabulary, so that they are not forgotten."""
    present = set(vocabulary)
    return [*vocabulary, *(token for token in known if token not in present)]


def warm_start(
    model: FormulaModel, vocabulary: Sequence[str], weights: Mapping[str, np.ndarray], known: Sequence[str]
) -> list[str]:
    """Initialises a model with the weights of another one.

    Weights of tokens are copied for the tokens that both models know, even if their ids differ. Weights that the
    other model lacks, such as those of a coarse grid, are not changed.

    Args:
        model: the model to initialise.
        vocabulary: text of its token ids.
        weights: weights of the other model, with the names of `named_weights`.
        known: text of the other model's token ids.

    Returns:
        The names of the weights that the other model lacks.

    Raises:
        UserError: a weight has a different shape; the model is not changed then.
    """
    known_ids = {token: i for i, token in enumerate(known)}
    shared = np.array([(i, known_ids[token]) for i, token in enumerate(vocabulary) if token in known_ids], int).T
    new_values, missing = {}, []
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
        new_values[name] = value
    for name, variable in named_weights(model).items():
        if name in new_values:
            variable.assign(new_values[name])
    return missing


def average(
    model: FormulaModel,
    vocabulary: Sequence[str],
    weights: Mapping[str, np.ndarray],
    known: Sequence[str],
    share: float,
) -> None:
    """Averages the weights of a trained model with those of the model that it started from.

    The average reads what both have learned (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
    Weights that the other model lacks, and those of tokens that it does not know, are not changed.

    Args:
        model: the trained model.
        vocabulary, weights, known: as in `warm_start`.
        share: share of the other model's weights, 0 to 1.
    """
    trained = weights_of(model)
    warm_start(model, vocabulary, weights, known)
    start = weights_of(model)
    for name, variable in named_weights(model).items():
        variable.assign((1 - share) * trained[name] + share * start[name])
