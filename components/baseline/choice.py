"""Chooses the pushed version that a new model is compared with."""

from __future__ import annotations

import os
import textwrap
from typing import NamedTuple

from components.serving_folder import serves, versions

SIGNATURE = "predict_images"


class BaselineChoice(NamedTuple):
    """The version that serves now, as far as it can be used as a baseline."""

    version: str  # "" if there is no version to compare with
    skipped: str  # newer versions that cannot be evaluated, each with the reason; "" if there are none


def newest_other(folder: str, model: str) -> BaselineChoice:
    """Finds the newest version that loads and is not a copy of `model`.

    Copies of `model` are skipped only while they are the newest versions. So the result is the same before and after
    the model is pushed, and a run in which nothing changed takes its evaluation from the cache. A version that cannot
    be loaded is skipped too, as a model server does.
    """
    others = versions(folder)
    while others and serves(folder, others[-1], model):
        others.pop()
    problems: list[str] = []
    for version in reversed(others):
        problem = _load_error(os.path.join(folder, str(version)))
        if not problem:
            return BaselineChoice(str(version), "; ".join(problems))
        problems.append(f"version {version} cannot be used: {problem}")
    return BaselineChoice("", "; ".join(problems))


def _load_error(path: str) -> str:
    """Returns why a SavedModel cannot be evaluated; "" if it can."""
    import tensorflow as tf

    try:
        signatures = tf.saved_model.load(path).signatures
    except Exception as error:  # noqa: BLE001  a damaged model can raise nearly anything
        return textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" …")
    return "" if SIGNATURE in signatures else f"it has no signature {SIGNATURE}"
