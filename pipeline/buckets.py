"""Reads buckets (gs://, s3://, minio://) with the credentials of the environment."""

from __future__ import annotations

import datetime
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from im2latex.errors import UserError

SCHEMES = ("gs://", "s3://", "minio://")
# Time limit for retries: without credentials, Google's client would retry for 15 minutes.
GOOGLE_PATIENCE = datetime.timedelta(seconds=60)


def is_address(text: str) -> bool:
    """Returns whether a text is an address in a bucket."""
    return text.startswith(SCHEMES)


def file_system(address: str) -> Any:
    """Returns the pyarrow.fs.FileSystem of an address; AWS_ENDPOINT_URL sets the endpoint of an S3-compatible store."""
    from pyarrow.fs import GcsFileSystem, S3FileSystem

    if address.startswith("gs://"):
        return GcsFileSystem(retry_time_limit=GOOGLE_PATIENCE)
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    return S3FileSystem(
        region=os.environ.get("AWS_REGION"),
        scheme=endpoint.scheme or "https",
        endpoint_override=endpoint.netloc or None,
    )


def path_in_bucket(address: str) -> str:
    """Returns the path of an address in its file system: bucket and key."""
    return address.partition("://")[2].rstrip("/")


def download(address: str, target: Path) -> None:
    """Copies a file or a folder from a bucket, atomically. Does nothing if the address does not exist.

    Args:
        address: address of the file or folder.
        target: local path of the copy; an existing file or folder is kept.

    Raises:
        UserError: the bucket cannot be read.
    """
    from pyarrow.fs import FileSelector, FileType, LocalFileSystem, copy_files

    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        copy = Path(folder, target.name)
        try:
            system, root = file_system(address), path_in_bucket(address)
            files = [system.get_file_info(root)]
            if files[0].type != FileType.File:
                files = system.get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
            for file in files:
                if file.type == FileType.File:
                    part = Path(os.path.normpath(copy / os.path.relpath(file.path, root)))
                    part.parent.mkdir(parents=True, exist_ok=True)
                    copy_files(file.path, str(part), system, LocalFileSystem())
        except OSError as error:
            raise UserError(
                f"cannot read {address}: {' '.join(str(error).split())}; check your credentials, AWS_REGION and, for a "
                "store that is not Amazon's, AWS_ENDPOINT_URL"
            ) from None
        if copy.exists():
            shutil.move(copy, target)
