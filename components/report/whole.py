"""A page in one file: what it may do, and written whole or not at all. Imports nothing heavy."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from pathlib import Path

from data.errors import UserError


def content_policy(style: str, script: str) -> str:
    """What a page may do: its own style and script, pictures that it holds, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def write_whole(file: Path, text: str) -> None:
    """Writes a file, with the folders it lies in, so that nobody ever sees half of it.

    Raises:
        UserError: it cannot be written; what was there before is still there.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, "utf-8")
        partial.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(f"cannot write {file}: {error.strerror}; choose another place") from None


def _digest(text: str) -> str:
    """How a policy names a script or a style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
