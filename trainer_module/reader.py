"""The model that comes with im2latex: its weights lie in `im2latex`, docs/model-card.md says what it reads.

NumPy alone: who only asks whether the model fits needs no Keras.
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

# What acts in training alone, and may differ.
_FREE = ("dropout",)


def load() -> Trained:
    """The model.

    Raises:
        UserError: its file is missing or damaged.
    """
    return load_weights(weights_file())


def fingerprint() -> str:
    """SHA-256 of its file."""
    return hashlib.sha256(weights_file().read_bytes()).hexdigest()


def check_fits(model: ModelConfig, image: ImageConfig) -> None:
    """Refuses a configuration that cannot start from this model.

    Raises:
        UserError: a dimension is another one.
    """
    own = load_description(weights_file())
    for section, here, there in (("model", model, own.model), ("image", image, own.image)):
        for name in (field.name for field in dataclasses.fields(there) if field.name not in _FREE):
            if getattr(here, name) != getattr(there, name):
                raise UserError(
                    f'training.start_from = "{NAME}" needs the dimensions of that model, but {section}.{name} is '
                    f'{getattr(here, name)} and not {getattr(there, name)}; take preset = "{NAME}" (--preset {NAME}), '
                    f"and set nothing in the sections model and image"
                )
