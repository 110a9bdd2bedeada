"""The model that comes with im2latex: its weights lie beside this file, docs/model-card.md says what it reads.

NumPy alone: who only asks whether the model fits needs no Keras.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
from typing import TYPE_CHECKING

from data.errors import UserError
from trainer_module.config.image import ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.trained import WEIGHTS, Trained, load_description, load_weights

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

# As --model and training.start_from name it; the preset of its dimensions is called so too.
NAME = "reader"
# What acts in training alone, and may differ.
_FREE = ("dropout",)


def weights_file() -> Traversable:
    """Where its weights are.

    Raises:
        UserError: they are missing: the installation is not whole.
    """
    file = importlib.resources.files(__name__) / WEIGHTS
    if not file.is_file():
        raise UserError(f"{file}, the model that comes with im2latex, is missing; install im2latex again")
    return file


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
