"""Lists the files in a bucket with the pod's credentials, without downloading them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from im2latex.errors import UserError


def mirror(address: str, folder: Path) -> None:
    """Creates sparse files with the names, sizes and times of the files in a bucket.

    TFX's ExampleGen detects changed records by file name, size and time alone, so it need not read the content.

    Args:
        address: address of a folder in a bucket: gs://, s3:// or minio://.
        folder: folder to create the files in; it is created if it is missing.

    Raises:
        UserError: the bucket cannot be listed.
    """
    from pyarrow.fs import FileSelector, FileType

    place = address.partition("://")[2].rstrip("/")
    try:
        found = _file_system(address).get_file_info(FileSelector(place, allow_not_found=True, recursive=True))
    except OSError as error:
        raise UserError(
            f"cannot list {address}: {' '.join(str(error).split())}; check the address, and the credentials that "
            "kubeflow.secrets and kubeflow.environment give the pods"
        ) from None
    for info in found:
        if info.type == FileType.File:
            file = folder / os.path.relpath(info.path, place)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            os.truncate(file, info.size)
            os.utime(file, (info.mtime.timestamp(),) * 2)


def _file_system(address: str) -> Any:
    """Returns the bucket's file system, with the credentials and the endpoint from the environment."""
    from pyarrow.fs import GcsFileSystem, S3FileSystem

    if address.startswith("gs://"):
        return GcsFileSystem()
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    return S3FileSystem(
        region=os.environ.get("AWS_REGION"),
        scheme=endpoint.scheme or "https",
        endpoint_override=endpoint.netloc or None,
    )
