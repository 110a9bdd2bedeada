"""Lists the files in a bucket with the pod's credentials, without downloading them."""

from __future__ import annotations

import os
from pathlib import Path

from im2latex.errors import UserError
from pipeline.buckets import file_system, path_in_bucket


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

    root = path_in_bucket(address)
    try:
        files = file_system(address).get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
    except OSError as error:
        raise UserError(
            f"cannot list {address}: {' '.join(str(error).split())}; check the address, and the credentials that "
            "kubeflow.secrets and kubeflow.environment give the pods"
        ) from None
    for info in files:
        if info.type == FileType.File:
            file = folder / os.path.relpath(info.path, root)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            os.truncate(file, info.size)
            os.utime(file, (info.mtime.timestamp(),) * 2)
