"""A trained model as plain arrays in one file, and where the one is that comes with im2latex.

The file is a .npz of arrays under the names of the weights, and of JSON that describes the model. Matrices are float32,
float16, or int8 with the float32 factors of their output channels beside them; vectors are float32.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from im2latex.errors import UserError

# The model that comes with im2latex, as --model names it; its file lies beside this one.
NAME = "reader"
# The file's name, where a folder is given.
WEIGHTS = "weights.npz"
DESCRIPTION = "description"
# Behind the name of an int8 array: the factors of its output channels, its last axis.
SCALE = ":scale"


def weights_file() -> Path:
    """The weights of the model that comes with im2latex.

    Raises:
        UserError: they are missing: the installation is not whole.
    """
    file = Path(__file__).with_name(f"{NAME}.npz")
    if not file.is_file():
        raise UserError(f"{file}, the model that comes with im2latex, is missing; install im2latex again")
    return file


@contextmanager
def opened_weights(source: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a file, or of `WEIGHTS` in a folder, as they are stored, with the JSON under `DESCRIPTION`.

    Raises:
        UserError: there is nothing, or it is damaged; also where the block finds that something is missing in it.
    """
    is_folder = source.is_dir()
    path = source / WEIGHTS if is_folder else source
    try:
        with path.open("rb") as file, np.load(file) as saved:
            yield saved
    except FileNotFoundError:
        missing = f"are no weights in {source}: {WEIGHTS} is missing" if is_folder else f"is no file {source}"
        raise UserError(f"there {missing}; name a file of weights, or a folder with {WEIGHTS}") from None
    except (EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged, or was written by another version ({type(error).__name__})") from None
