"""Computer Modern: the symbols of the built-in typesetter, their glyphs, measures and pictures.

The fonts are the TrueType Computer Modern that matplotlib ships; metrics TeX reads from .tfm files are taken from the
outlines.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ImageFont

# Fonts: r is cmr10 (roman), m cmmi10 (math italic), y cmsy10 (symbols), x cmex10 (extensible), b cmb10 (bold).
_FILES = {"r": "cmr10", "m": "cmmi10", "y": "cmsy10", "x": "cmex10", "b": "cmb10"}

# token -> (class, font, code). Classes as in The TeXbook, chapter 17: Ord, Op, Bin, Rel, oPen, Close, punct(,).
SYMBOLS: dict[str, tuple[str, str, int]] = {}
for _letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
    SYMBOLS[_letter] = ("O", "m", ord(_letter))
for _digit in "0123456789":
    SYMBOLS[_digit] = ("O", "r", ord(_digit))
for _class, _face, _codes in (
    ("O", "m", {"\\alpha": 174, "\\beta": 175, "\\gamma": 176, "\\delta": 177, "\\epsilon": 178, "\\zeta": 179,
                "\\eta": 180, "\\theta": 181, "\\kappa": 8729, "\\lambda": 184, "\\mu": 185, "\\nu": 186, "\\xi": 187,
                "\\pi": 188, "\\rho": 189, "\\sigma": 190, "\\tau": 191, "\\phi": 193, "\\chi": 194, "\\psi": 195,
                "\\omega": 33, "\\partial": 64, "\\ell": 96, "/": 61}),
    ("O", "r", {"\\Gamma": 161, "\\Delta": 162, "\\Theta": 163, "\\Lambda": 164, "\\Xi": 165, "\\Pi": 166,
                "\\Sigma": 167, "\\Phi": 169, "\\Psi": 170, "\\Omega": 173, "!": 33}),
    ("O", "y", {"\\infty": 49, "\\nabla": 114, "\\prime": 48, "\\forall": 56, "\\exists": 57, "|": 106}),
    ("B", "r", {"+": 43}),
    ("B", "y", {"-": 161, "\\pm": 167, "\\times": 163, "\\cdot": 162, "\\cup": 91, "\\cap": 92, "\\otimes": 173,
                "\\oplus": 169}),
    ("R", "r", {"=": 61}),
    ("R", "m", {"<": 60, ">": 62}),
    ("R", "y", {"\\leq": 8729, "\\geq": 184, "\\approx": 188, "\\equiv": 180, "\\sim": 187, "\\to": 33, "\\in": 50,
                "\\subset": 189}),
    ("P", "r", {"(": 40, "[": 91}),
    ("C", "r", {")": 41, "]": 93}),
    ("P", "y", {"\\{": 102, "\\langle": 104}),
    ("C", "y", {"\\}": 103, "\\rangle": 105}),
    (",", "m", {",": 59}),
):  # fmt: skip
    for _token, _code in _codes.items():
        SYMBOLS[_token] = (_class, _face, _code)

# Operators of two sizes, text and display (cmex10); the integral keeps its limits beside it (\nolimits).
LARGE_OPERATORS = {"\\sum": (80, 88), "\\prod": (81, 89), "\\int": (82, 90), "\\oint": (72, 73)}
FUNCTIONS = ("\\sin", "\\cos", "\\tan", "\\sinh", "\\cosh", "\\tanh", "\\exp", "\\log", "\\ln")
LIMIT_FUNCTIONS = ("\\lim", "\\max", "\\min", "\\sup", "\\inf", "\\det")
ACCENTS = {"\\hat": ("r", 94), "\\tilde": ("r", 126), "\\vec": ("m", 126), "\\dot": ("r", 95)}
ALPHABETS = {"\\mathbf": "b", "\\mathrm": "r", "\\mathcal": "y"}

# Delimiters: the glyph of normal size, then the four of cmex10; what is taller scales the last.
DELIMITERS: dict[str, list[tuple[str, int]]] = {
    "(": [("r", 40), ("x", 161), ("x", 179), ("x", 181), ("x", 195)],
    ")": [("r", 41), ("x", 162), ("x", 180), ("x", 182), ("x", 33)],
    "[": [("r", 91), ("x", 163), ("x", 104), ("x", 8729), ("x", 34)],
    "]": [("r", 93), ("x", 164), ("x", 105), ("x", 184), ("x", 35)],
    "\\{": [("y", 102), ("x", 169), ("x", 110), ("x", 189), ("x", 40)],
    "\\}": [("y", 103), ("x", 170), ("x", 111), ("x", 190), ("x", 41)],
    "|": [("y", 106)],
    "\\sqrt": [("y", 112), ("x", 112), ("x", 113), ("x", 114), ("x", 115)],
}


class Glyph(NamedTuple):
    """A character of a font at a size in pixels per em."""

    font: str
    code: int
    em: float


class Metrics(NamedTuple):
    """A glyph's measures, in em: advance, and the outline's left, top, right and bottom (y upwards)."""

    advance: float
    left: float
    top: float
    right: float
    bottom: float


@functools.cache
def _font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{_FILES[name]}.ttf")
    return ImageFont.truetype(str(path), pixels, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def metrics(font: str, code: int) -> Metrics:
    """The measures of a glyph, read from its outline at 1000 pixels per em."""
    mask, (left, top) = _font(font, 1000).getmask2(chr(code), mode="L", anchor="ls")
    width, height = mask.size
    advance = _font(font, 1000).getlength(chr(code))
    return Metrics(advance / 1000, left / 1000, -top / 1000, (left + width) / 1000, -(top + height) / 1000)


_OVERSAMPLING = 8


@functools.cache
def bitmap(glyph: Glyph) -> tuple[int, int, np.ndarray]:
    """A glyph's coverage, uint8 (H, W), and the column and row of its corner relative to the origin.

    Drawn eight times too large and averaged, so that hinting does not distort small sizes. Thin strokes are darkened
    (coverage ** 0.75): the hairlines of Computer Modern are a quarter of a pixel wide at ten pixels per em.
    """
    font = _font(glyph.font, round(glyph.em * _OVERSAMPLING))
    mask, (left, top) = font.getmask2(chr(glyph.code), mode="L", anchor="ls")
    width, height = mask.size
    x0, y0 = left // _OVERSAMPLING, top // _OVERSAMPLING
    x1, y1 = -(-(left + width) // _OVERSAMPLING), -(-(top + height) // _OVERSAMPLING)
    canvas = np.zeros(((y1 - y0) * _OVERSAMPLING, (x1 - x0) * _OVERSAMPLING), np.float32)
    row, column = top - y0 * _OVERSAMPLING, left - x0 * _OVERSAMPLING
    canvas[row : row + height, column : column + width] = np.array(mask, np.float32).reshape(height, width)
    coverage = canvas.reshape(y1 - y0, _OVERSAMPLING, x1 - x0, _OVERSAMPLING).mean(axis=(1, 3)) / 255
    ink = np.round(255 * coverage**0.75).astype(np.uint8)
    # The mask of a font spans the advance; what is white on its sides would count as ink of the formula.
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if rows.size:
        ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        x0, y0 = x0 + int(columns[0]), y0 + int(rows[0])
    return x0, y0, ink
