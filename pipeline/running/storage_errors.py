"""Disks that are full, places that cannot be written, a store that is locked: whatever they end as, in a sentence.

Python, TensorFlow, Beam and SQLite each have words of their own for them, and wrap those of one another.
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
    """What a person is told of an exception behind which the storage is; "" where it is something else.

    Args:
        error: with those that it was raised from.
        home: the workspace, named where the exception names no place.
    """
    for one in _chain(error):
        text = str(one)
        place = getattr(one, "filename", None) or _place(text) or home
        if any(words in text for words in _FULL) or getattr(one, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return f"no space is left on the device of {place}: free some, and the same command continues from here"
        if any(words in text for words in _LOCKED):
            return "ML Metadata is locked by another process: when that has ended, the same command continues from here"
        if any(words in text for words in _READ_ONLY):
            return f"{place} cannot be written: make it writable, and the same command continues from here"
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _place(text: str) -> str:
    """The first path in a text, if there is something to it."""
    found = (match[1] for match in _PATH.finditer(text))
    return next((path for path in found if os.path.exists(os.path.dirname(path))), "")
