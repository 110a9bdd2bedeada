"""Atomic writing of files and folders: readers see the complete new content or the old one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from im2latex.errors import UserError


def write_atomically(file: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically and creates its parent folders.

    Raises:
        UserError: the file cannot be written; an existing file keeps its content.
    """
    try:
        with atomic_file(file) as opened:
            opened.write(text.encode())
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; choose another path") from None


@contextlib.contextmanager
def atomic_file(file: Path) -> Iterator[IO[bytes]]:
    """Opens a temporary file for writing, renamed to `file` when the block ends and removed if the block raises.

    A killed process leaves a file NAME.writing, which the next one overwrites.

    Raises:
        OSError: the file cannot be written; an existing file keeps its content.
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
    """Yields a temporary path for a new folder, renamed to `folder` when the block ends, removed if the block raises.

    Raises:
        OSError: the folder cannot be written, or `folder` exists and is not empty.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        new = Path(temporary, folder.name)
        yield new
        new.rename(folder)
