"""Which of the versions that were pushed a new model is compared with."""

from __future__ import annotations

import os
import textwrap
from typing import NamedTuple

from components.serving_folder import serves, versions

SIGNATURE = "predict_images"


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
    while others and serves(folder, others[-1], model):
        others.pop()
    problems: list[str] = []
    for version in reversed(others):
        problem = _load_error(os.path.join(folder, str(version)))
        if not problem:
            return Serving(str(version), "; ".join(problems))
        problems.append(f"version {version} cannot be used: {problem}")
    return Serving("", "; ".join(problems))


def _load_error(path: str) -> str:
    """Why a SavedModel cannot be evaluated, or ""."""
    import tensorflow as tf

    try:
        signatures = tf.saved_model.load(path).signatures
    except Exception as error:  # noqa: BLE001  a damaged model can raise nearly anything
        return textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" …")
    return "" if SIGNATURE in signatures else f"it has no signature {SIGNATURE}"
