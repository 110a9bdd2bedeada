"""Which model a command uses; and the SavedModel of the one that comes with im2latex, made once and kept in a cache."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import typer

from im2latex import weights
from im2latex.errors import UserError
from im2latex.models import choose
from pipeline.cache import cache_folder
from pipeline.models.export import save_model
from trainer_module import reader

# What it takes to make the SavedModel, on two cores.
SECONDS = 5
# Where the code and the tables lie that decide on the SavedModel.
CODE = [Path(file).resolve().parent for file in (weights.__file__, reader.__file__)]


def chosen_model(named: str | None) -> Path:
    """The SavedModel that a command is to use; where it was not named, stderr says which it is.

    Args:
        named: a folder, or `reader` for the model that comes with im2latex; None takes the one that was pushed last to
            the workspace, or the reader where there is none.

    Raises:
        UserError: the reader is meant, and its file is missing or damaged.
    """
    choice = choose(named)
    if not choice.sentence:
        return choice.path
    _say(choice.sentence)
    return saved_model() if choice.path == weights.weights_file() else choice.path


def saved_model() -> Path:
    """The SavedModel of the model that comes with im2latex: from the cache, or made now.

    Where the cache cannot be written, it is made in a temporary folder, and is gone when this process ends.

    Raises:
        UserError: the file of weights is missing or damaged, or there is no place for the SavedModel at all.
    """
    made = cache() / f"{reader.NAME}-{_digest()}"
    if made.is_dir():
        return made
    trained = reader.load()
    _say(f"preparing the model (once, about {SECONDS} s)")
    try:
        save_model(trained, made)
    except OSError as error:
        if made.is_dir():  # another process was quicker
            return made
        _say(
            f"im2latex: the prepared model cannot be kept in {made.parent} ({error.strerror}); "
            "set XDG_CACHE_HOME to a folder that can be written to"
        )
        made = _temporary_folder() / made.name
        save_model(trained, made)
    return made


def cache() -> Path:
    """The folder of prepared models; whatever is in it can be deleted."""
    return cache_folder("models")


def _digest() -> str:
    """Of all that decides on the SavedModel: weights, code with its tables, TensorFlow's version."""
    sha = hashlib.sha256(f"{reader.fingerprint()} {version('tensorflow')}".encode())
    for path in sorted(path for folder in CODE for path in folder.rglob("*") if path.suffix in (".py", ".npz")):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


def _temporary_folder() -> Path:
    try:
        folder = tempfile.mkdtemp(prefix="im2latex-")
    except OSError as error:
        raise UserError(f"there is no folder for temporary files ({error.strerror}); name one in TMPDIR") from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)
