"""Computes the bounding boxes of a formula's symbols, as a character detector would find them in its image.

A symbol is a character, or several parts that the eye takes for one (a root sign with its bar, a brace over a formula,
an equals sign with a stroke). Fraction bars and the lines of arrays are symbols too. Different spellings that look the
same have the same boxes.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from data.latex.computer_modern import NORMAL_SIZE, Glyph, metrics
from data.latex.typesetting import typeset


class SymbolBoxes(NamedTuple):
    """The symbols of a formula, in the order in which they are set.

    Attributes:
      labels: identity of each symbol; a delimiter, operator or accent has the same label at all sizes.
      corners: float64 (symbols, 4): left, top, right and bottom in em of the text, y downwards from the baseline.
      sizes: float64 (symbols,): font size relative to the text, 1 for text; `RULE_SIZE` for lines.
    """

    labels: list[Hashable]
    corners: np.ndarray
    sizes: np.ndarray


# Text size for setting the formula, large enough that rounding to pixels does not matter; nothing is painted.
_PIXELS = 1000.0
# Lines have the same thickness in all styles; they count as the smallest symbols.
RULE_SIZE = 0.6


def symbol_boxes(tokens: list[str]) -> SymbolBoxes:
    """Returns the symbols of a formula in display style.

    Args:
      tokens: the formula in the token language of `im2latex.tokenizer`.

    Raises:
      ValueError: a token is not supported, or groups are unbalanced.
    """
    labels: list[Hashable] = []
    corners: list[list[float]] = []
    sizes: list[float] = []
    for x, y, mark in typeset(tokens, _PIXELS).marks:
        if isinstance(mark, Glyph):
            _, left, top, right, bottom = metrics(mark.font, mark.code)
            box = [x + left * mark.em, y - top * mark.em, x + right * mark.em, y - bottom * mark.em]
            size = min(mark.em, _PIXELS)  # a delimiter may be larger than its style
        else:
            box, size = [x, y, x + mark.width, y + mark.height], RULE_SIZE * _PIXELS
        if mark.part is not None and mark.part.number > 0:
            last = corners[-1]
            corners[-1] = [*map(min, last[:2], box[:2]), *map(max, last[2:], box[2:])]
            continue
        if mark.part is not None:
            labels.append(mark.part.name)
        else:
            code = (mark.font, mark.code)
            labels.append(NORMAL_SIZE.get(code, code))
        corners.append(box)
        sizes.append(size)
    return SymbolBoxes(labels, np.array(corners).reshape(-1, 4) / _PIXELS, np.array(sizes) / _PIXELS)
