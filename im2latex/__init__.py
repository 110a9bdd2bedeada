"""Converts pictures of formulas to LaTeX.

    >>> import im2latex
    >>> im2latex.predict("formula.png").latex
    '\\\\int _ { - \\\\infty } ^ { \\\\infty } e ^ { - x ^ { 2 } } d x = \\\\sqrt { \\\\pi }'

This package needs only NumPy, Pillow and ONNX Runtime, and imports them when it reads the first picture.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from im2latex.errors import ImageError, UserError

__version__ = "0.1.0"
__all__ = ["Attention", "Hypothesis", "ImageError", "Picture", "Reader", "Reading", "UserError", "predict"]

_HOMES = {"Picture": ".reader", "Reader": ".reader"} | dict.fromkeys(("Attention", "Hypothesis", "Reading"), ".reading")


def __getattr__(name: str) -> Any:
    """Imports a public name on first access (PEP 562)."""
    if name == "predict":
        return _reader().predict
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


@functools.cache
def _reader() -> Any:
    return __getattr__("Reader")()
