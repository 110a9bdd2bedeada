"""Converts addresses in buckets (gs://, s3://, minio://) to the local paths of Kubeflow's launcher, and back."""

from __future__ import annotations

import os
import re

# Folder of the launcher's local copies, by scheme.
MOUNTS = {"gs://": "gcs", "s3://": "s3", "minio://": "minio"}
# Variable for the parent of these folders, / by default; tests set it, because they cannot write to /.
LAUNCHER_ROOT = "IM2LATEX_LAUNCHER_ROOT"


def is_address(text: str) -> bool:
    """Returns whether a text is an address in a bucket."""
    return text.startswith(tuple(MOUNTS))


def bucket(address: str) -> str:
    """Returns the scheme and bucket of an address: s3://formulas for s3://formulas/records."""
    scheme, _, path = address.partition("://")
    return f"{scheme}://{path.partition('/')[0]}"


def names_folder(address: str) -> bool:
    """Returns whether an address has a path after the bucket; the launcher refuses addresses without one."""
    return bool(address.partition("://")[2].partition("/")[2].strip("/"))


def local_path(address: str) -> str:
    """Returns the local path of the launcher's copy of an address; returns other texts unchanged."""
    for scheme, folder in MOUNTS.items():
        if address.startswith(scheme):
            return os.path.join(_root(), folder, address.removeprefix(scheme))
    return address


def with_addresses(text: str) -> str:
    """Replaces the launcher's local paths in a text by their addresses."""
    for scheme, folder in MOUNTS.items():
        text = re.sub(rf"(?<![\w./-]){re.escape(os.path.join(_root(), folder))}/(?=\w)", scheme, text)
    return text


def _root() -> str:
    return os.environ.get(LAUNCHER_ROOT, "/")
