"""Local access to the files of artifacts, with copies of files in buckets."""

from __future__ import annotations

import sys
from pathlib import Path

from im2latex.errors import UserError
from pipeline.buckets import download, is_address, path_in_bucket
from pipeline.workspace import Workspace

# Buckets that could not be read; they are not tried again, because each attempt may take seconds.
_closed: set[str] = set()


def local_copy(uri: str, file: str = "") -> Path:
    """Returns the local path of an artifact or of a file in it; copies files in a bucket to the workspace once.

    Raises:
        UserError: the bucket cannot be read.
    """
    if not is_address(uri):
        return Path(uri, file)
    # Single files are kept apart from whole folders, so that a partly copied folder is not taken for a complete one.
    folder = Workspace.from_environment().buckets / ("parts" if file else "whole")
    address = "/".join(filter(None, (uri.rstrip("/"), file)))
    download(address, folder / path_in_bucket(address))
    return folder / path_in_bucket(address)


def look(uri: str, file: str = "") -> Path | None:
    """As `local_copy`, but returns None if the file is missing or its bucket is unreadable, which is reported once."""
    bucket = path_in_bucket(uri).partition("/")[0] if is_address(uri) else ""
    if bucket in _closed:
        return None
    try:
        path = local_copy(uri, file)
    except UserError as error:
        _closed.add(bucket)
        print(f"im2latex: {error}", file=sys.stderr)
        return None
    return path if path.exists() else None
