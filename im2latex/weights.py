"""Files of model weights, and the file of the model that comes with im2latex.

A file of weights is a .npz with the arrays by name, and JSON that describes the model. Matrices are float32, float16,
or int8 with a float32 scale for each output channel; vectors are float32.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from im2latex.errors import UserError

# Name of the model that comes with im2latex, for --model and for its file beside this module.
NAME = "reader"
# Name of the file of weights in a folder.
WEIGHTS = "weights.npz"
# Name of the entry with the JSON.
DESCRIPTION = "description"
# Suffix of the entry with the scales of an int8 array, one for each output channel (the last axis).
SCALE = ":scale"


def weights_file() -> Path:
    """Returns the file of weights of the model that comes with im2latex.

    Raises:
        UserError: the file is missing, because the installation is incomplete.
    """
    file = Path(__file__).with_name(f"{NAME}.npz")
    if not file.is_file():
        raise UserError(f"{file}, the model that comes with im2latex, is missing; install im2latex again")
    return file


@contextmanager
def opened_weights(source: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Opens a file of weights, or the file `WEIGHTS` in a folder, and yields its entries, including `DESCRIPTION`.

    Raises:
        UserError: the file is missing or damaged. Errors of the block, such as a KeyError for a missing entry, count as
            damage too.
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
        raise UserError(
            f"{path} is damaged, or was written by another version ({type(error).__name__}); name other weights"
        ) from None
