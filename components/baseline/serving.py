"""The serving folder: one SavedModel for each version, in folders named by rising whole numbers.

A path may be local or of any file system TFX knows (gs://, s3://).
"""

from __future__ import annotations

import hashlib
import os
import textwrap
from typing import NamedTuple

from tfx.dsl.io import fileio

SIGNATURE = "predict_images"


def versions(folder: str) -> list[int]:
    """The version numbers in a serving folder, newest first; none when the folder is missing."""
    if not fileio.isdir(folder):
        return []
    # Remote listings end folders with a slash.
    names = [os.fspath(name).rstrip("/") for name in fileio.listdir(folder)]
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def digest(model: str) -> str:
    """SHA-256 over the relative names and bytes of a SavedModel's files; equal for equal copies only."""
    sha = hashlib.sha256()
    for folder, _, names in sorted(fileio.walk(model)):
        for name in sorted(names):
            path = os.path.join(folder, name)
            with fileio.open(path, "rb") as file:
                content = file.read()
            sha.update(f"{os.path.relpath(path, model)}\0{len(content)}\0".encode())
            sha.update(content)
    return sha.hexdigest()


def serves(folder: str, version: int, model: str) -> bool:
    """Whether a version in the serving folder is a copy of the model."""
    return digest(os.path.join(folder, str(version))) == digest(model)


class Serving(NamedTuple):
    """What serves, as far as it can be compared with."""

    version: str  # "" when there is none
    passed_over: str  # newer versions that cannot be evaluated, each with the reason; "" when there is none


def newest_other(folder: str, model: str) -> Serving:
    """The newest version that can be loaded, apart from copies of `model` that were pushed last.

    Leaving those copies out makes the answer for a model the same before and after it is pushed,
    so a run in which nothing changed finds its evaluation in the cache. A version that cannot be
    loaded is passed over, as a model server does.
    """
    others = versions(folder)
    while others and serves(folder, others[0], model):
        others.pop(0)
    faults: list[str] = []
    for version in others:
        fault = _fault(os.path.join(folder, str(version)))
        if not fault:
            return Serving(str(version), "; ".join(faults))
        faults.append(f"version {version} cannot be used: {fault}")
    return Serving("", "; ".join(faults))


def _fault(path: str) -> str:
    """Why a SavedModel cannot be evaluated, or ""."""
    import tensorflow as tf

    try:
        signatures = tf.saved_model.load(path).signatures
    except Exception as error:  # noqa: BLE001  a damaged model can raise nearly anything
        return textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" …")
    return "" if SIGNATURE in signatures else f"it has no signature {SIGNATURE}"
