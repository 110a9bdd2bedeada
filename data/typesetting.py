"""Formulas set in Computer Modern by TeX's own rules, at thousands of formulas a second.

The synthetic data set draws with this: a LaTeX run per formula would take a day, and mathtext's parser 20 ms a
formula. The rules are those of The TeXbook, Appendix G, and the spacing table is that of its chapter 18. The fonts are
the TrueType Computer Modern that matplotlib ships; metrics TeX reads from .tfm files are taken from the outlines.
Input is the token language of `im2latex.tokenizer`, restricted to what stands in `SYMBOLS` and `_Setter`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
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
_DELIMITERS: dict[str, list[tuple[str, int]]] = {
    "(": [("r", 40), ("x", 161), ("x", 179), ("x", 181), ("x", 195)],
    ")": [("r", 41), ("x", 162), ("x", 180), ("x", 182), ("x", 33)],
    "[": [("r", 91), ("x", 163), ("x", 104), ("x", 8729), ("x", 34)],
    "]": [("r", 93), ("x", 164), ("x", 105), ("x", 184), ("x", 35)],
    "\\{": [("y", 102), ("x", 169), ("x", 110), ("x", 189), ("x", 40)],
    "\\}": [("y", 103), ("x", 170), ("x", 111), ("x", 190), ("x", 41)],
    "|": [("y", 106)],
    "\\sqrt": [("y", 112), ("x", 112), ("x", 113), ("x", 114), ("x", 115)],
}

# \fontdimen parameters of cmsy10 and cmex10 in em, by their names in Appendix G.
_X_HEIGHT, _AXIS, _RULE = 0.431, 0.25, 0.04
_NUM1, _NUM2, _DENOM1, _DENOM2 = 0.677, 0.394, 0.686, 0.345
_SUP1, _SUP2, _SUB1, _SUB2, _SUP_DROP, _SUB_DROP = 0.413, 0.363, 0.15, 0.247, 0.386, 0.05
_BIG_OP = (0.111, 0.167, 0.2, 0.6, 0.1)
_THIN, _MEDIUM, _THICK = 3 / 18, 4 / 18, 5 / 18

# Chapter 18's table of spaces between atoms, rows left and columns right in the order O B(op) ...: see _space.
_ORDER = "OLBRPC,I"  # Ord, Op (L, large), Bin, Rel, Open, Close, Punct, Inner
_SPACES = (
    "01230001", "11_30001", "22__2__2", "33_03003", "00_00000", "01230001", "11_11111", "11231011",
)  # 0 none; 1 thin (Op: also in scripts); 2 medium, 3 thick (text only); _ cannot happen  # fmt: skip
_ALWAYS_THIN = {("O", "L"), ("L", "O"), ("L", "L"), ("C", "L"), ("I", "L")}

DISPLAY, TEXT, SCRIPT, SCRIPTSCRIPT = range(4)
# TeX's 10/7/5 pt would leave digits of three pixels in scripts of scripts at small sizes; 10/7.5/6 keeps them legible.
_SIZES = (1.0, 1.0, 0.75, 0.6)


class Glyph(NamedTuple):
    """A character of a font at a size in pixels per em."""

    font: str
    code: int
    em: float


class Box(NamedTuple):
    """A piece of a formula, in pixels; marks are (x, y, Glyph or (width, height) of a rule), y downwards.

    Glyphs stand with their origin at (x, y), rules with their upper left corner there. `italic` is the italic
    correction contained in `width`.
    """

    width: float
    height: float
    depth: float
    marks: list[tuple[float, float, Glyph | tuple[float, float]]]
    italic: float = 0.0


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


class Atom(NamedTuple):
    """A class, a box, and how scripts stand: "char" and "box" beside, "limits" above and below."""

    kind: str
    box: Box
    scripts: str = "box"


def _row(boxes: Sequence[tuple[float, Box]]) -> Box:
    """Boxes side by side, each after a space in pixels."""
    x = height = depth = 0.0
    marks = []
    for space, box in boxes:
        x += space
        marks += [(x + mx, my, mark) for mx, my, mark in box.marks]
        x += box.width
        height, depth = max(height, box.height), max(depth, box.depth)
    return Box(x, height, depth, marks)


def _overlay(width: float, *placed: tuple[float, float, Box]) -> Box:
    """Boxes with their origins at (x, y) of a new box, y downwards."""
    marks = [(x + mx, y + my, mark) for x, y, box in placed for mx, my, mark in box.marks]
    return Box(
        width,
        max((box.height - y for _, y, box in placed), default=0.0),
        max((box.depth + y for _, y, box in placed), default=0.0),
        marks,
    )


def _space(left: str, right: str, style: int) -> float:
    code = _SPACES[_ORDER.index(left)][_ORDER.index(right)]
    if code == "0" or code == "_":
        return 0.0
    if style >= SCRIPT:
        return _THIN if (left, right) in _ALWAYS_THIN else 0.0
    return {"1": _THIN, "2": _MEDIUM, "3": _THICK}[code]


class _Setter:
    """Reads tokens from left to right and sets them; `em` is the size of the text style in pixels."""

    def __init__(self, tokens: Sequence[str], em: float) -> None:
        self.tokens = tokens
        self.at = 0
        self.em = em
        self.rule = float(max(1, round(_RULE * em)))

    def take(self, expected: str | None = None) -> str:
        token = self.tokens[self.at] if self.at < len(self.tokens) else "the end"
        if expected is not None and token != expected:
            raise ValueError(f"{expected} expected at token {self.at}, found {token}")
        self.at += 1
        return token

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def size(self, style: int) -> float:
        return self.em * _SIZES[style]

    def glyph(self, font: str, code: int, em: float) -> Box:
        measures = metrics(font, code)
        width = max(measures.advance, measures.right)
        mark = (0.0, 0.0, Glyph(font, code, em))
        italic = width - measures.advance
        return Box(width * em, measures.top * em, -measures.bottom * em, [mark], italic * em)

    def centred(self, box: Box, style: int) -> Box:
        """The box moved so that its middle is on the axis."""
        shift = (box.height - box.depth) / 2 - _AXIS * self.size(style)
        return _overlay(box.width, (0.0, shift, box))._replace(italic=box.italic)

    def sized(self, name: str, total: float, em: float) -> Box:
        """The smallest glyph of a delimiter that is at least `total` pixels tall, the largest enlarged if none is."""
        choices = _DELIMITERS[name]
        for font, code in choices:
            measures = metrics(font, code)
            if (measures.top - measures.bottom) * em >= total:
                return self.glyph(font, code, em)
        return self.glyph(font, code, math.ceil(10 * total / (measures.top - measures.bottom) / em) / 10 * em)

    def delimiter(self, name: str, body: Box, style: int) -> Box:
        """Rule 19: a delimiter around the axis that covers nine tenths of the body."""
        axis = _AXIS * self.size(style)
        half = max(body.height - axis, body.depth + axis)
        total = max(2 * half * 0.901, 2 * half - 0.5 * self.size(style))
        return self.centred(self.sized(name, total, self.size(style)), style)

    def formula(self, style: int, *stops: str) -> Box:
        """Atoms up to one of the stop tokens (not taken), spaced by the table of chapter 18."""
        atoms: list[Atom] = []
        while self.at < len(self.tokens) and self.peek() not in stops:
            atom = self.atom(style)
            # Rules 5 and 6: a binary operator without operands on both sides is an ordinary symbol.
            if atom.kind == "B" and (not atoms or atoms[-1].kind in "BLRP,"):
                atom = atom._replace(kind="O")
            if atom.kind in "RC," and atoms and atoms[-1].kind == "B":
                atoms[-1] = atoms[-1]._replace(kind="O")
            atoms.append(atom)
        boxes, before = [], ""
        for kind, box, _ in atoms:
            boxes.append((_space(before, kind, style) * self.size(style) if before else 0.0, box))
            before = kind
        return _row(boxes)

    def group(self, style: int) -> Box:
        self.take("{")
        box = self.formula(style, "}")
        self.take("}")
        return box

    def atom(self, style: int) -> Atom:
        atom = self.nucleus(style)
        if self.peek() not in ("_", "^"):
            return atom
        smaller = min(max(style, TEXT) + 1, SCRIPTSCRIPT)
        below = above = None
        if self.peek() == "_":
            self.take()
            below = self.group(smaller)
        if self.peek() == "^":
            self.take()
            above = self.group(smaller)
        box = (
            self.limits(atom.box, below, above) if atom.scripts == "limits" else self.scripts(atom, below, above, style)
        )
        return Atom(atom.kind, box)

    def nucleus(self, style: int) -> Atom:
        token = self.take()
        em = self.size(style)
        if token in SYMBOLS:
            kind, font, code = SYMBOLS[token]
            return Atom(kind, self.glyph(font, code, em), "char")
        if token in LARGE_OPERATORS:
            text, display = LARGE_OPERATORS[token]
            box = self.centred(self.glyph("x", display if style == DISPLAY else text, em), style)
            beside = style != DISPLAY or token in ("\\int", "\\oint")
            return Atom("L", box, "box" if beside else "limits")
        if token in FUNCTIONS or token in LIMIT_FUNCTIONS:
            box = _row([(0.0, self.glyph("r", ord(letter), em)) for letter in token[1:]])
            return Atom("L", box, "limits" if token in LIMIT_FUNCTIONS and style == DISPLAY else "char")
        if token == "{":
            self.at -= 1
            return Atom("O", self.group(style))
        if token == "\\neq":
            equals, slash = self.glyph("r", 61, em), self.glyph("y", 54, em)
            measures = metrics("y", 54)
            middle = (equals.width - (measures.left + measures.right) * em) / 2
            return Atom("R", _overlay(equals.width, (0.0, 0.0, equals), (middle, 0.0, slash)))
        if token in ("\\ldots", "\\cdots"):
            dot = self.glyph(*(("m", 58) if token == "\\ldots" else ("y", 162)), em)
            return Atom("I", _row([(0.0 if i == 0 else _THIN * em, dot) for i in range(3)]))
        if token == "\\frac":
            return Atom("I", self.fraction(style))
        if token == "\\sqrt":
            return Atom("O", self.root(style))
        if token == "\\overline":
            body = self.group(style)
            line = Box(body.width, 0.0, 0.0, [(0.0, 0.0, (body.width, self.rule))])
            return Atom("O", _overlay(body.width, (0.0, 0.0, body), (0.0, -body.height - 3 * self.rule, line)))
        if token in ACCENTS:
            return Atom("O", self.accent(token, style))
        if token in ALPHABETS:
            self.take("{")
            letters = []
            while self.peek() != "}":
                letter = self.take()
                if len(letter) != 1 or not letter.isalnum():
                    raise ValueError(f"only letters and digits can stand in {token}, found {letter}")
                letters.append((0.0, self.glyph(ALPHABETS[token], ord(letter), em)))
            self.take("}")
            return Atom("O", _row(letters), "char")
        if token.startswith("\\left") and token[5:] in _DELIMITERS:
            body = self.formula(style, *(f"\\right{name}" for name in _DELIMITERS))
            closing = self.take()
            if not closing.startswith("\\right"):
                raise ValueError(f"{token} without \\right at token {self.at - 1}")
            parts = [self.delimiter(token[5:], body, style), body, self.delimiter(closing[6:], body, style)]
            return Atom("I", _row([(0.0, part) for part in parts]))
        if token == "\\begin{array}":
            return Atom("O", self.array(style))
        raise ValueError(f"{token} at token {self.at - 1} cannot be set here")

    def scripts(self, atom: Atom, below: Box | None, above: Box | None, style: int) -> Box:
        """Rule 18: subscript and superscript beside a nucleus."""
        box, em = atom.box, self.size(style)
        smaller = self.size(min(max(style, TEXT) + 1, SCRIPTSCRIPT))
        up = 0.0 if atom.scripts == "char" else box.height - _SUP_DROP * smaller
        down = 0.0 if atom.scripts == "char" else box.depth + _SUB_DROP * smaller
        x_height = _X_HEIGHT * em
        placed, after = [(0.0, 0.0, box)], 0.05 * self.em  # \scriptspace
        if above is not None:
            up = max(up, (_SUP1 if style == DISPLAY else _SUP2) * em, above.depth + x_height / 4)
        if below is not None and above is None:
            down = max(down, _SUB1 * em, below.height - 0.8 * x_height)
        elif below is not None and above is not None:
            down = max(down, _SUB2 * em)
            gap = 4 * self.rule - ((up - above.depth) - (below.height - down))
            if gap > 0:
                down += gap
                raised = 0.8 * x_height - (up - above.depth)
                if raised > 0:
                    up, down = up + raised, down - raised
        width = box.width
        if above is not None:
            placed.append((box.width, -up, above))
            width = max(width, box.width + above.width)
        if below is not None:
            placed.append((box.width - box.italic, down, below))
            width = max(width, box.width - box.italic + below.width)
        return _overlay(width + after, *placed)

    def limits(self, box: Box, below: Box | None, above: Box | None) -> Box:
        """Rule 13a: limits centred above and below, the upper moved right and the lower left by half the slant."""
        width = max(part.width for part in (box, below, above) if part is not None)
        placed = [((width - box.width) / 2, 0.0, box)]
        gap1, gap2, gap3, gap4, _ = (gap * self.em for gap in _BIG_OP)
        if above is not None:
            rise = box.height + max(gap1, gap3 - above.depth) + above.depth
            placed.append(((width - above.width + box.italic) / 2, -rise, above))
        if below is not None:
            drop = box.depth + max(gap2, gap4 - below.height) + below.height
            placed.append(((width - below.width - box.italic) / 2, drop, below))
        return _overlay(width, *placed)

    def fraction(self, style: int) -> Box:
        """Rule 15, with a null delimiter's space on both sides."""
        inner = TEXT if style == DISPLAY else min(style + 1, SCRIPTSCRIPT)
        above, below = self.group(inner), self.group(inner)
        em, rule = self.size(style), self.rule
        axis, clearance = _AXIS * em, 3 * rule if style == DISPLAY else rule
        up = (_NUM1 if style == DISPLAY else _NUM2) * em
        down = (_DENOM1 if style == DISPLAY else _DENOM2) * em
        up = max(up, axis + rule / 2 + clearance + above.depth)
        down = max(down, clearance + rule / 2 - axis + below.height)
        width, side = max(above.width, below.width) + 0.1 * em, 0.12 * em
        bar = Box(width, rule / 2, rule / 2, [(0.0, -rule / 2, (width, rule))])
        return _overlay(
            width + 2 * side,
            (side + (width - above.width) / 2, -up, above),
            (side + (width - below.width) / 2, down, below),
            (side, -axis, bar),
        )

    def root(self, style: int) -> Box:
        """Rule 11; the degree of a root as in plain TeX's \\root."""
        degree = None
        if self.peek() == "[":
            self.take()
            degree = self.formula(SCRIPTSCRIPT, "]")
            self.take("]")
        body, em, rule = self.group(style), self.size(style), self.rule
        clearance = rule + (_X_HEIGHT * em if style == DISPLAY else rule) / 4
        sign = self.sized("\\sqrt", body.height + body.depth + clearance + rule, em)
        tall = sign.height + sign.depth
        clearance = max(clearance, (clearance + tall - rule - body.height - body.depth) / 2)
        top = body.height + clearance + rule
        bar = Box(body.width, 0.0, 0.0, [(0.0, 0.0, (body.width + 0.05 * em, rule))])
        left = 0.0
        placed = []
        if degree is not None:
            left = max(0.0, degree.width - 0.55 * sign.width) + 0.1 * em
            raised = 0.6 * (top - (tall - top))
            placed.append((left + 0.45 * sign.width - degree.width, -raised, degree))
        placed += [
            (left, sign.height - top, sign),
            (left + sign.width, 0.0, body),
            (left + sign.width, -top, bar),
        ]
        return _overlay(left + sign.width + body.width + 0.1 * em, *placed)

    def accent(self, token: str, style: int) -> Box:
        """Rule 12 without the skew of the accented letter."""
        font, code = ACCENTS[token]
        body = self.group(style)
        em = self.size(style)
        mark = self.glyph(font, code, em)
        measures = metrics(font, code)
        rise = max(0.0, body.height - _X_HEIGHT * em)
        middle = (body.width + body.italic) / 2 - (measures.left + measures.right) / 2 * em
        return _overlay(body.width, (0.0, 0.0, body), (middle, -rise, mark))

    def array(self, style: int) -> Box:
        """LaTeX's array: columns c, l or r, struts of 0.84 and 0.36 em, half an em on each side of a column."""
        self.take("{")
        columns = []
        while self.peek() != "}":
            columns.append(self.take())
        self.take("}")
        rows: list[list[Box]] = [[]]
        while True:
            rows[-1].append(self.formula(TEXT if style <= TEXT else style, "&", "\\\\", "\\end{array}"))
            separator = self.take()
            if separator == "\\end{array}":
                break
            if separator == "\\\\":
                rows.append([])
            elif separator != "&":
                raise ValueError("\\begin{array} without \\end{array}")
        if any(len(row) != len(columns) for row in rows) or set(columns) - set("clr"):
            raise ValueError(f"an array of {len(columns)} columns with rows of {[len(row) for row in rows]}")
        em = self.size(style)
        widths = [max(row[i].width for row in rows) for i in range(len(columns))]
        heights = [max([0.84 * em, *(cell.height for cell in row)]) for row in rows]
        depths = [max([0.36 * em, *(cell.depth for cell in row)]) for row in rows]
        y = -sum(heights + depths) / 2 - _AXIS * em
        top, placed = y, []
        for row, height, depth in zip(rows, heights, depths, strict=True):
            y += height
            x = 0.5 * em
            for cell, width, align in zip(row, widths, columns, strict=True):
                placed.append((x + {"l": 0.0, "c": 0.5, "r": 1.0}[align] * (width - cell.width), y, cell))
                x += width + em
            y += depth
        box = _overlay(sum(widths) + em * len(widths), *placed)
        return box._replace(height=-top, depth=y)


def typeset(tokens: Sequence[str], em: float) -> Box:
    """Sets a formula in display style.

    Args:
      tokens: the tokens of the formula, in the style of `im2latex.tokenizer`.
      em: size of the text in pixels per em.

    Raises:
      ValueError: a token that is not known here, or unbalanced groups.
    """
    setter = _Setter(tokens, em)
    box = setter.formula(DISPLAY)
    if setter.at != len(tokens):
        raise ValueError(f"{tokens[setter.at]} at token {setter.at} closes nothing")
    return box


def draw(tokens: Sequence[str], em: float, border: int = 2) -> np.ndarray:
    """Draws a formula, black on white, cropped to its ink.

    Args:
      tokens: the tokens of the formula.
      em: size of the text in pixels per em.
      border: white pixels around the ink.

    Returns:
      uint8 (H, W), 255 is white.
    """
    placed = []
    for x, y, mark in typeset(tokens, em).marks:
        if isinstance(mark, Glyph):
            left, top, ink = bitmap(mark)
            placed.append((math.floor(x + 0.5) + left, math.floor(y + 0.5) + top, ink))
        else:
            width, height = mark
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
