"""The model that comes with im2latex, as a starting point for training. docs/model-card.md describes it.

The weights are part of the package `im2latex`. This module uses NumPy only, so that checking a configuration does not
import Keras.
"""

from __future__ import annotations

import dataclasses
import hashlib

from im2latex.errors import UserError
from im2latex.weights import NAME as NAME
from im2latex.weights import weights_file as weights_file
from trainer_module.config.image import ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.trained import Trained, load_description, load_weights
from trainer_module.widening import can_widen

# Fields that matter only in training, so they may differ.
_FREE = ("dropout",)
# Fields that may be larger: the weights are widened then.
_WIDTHS = ("filters", "decoder_units")


def load() -> Trained:
    """Loads the model.

    Raises:
        UserError: its file is missing or damaged.
    """
    return load_weights(weights_file())


def fingerprint() -> str:
    """Returns the SHA-256 of the model's file."""
    return hashlib.sha256(weights_file().read_bytes()).hexdigest()


def check_fits(model: ModelConfig, image: ImageConfig) -> None:
    """Checks that a training with this configuration can start from the model.

    Raises:
        UserError: a dimension differs, or a layer is narrower.
    """
    reader = load_description(weights_file())
    free = (*_FREE, *_WIDTHS) if can_widen(reader.model, model) else _FREE
    for section, actual, required in (("model", model, reader.model), ("image", image, reader.image)):
        for name in (field.name for field in dataclasses.fields(required) if field.name not in free):
            value, expected = getattr(actual, name), getattr(required, name)
            if value != expected:
                raise UserError(
                    f'training.start_from = "{NAME}" needs the dimensions of that model, but {section}.{name} is '
                    f'{value} and not {expected}; use preset = "{NAME}" (--preset {NAME}), and set nothing in the '
                    "sections model and image, or only wider model.filters and model.decoder_units"
                )
