"""Where the symbols of a formula stand: what a detector of characters would find in its picture.

A symbol is a character, or what is one for the eye though it is put together (the sign of a root with its bar, a brace
over a formula, an equals sign with a stroke); a fraction's bar and the lines of arrays are symbols too. Two spellings
of one look have the same symbols in the same places.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from data.latex.computer_modern import NORMAL_SIZE, Glyph, metrics
from data.latex.typesetting import typeset


class SymbolBoxes(NamedTuple):
    """The symbols of a formula in the order in which they are set.

    Attributes:
      labels: of each symbol what it is: delimiters, operators and accents of any size have one label.
      corners: float64 (symbols, 4): left, top, right and bottom in em of the text, y downwards from the baseline.
      sizes: float64 (symbols,): the size of the style that it is set in, 1 for text; of lines it is `RULE_SIZE`.
    """

    labels: list[Hashable]
    corners: np.ndarray
    sizes: np.ndarray


# Boxes are in em: at this size rounding to pixels does not matter, and nothing is painted.
_PIXELS = 1000.0
# Lines are as thick in each style; they count as the smallest symbols do.
RULE_SIZE = 0.6


def symbol_boxes(tokens: list[str]) -> SymbolBoxes:
    """The symbols of a formula in display style.

    Args:
      tokens: in the style of `im2latex.tokenizer`.

    Raises:
      ValueError: as `typeset` does.
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
