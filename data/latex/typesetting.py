"""Formulas set in Computer Modern by TeX's own rules, at thousands of formulas a second.

The synthetic data set draws with this: a LaTeX run per formula would take a day, and mathtext's parser 20 ms a
formula. The rules are those of The TeXbook, Appendix G, and the spacing table is that of its chapter 18. Input is
the token language of `im2latex.tokenizer`, restricted to what is in `SYMBOLS` and `_Setter`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.latex.boxes import Box, overlay, paint, row_of
from data.latex.computer_modern import (
    ACCENTS,
    ALPHABETS,
    DELIMITERS,
    FUNCTIONS,
    LARGE_OPERATORS,
    LIMIT_FUNCTIONS,
    SYMBOLS,
    Glyph,
    metrics,
)

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


class Atom(NamedTuple):
    """A class, a box, and how scripts stand: "char" and "box" beside, "limits" above and below."""

    kind: str
    box: Box
    scripts: str = "box"


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
        return overlay(box.width, (0.0, shift, box))._replace(italic=box.italic)

    def sized(self, name: str, total: float, em: float) -> Box:
        """The smallest glyph of a delimiter that is at least `total` pixels tall, the largest enlarged if none is."""
        choices = DELIMITERS[name]
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
        return row_of(boxes)

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
            box = row_of([(0.0, self.glyph("r", ord(letter), em)) for letter in token[1:]])
            return Atom("L", box, "limits" if token in LIMIT_FUNCTIONS and style == DISPLAY else "char")
        if token == "{":
            self.at -= 1
            return Atom("O", self.group(style))
        if token == "\\neq":
            equals, slash = self.glyph("r", 61, em), self.glyph("y", 54, em)
            measures = metrics("y", 54)
            middle = (equals.width - (measures.left + measures.right) * em) / 2
            return Atom("R", overlay(equals.width, (0.0, 0.0, equals), (middle, 0.0, slash)))
        if token in ("\\ldots", "\\cdots"):
            dot = self.glyph(*(("m", 58) if token == "\\ldots" else ("y", 162)), em)
            return Atom("I", row_of([(0.0 if i == 0 else _THIN * em, dot) for i in range(3)]))
        if token == "\\frac":
            return Atom("I", self.fraction(style))
        if token == "\\sqrt":
            return Atom("O", self.root(style))
        if token == "\\overline":
            body = self.group(style)
            line = Box(body.width, 0.0, 0.0, [(0.0, 0.0, (body.width, self.rule))])
            return Atom("O", overlay(body.width, (0.0, 0.0, body), (0.0, -body.height - 3 * self.rule, line)))
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
            return Atom("O", row_of(letters), "char")
        if token.startswith("\\left") and token[5:] in DELIMITERS:
            body = self.formula(style, *(f"\\right{name}" for name in DELIMITERS))
            closing = self.take()
            if not closing.startswith("\\right"):
                raise ValueError(f"{token} without \\right at token {self.at - 1}")
            parts = [self.delimiter(token[5:], body, style), body, self.delimiter(closing[6:], body, style)]
            return Atom("I", row_of([(0.0, part) for part in parts]))
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
        return overlay(width + after, *placed)

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
        return overlay(width, *placed)

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
        return overlay(
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
        return overlay(left + sign.width + body.width + 0.1 * em, *placed)

    def accent(self, token: str, style: int) -> Box:
        """Rule 12 without the skew of the accented letter."""
        font, code = ACCENTS[token]
        body = self.group(style)
        em = self.size(style)
        mark = self.glyph(font, code, em)
        measures = metrics(font, code)
        rise = max(0.0, body.height - _X_HEIGHT * em)
        middle = (body.width + body.italic) / 2 - (measures.left + measures.right) / 2 * em
        return overlay(body.width, (0.0, 0.0, body), (middle, -rise, mark))

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
        box = overlay(sum(widths) + em * len(widths), *placed)
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
    return paint(typeset(tokens, em), border)
