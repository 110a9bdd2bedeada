"""Chooses the model to read with: a named one, the last one pushed to the workspace, or the one in the package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from im2latex import __version__
from im2latex.errors import UserError
from im2latex.weights import NAME, WEIGHTS, weights_file

# The same model for ONNX Runtime within a SavedModel; loaders of SavedModels ignore this folder.
ONNX = "assets.extra/model.onnx"
# Files that `Reader` looks for in a folder, in this order.
_FILES = (ONNX, "model.onnx", WEIGHTS)


class Choice(NamedTuple):
    """A model, and a message about the choice, which is empty if the model was named by its path."""

    path: Path
    sentence: str


def choose(named: str | Path | None) -> Choice:
    """Chooses a model.

    Args:
        named: a file or folder, or `reader` for the model that comes with im2latex. None takes the last one pushed to
            the workspace, or the reader if there is none.
    """
    if named is not None and named != NAME:
        return Choice(Path(named), "")
    versions = pushed(workspace() / "serving") if named is None else []
    if not versions:
        return Choice(weights_file(), f"model: the reader that comes with im2latex {__version__}")
    newest, current = versions[-1], Path.cwd()
    shown = newest.relative_to(current) if newest.is_relative_to(current) else newest
    return Choice(newest, f"model: {newest.parent.name} {newest.name} ({shown})")


def workspace() -> Path:
    """Returns the folder for all output of runs: IM2LATEX_HOME, or ./workspace."""
    return Path(os.environ.get("IM2LATEX_HOME") or "workspace").expanduser().absolute()


def pushed(serving: Path) -> list[Path]:
    """Returns the folders of all models in a serving folder, NAME/VERSION, oldest first."""
    return sorted((path for path in serving.glob("*/*") if is_version(path.name)), key=lambda path: int(path.name))


def is_version(name: str) -> bool:
    """Whether the name of a folder is that of a version: TensorFlow Serving's are whole numbers of 63 bits."""
    # A server would accept 007 too, but this project never writes such a name.
    return name.isdecimal() and name == f"{int(name)}" and int(name) < 2**63


def is_saved_model_alone(model: Path) -> bool:
    """Returns whether a folder has a SavedModel but no file that `Reader` reads, so that it needs TensorFlow."""
    return (model / "saved_model.pb").is_file() and not any((model / name).is_file() for name in _FILES)


def readable_file(model: Path) -> Path:
    """Returns the file of a model for `Reader`: an ONNX file or a file of weights, or the one in a folder.

    Raises:
        UserError: the model does not exist, or the folder has no such file.
    """
    if not model.exists():
        raise UserError(f"there is no model {model}; name a folder or a file, or leave --model out")
    if not model.is_dir():
        return model
    for name in _FILES:
        if (model / name).is_file():
            return model / name
    if (model / "saved_model.pb").is_file():
        hint = f"`im2latex export --model {model} --format onnx --out {model / ONNX}` writes one"
    else:
        hint = "name the folder of a model"
    raise UserError(f"{model} has neither {ONNX} nor {WEIGHTS}; {hint}")
