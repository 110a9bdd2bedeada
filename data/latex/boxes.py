"""Boxes, the pieces of a typeset formula: combining and drawing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.latex.computer_modern import Glyph, SymbolPart, bitmap


class Rule(NamedTuple):
    """A filled rectangle, in pixels, and the symbol that it belongs to."""

    width: float
    height: float
    part: SymbolPart


class Box(NamedTuple):
    """A piece of a formula, in pixels.

    Attributes:
      width: width, including the italic correction.
      height: height above the baseline.
      depth: depth below the baseline.
      marks: glyphs and rules, as (x, y, mark) with y downwards. The position is the origin of a glyph, and the upper
        left corner of a rule.
      italic: the italic correction.
    """

    width: float
    height: float
    depth: float
    marks: list[tuple[float, float, Glyph | Rule]]
    italic: float = 0.0


EMPTY = Box(0.0, 0.0, 0.0, [])


def rule(name: str, width: float, height: float, raised: float = 0.0) -> Box:
    """Returns a rule as a symbol with this name. `raised` is the height of its upper edge above the baseline."""
    return Box(width, raised, height - raised, [(0.0, -raised, Rule(width, height, SymbolPart(name)))])


def whole(name: str, box: Box) -> Box:
    """Marks all parts of a box as one symbol with this name."""
    marks = [(x, y, mark._replace(part=SymbolPart(name, i))) for i, (x, y, mark) in enumerate(box.marks)]
    return box._replace(marks=marks)


def row_of(boxes: Sequence[tuple[float, Box]]) -> Box:
    """Puts boxes side by side, each after a space in pixels."""
    x = height = depth = 0.0
    marks = []
    for space, box in boxes:
        x += space
        marks += [(x + mx, my, mark) for mx, my, mark in box.marks]
        x += box.width
        height, depth = max(height, box.height), max(depth, box.depth)
    return Box(x, height, depth, marks)


def overlay(width: float, *placed: tuple[float, float, Box]) -> Box:
    """Combines boxes into one of the given width, with their origins at (x, y), y downwards."""
    marks = [(x + mx, y + my, mark) for x, y, box in placed for mx, my, mark in box.marks]
    return Box(
        width,
        max((box.height - y for _, y, box in placed), default=0.0),
        max((box.depth + y for _, y, box in placed), default=0.0),
        marks,
    )


def paint(box: Box, border: int) -> np.ndarray:
    """Draws a box, black on white, cropped to its ink with a border in pixels.

    Returns:
      uint8 (H, W), 255 is white.

    Raises:
      ValueError: the box has no marks.
    """
    placed = []
    for x, y, mark in box.marks:
        if isinstance(mark, Glyph):
            left, top, ink = bitmap(mark.font, mark.code, mark.em)
            placed.append((math.floor(x + 0.5) + left, math.floor(y + 0.5) + top, ink))
        else:
            width, height, _ = mark
            left = math.floor(x + 0.5)
            ink = np.full((round(height), max(1, math.floor(x + width + 0.5) - left)), 255, np.uint8)
            placed.append((left, math.floor(y + 0.5), ink))
    if not placed:
        raise ValueError("a formula without ink")
    x0, y0 = min(x for x, _, _ in placed), min(y for _, y, _ in placed)
    width = max(x + ink.shape[1] for x, _, ink in placed) - x0
    height = max(y + ink.shape[0] for _, y, ink in placed) - y0
    canvas = np.zeros((height + 2 * border, width + 2 * border), np.uint8)
    for x, y, ink in placed:
        row, column = y - y0 + border, x - x0 + border
        window = canvas[row : row + ink.shape[0], column : column + ink.shape[1]]
        np.maximum(window, ink, out=window)
    return 255 - canvas
