"""Which model reads: the one that comes with im2latex, one that was pushed to the workspace, or one that is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from im2latex import __version__
from im2latex.errors import UserError
from im2latex.weights import NAME, WEIGHTS, weights_file

# Where a SavedModel keeps the same model for ONNX Runtime: loaders of SavedModels leave this folder alone.
ONNX = "assets.extra/model.onnx"
# What `Reader` looks for in a folder.
_FILES = (ONNX, "model.onnx", WEIGHTS)


class Choice(NamedTuple):
    """A model, and what is said of the choice where it was not named by its path."""

    path: Path
    sentence: str


def choose(named: str | Path | None) -> Choice:
    """The model that is meant.

    Args:
        named: a file or folder, or `reader` for the model that comes with im2latex; None takes the one that was pushed
            last to the workspace, or the reader where there is none.
    """
    if named is not None and named != NAME:
        return Choice(Path(named), "")
    versions = pushed(workspace() / "serving") if named is None else []
    if not versions:
        return Choice(weights_file(), f"model: the reader that comes with im2latex {__version__}")
    newest, here = versions[-1], Path.cwd()
    shown = newest.relative_to(here) if newest.is_relative_to(here) else newest
    return Choice(newest, f"model: {newest.parent.name} {newest.name} ({shown})")


def workspace() -> Path:
    """The folder that everything a run writes lies under: IM2LATEX_HOME, or ./workspace."""
    return Path(os.environ.get("IM2LATEX_HOME") or "workspace").expanduser().absolute()


def pushed(serving: Path) -> list[Path]:
    """Folders of all models in a serving folder, NAME/VERSION, the oldest first."""
    return sorted((path for path in serving.glob("*/*") if is_version(path.name)), key=lambda path: int(path.name))


def is_version(name: str) -> bool:
    """Whether the name of a folder is that of a version: TensorFlow Serving's are whole numbers of 63 bits."""
    # A server would take 007 as well; nothing here makes it.
    return name.isdecimal() and name == f"{int(name)}" and int(name) < 2**63


def is_saved_model_alone(model: Path) -> bool:
    """Whether a folder holds a SavedModel and nothing that `Reader` reads: TensorFlow has to read it."""
    return (model / "saved_model.pb").is_file() and not any((model / name).is_file() for name in _FILES)


def readable_file(model: Path) -> Path:
    """The file of a model that `Reader` reads: an ONNX file or one of weights, or either in a folder.

    Raises:
        UserError: there is none.
    """
    if not model.exists():
        raise UserError(f"there is no model {model}; name a folder or a file, or leave --model out")
    if not model.is_dir():
        return model
    for name in _FILES:
        if (model / name).is_file():
            return model / name
    raise UserError(
        f"{model} holds neither {ONNX} nor {WEIGHTS}; `im2latex export --model {model} --format onnx --out "
        f"{model / ONNX}` writes one"
    )
