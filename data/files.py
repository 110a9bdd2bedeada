"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from im2latex.errors import UserError


def write_atomically(file: Path, text: str) -> None:
    """Writes a text file in UTF-8, and the folders that it lies in.

    Raises:
        UserError: it cannot be written; an older file of that name is unchanged.
    """
    try:
        with atomic_file(file) as opened:
            opened.write(text.encode())
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; choose another place") from None


@contextlib.contextmanager
def atomic_file(file: Path) -> Iterator[IO[bytes]]:
    """Opens a file for writing that gets its name when the block ends, and that no longer exists if it raises.

    A killed process leaves NAME.writing, which the next one overwrites.

    Raises:
        OSError: it cannot be written; an older file of that name is unchanged.
    """
    file = file.absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.writing")
    try:
        with partial.open("wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A path at which to make a folder, which is renamed when the block ends, and removed if it raises.

    Raises:
        OSError: it cannot be written, or `folder` exists and is not empty.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        new = Path(temporary, folder.name)
        yield new
        new.rename(folder)
