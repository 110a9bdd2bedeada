"""Addresses in buckets (gs://, s3://, minio://) and the local paths that Kubeflow's launcher uses for them."""

from __future__ import annotations

import os
import re

# Where the launcher keeps the objects of a bucket.
MOUNTS = {"gs://": "gcs", "s3://": "s3", "minio://": "minio"}
# Under which folder: another than / where no launcher can write there, as in tests.
LAUNCHER_ROOT = "IM2LATEX_LAUNCHER_ROOT"


def bucket(address: str) -> str:
    """Scheme and bucket of an address: s3://formulas of s3://formulas/records."""
    scheme, _, path = address.partition("://")
    return f"{scheme}://{path.partition('/')[0]}"


def names_folder(address: str) -> bool:
    """Whether an address goes on behind its bucket; the launcher refuses one that does not."""
    return bool(address.partition("://")[2].partition("/")[2].strip("/"))


def local_path(address: str) -> str:
    """Where the launcher keeps what an address names; other texts are given back as they are."""
    for scheme, folder in MOUNTS.items():
        if address.startswith(scheme):
            return os.path.join(_root(), folder, address.removeprefix(scheme))
    return address


def with_addresses(text: str) -> str:
    """A text with addresses in place of the launcher's local paths."""
    for scheme, folder in MOUNTS.items():
        text = re.sub(rf"(?<![\w./-]){re.escape(os.path.join(_root(), folder))}/(?=\w)", scheme, text)
    return text


def _root() -> str:
    return os.environ.get(LAUNCHER_ROOT, "/")
