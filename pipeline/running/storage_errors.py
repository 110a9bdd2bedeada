"""Converts storage errors (full disk, missing write permission, locked database) to one sentence.

Python, TensorFlow, Beam and SQLite report them with different exceptions, and wrap those of each other.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

_FULL = ("No space left on device", "database or disk is full", "Disk quota exceeded")
_READ_ONLY = ("Read-only file system", "Permission denied", "readonly database", "unable to open database file")
_LOCKED = ("database is locked", "database table is locked", "Concurrent writes aborted")
_PATH = re.compile(r"(?:^|[\s'\"=:;(])(/[^\s'\":;,)]+)")


def storage_error(error: BaseException, home: Path) -> str:
    """Returns the message for an exception that was caused by a storage error; "" if it has another cause.

    Args:
        error: the exception; its causes and contexts are searched too.
        home: the workspace, which is named if the exception has no path.
    """
    for link in _chain(error):
        text = str(link)
        path = getattr(link, "filename", None) or _path_in(text) or home
        if any(words in text for words in _FULL) or getattr(link, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return f"no space is left on the device of {path}: free some, and the same command continues from here"
        if any(words in text for words in _LOCKED):
            return "ML Metadata is locked by another process: when that has ended, the same command continues from here"
        if any(words in text for words in _READ_ONLY):
            return f"{path} cannot be written: make it writable, and the same command continues from here"
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _path_in(text: str) -> str:
    """Returns the first path in a text whose folder exists; "" if there is none."""
    paths = (match[1] for match in _PATH.finditer(text))
    return next((path for path in paths if os.path.exists(os.path.dirname(path))), "")
