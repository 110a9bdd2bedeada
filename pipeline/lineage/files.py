"""The files of artifacts: where they lie, or a copy of those in a bucket."""

from __future__ import annotations

import sys
from pathlib import Path

from im2latex.errors import UserError
from pipeline.buckets import download, is_address, place
from pipeline.workspace import Workspace

# Buckets that could not be read; each is asked once, because an answer may take seconds.
_closed: set[str] = set()


def local_copy(uri: str, file: str = "") -> Path:
    """The path of an artifact, or of something in it; what lies in a bucket is copied to the workspace once.

    Raises:
        UserError: the bucket cannot be read.
    """
    if not is_address(uri):
        return Path(uri, file)
    # A folder of which a file was copied is not there as a whole.
    folder = Workspace.from_environment().buckets / ("parts" if file else "whole")
    address = "/".join(filter(None, (uri.rstrip("/"), file)))
    download(address, folder / place(address))
    return folder / place(address)


def look(uri: str, file: str = "") -> Path | None:
    """As `local_copy`; None if there is no such file, or its bucket cannot be read, which is said once."""
    bucket = place(uri).partition("/")[0] if is_address(uri) else ""
    if bucket in _closed:
        return None
    try:
        found = local_copy(uri, file)
    except UserError as error:
        _closed.add(bucket)
        print(f"im2latex: {error}", file=sys.stderr)
        return None
    return found if found.exists() else None
