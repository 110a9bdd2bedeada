"""Chooses the model that a command uses, and caches the SavedModel of the model that comes with im2latex."""

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

# Time to prepare the SavedModel on two cores.
SECONDS = 5
# Folders of the code and tables that the SavedModel depends on.
CODE = [Path(file).resolve().parent for file in (weights.__file__, reader.__file__)]


def chosen_model(named: str | None) -> Path:
    """Returns the SavedModel that a command uses; if it was not named, prints the choice on stderr.

    Args:
        named: a folder, or `reader` for the model that comes with im2latex; None for the model pushed last to the
            workspace or, if there is none, the reader.

    Raises:
        UserError: the reader is chosen, and its file is missing or damaged.
    """
    choice = choose(named)
    if not choice.sentence:
        return choice.path
    _say(choice.sentence)
    return saved_model() if choice.path == weights.weights_file() else choice.path


def saved_model() -> Path:
    """Returns the SavedModel of the model that comes with im2latex, from the cache or newly prepared.

    If the cache cannot be written, the SavedModel is in a temporary folder, which is deleted when the process exits.

    Raises:
        UserError: the file of weights is missing or damaged, or there is no temporary folder either.
    """
    folder = cache() / f"{reader.NAME}-{_digest()}"
    if folder.is_dir():
        return folder
    trained = reader.load()
    _say(f"preparing the model (once, about {SECONDS} s)")
    try:
        save_model(trained, folder)
    except OSError as error:
        if folder.is_dir():  # another process has written it
            return folder
        _say(
            f"im2latex: the prepared model cannot be kept in {folder.parent} ({error.strerror}); "
            "set XDG_CACHE_HOME to a folder that can be written to"
        )
        folder = _temporary_folder() / folder.name
        save_model(trained, folder)
    return folder


def cache() -> Path:
    """Returns the folder of prepared models; its content can be deleted at any time."""
    return cache_folder("models")


def _digest() -> str:
    """Returns a digest of what the SavedModel depends on: weights, code, tables and TensorFlow's version."""
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
