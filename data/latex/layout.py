"""Lays out boxes by TeX's rules: The TeXbook, Appendix G, and LaTeX's array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from data.latex.boxes import EMPTY, Box, Rule, overlay, row_of, rule, whole
from data.latex.computer_modern import DELIMITERS, WIDE_ACCENTS, Glyph, SymbolPart, metrics

# \fontdimen parameters of cmsy10 and cmex10 in em, with their names from Appendix G.
_X_HEIGHT, _AXIS, _RULE = 0.431, 0.25, 0.04
_NUM1, _NUM2, _NUM3, _DENOM1, _DENOM2 = 0.677, 0.394, 0.444, 0.686, 0.345
_SUP1, _SUP2, _SUB1, _SUB2, _SUP_DROP, _SUB_DROP = 0.413, 0.363, 0.15, 0.247, 0.386, 0.05
_BIG_OP = (0.111, 0.167, 0.2, 0.6, 0.1)
_THIN, _MEDIUM, _THICK = 3 / 18, 4 / 18, 5 / 18

# Chapter 18's table of spaces between atoms: a row for the left atom, a column for the right one, in this order.
_ORDER = "OLBRPC,I"  # Ord, Op (L, large), Bin, Rel, Open, Close, Punct, Inner
_SPACES = (
    "01230001", "11_30001", "22__2__2", "33_03003", "00_00000", "01230001", "11_11111", "11231011",
)  # 0 none; 1 thin (Op: also in scripts); 2 medium, 3 thick (text only); _ cannot happen  # fmt: skip
_ALWAYS_THIN = {("O", "L"), ("L", "O"), ("L", "L"), ("C", "L"), ("I", "L")}

DISPLAY, TEXT, SCRIPT, SCRIPTSCRIPT = range(4)
# Font sizes of the styles. At small resolutions TeX's 10/7/5 pt would draw digits of three pixels in second-order
# scripts; 10/7.5/6 keeps them legible.
_SIZES = (1.0, 1.0, 0.75, 0.6)


class Atom(NamedTuple):
    """An atom of a formula.

    Attributes:
      kind: its class, one of `_ORDER`.
      box: its content.
      scripts: position of scripts: "char" and "box" beside it, as rule 18 says for characters and boxes; "limits" above
        and below it.
    """

    kind: str
    box: Box
    scripts: str = "box"


def space(left: str, right: str, style: int) -> float:
    """Returns the space between two atoms of these classes, in em of the style."""
    code = _SPACES[_ORDER.index(left)][_ORDER.index(right)]
    if code == "0" or code == "_":
        return 0.0
    if style >= SCRIPT:
        return _THIN if (left, right) in _ALWAYS_THIN else 0.0
    return {"1": _THIN, "2": _MEDIUM, "3": _THICK}[code]


class Columns(NamedTuple):
    """The columns of an array.

    Attributes:
      aligns: c, l or r for each column.
      between: spaces between the columns, in em.
      side: space on both sides of the array, in em.
      lines: numbers of the columns with a line before them.
      spread: additional space between rows, in em.
    """

    aligns: Sequence[str]
    between: Sequence[float]
    side: float = 0.0
    lines: Sequence[int] = ()
    spread: float = 0.0


class BoxLayout:
    """Combines boxes; `em` is the size of text style in pixels."""

    def __init__(self, em: float) -> None:
        self.em = em
        self.rule = float(max(1, round(_RULE * em)))

    def size(self, style: int) -> float:
        return self.em * _SIZES[style]

    def glyph(self, font: str, code: int, em: float) -> Box:
        measures = metrics(font, code)
        width = max(measures.advance, measures.right)
        mark = (0.0, 0.0, Glyph(font, code, em))
        italic = width - measures.advance
        return Box(width * em, measures.top * em, -measures.bottom * em, [mark], italic * em)

    def centred(self, box: Box, style: int) -> Box:
        """Moves a box so that its middle is on the axis."""
        shift = (box.height - box.depth) / 2 - _AXIS * self.size(style)
        return overlay(box.width, (0.0, shift, box))._replace(italic=box.italic)

    def sized(self, name: str, total: float, em: float) -> Box:
        """Returns the smallest glyph of a delimiter that is `total` pixels tall, or else the largest one, scaled."""
        choices = DELIMITERS[name]
        for font, code in choices:
            measures = metrics(font, code)
            if (measures.top - measures.bottom) * em >= total:
                return self.glyph(font, code, em)
        return self.glyph(font, code, math.ceil(10 * total / (measures.top - measures.bottom) / em) / 10 * em)

    def delimiter(self, name: str, body: Box, style: int) -> Box:
        """Applies rule 19: a delimiter centred on the axis that covers nine tenths of the body."""
        axis = _AXIS * self.size(style)
        half = max(body.height - axis, body.depth + axis)
        total = max(2 * half * 0.901, 2 * half - 0.5 * self.size(style))
        return self.centred(self.sized(name, total, self.size(style)), style)

    def scripts(self, atom: Atom, below: Box | None, above: Box | None, style: int) -> Box:
        """Applies rule 18: subscript and superscript beside a nucleus."""
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
        """Applies rule 13a: limits centred above and below, shifted right and left by half the italic correction."""
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

    def fraction(self, above: Box, below: Box, style: int) -> Box:
        """Applies rule 15: a fraction, with the space of a null delimiter on both sides."""
        em, rule = self.size(style), self.rule
        axis, clearance = _AXIS * em, 3 * rule if style == DISPLAY else rule
        up = (_NUM1 if style == DISPLAY else _NUM2) * em
        down = (_DENOM1 if style == DISPLAY else _DENOM2) * em
        up = max(up, axis + rule / 2 + clearance + above.depth)
        down = max(down, clearance + rule / 2 - axis + below.height)
        width, side = max(above.width, below.width) + 0.1 * em, 0.12 * em
        bar = Box(width, rule / 2, rule / 2, [(0.0, -rule / 2, Rule(width, rule, SymbolPart("\\frac")))])
        return overlay(
            width + 2 * side,
            (side + (width - above.width) / 2, -up, above),
            (side + (width - below.width) / 2, down, below),
            (side, -axis, bar),
        )

    def stack(self, above: Box, below: Box, style: int) -> Box:
        """Applies rule 15c: a fraction without its bar."""
        em, rule = self.size(style), self.rule
        clearance = (7 if style == DISPLAY else 3) * rule
        up = (_NUM1 if style == DISPLAY else _NUM3) * em
        down = (_DENOM1 if style == DISPLAY else _DENOM2) * em
        lacking = max(0.0, clearance - (up - above.depth) + (below.height - down)) / 2
        width = max(above.width, below.width)
        return overlay(
            width,
            ((width - above.width) / 2, -up - lacking, above),
            ((width - below.width) / 2, down + lacking, below),
        )

    def root(self, body: Box, degree: Box | None, style: int) -> Box:
        """Applies rule 11: a root. Its degree is placed as by plain TeX's \\root."""
        em, rule = self.size(style), self.rule
        clearance = rule + (_X_HEIGHT * em if style == DISPLAY else rule) / 4
        sign = self.sized("\\sqrt", body.height + body.depth + clearance + rule, em)
        tall = sign.height + sign.depth
        clearance = max(clearance, (clearance + tall - rule - body.height - body.depth) / 2)
        top = body.height + clearance + rule
        bar = Box(body.width, 0.0, 0.0, [(0.0, 0.0, Rule(body.width + 0.05 * em, rule, SymbolPart("\\sqrt", 1)))])
        left = 0.0
        placed = []
        if degree is not None:
            left = max(0.0, degree.width - 0.55 * sign.width) + 0.1 * em
            raised = 0.6 * (top - (tall - top))
            placed.append((left + 0.45 * sign.width - degree.width, -raised, degree))
        placed += [
            (left + sign.width, 0.0, body),
            (left, sign.height - top, whole("\\sqrt", sign)),
            (left + sign.width, -top, bar),
        ]
        return overlay(left + sign.width + body.width + 0.1 * em, *placed)

    def accent(self, font: str, code: int, body: Box, style: int) -> Box:
        """Applies rule 12: an accent, without the skew of the accented letter."""
        em = self.size(style)
        mark = self.glyph(font, code, em)
        measures = metrics(font, code)
        rise = max(0.0, body.height - _X_HEIGHT * em)
        middle = (body.width + body.italic) / 2 - (measures.left + measures.right) / 2 * em
        return overlay(body.width, (0.0, 0.0, body), (middle, -rise, mark))

    def accent_below(self, font: str, code: int, body: Box, style: int) -> Box:
        """Sets a text accent below a letter."""
        em, measures = self.size(style), metrics(font, code)
        drop = (body.depth + measures.top * em + self.rule) if measures.bottom > 0 else 0.0
        middle = body.width / 2 - (measures.left + measures.right) / 2 * em
        return overlay(body.width, (0.0, 0.0, body), (middle, drop, self.glyph(font, code, em)))

    def wide_accent(self, token: str, body: Box, style: int) -> Box:
        """Sets the widest glyph of the accent that is no wider than the body, or the narrowest glyph."""
        em = self.size(style)
        codes = WIDE_ACCENTS[token]
        fits = [code for code in codes if metrics("x", code).advance * em <= body.width]
        return self.accent("x", (fits or codes)[-1 if fits else 0], body, style)

    def line_above(self, name: str, body: Box) -> Box:
        line = Box(body.width, 0.0, 0.0, [(0.0, 0.0, Rule(body.width, self.rule, SymbolPart(name)))])
        return overlay(body.width, (0.0, 0.0, body), (0.0, -body.height - 3 * self.rule, line))

    def line_below(self, name: str, body: Box) -> Box:
        """Applies rule 10: a line below the body."""
        line = rule(name, body.width, self.rule)
        return overlay(body.width, (0.0, 0.0, body), (0.0, body.depth + 3 * self.rule, line))

    def arrow(self, name: str, width: float, em: float) -> Box:
        """Returns an arrow of at least the given width, as one symbol made of a head and a line."""
        left = name.endswith("leftarrow")
        both = name.endswith("leftrightarrow")
        head = self.glyph("y", 36 if both else 195 if left else 33, em)
        width = max(width, head.width)
        shaft = rule(name, width - 0.2 * em, self.rule, _AXIS * em + self.rule / 2)
        return whole(
            name, overlay(width, (0.1 * em, 0.0, shaft), (0.0 if left or both else width - head.width, 0.0, head))
        )

    def brace(self, name: str, width: float, em: float) -> Box:
        """Returns a horizontal brace as one symbol made of four pieces of cmex10 and lines between them."""
        codes = (122, 125, 124, 123) if name == "\\overbrace" else (124, 123, 122, 125)
        tips = [self.glyph("x", code, em) for code in codes]
        between = max(0.0, width - sum(tip.width for tip in tips)) / 2
        line = rule(name, between, self.rule, self.rule)
        lines = [(0.0, line)] if between else []
        return whole(name, row_of([(0.0, tips[0]), *lines, (0.0, tips[1]), (0.0, tips[2]), *lines, (0.0, tips[3])]))

    def frame(self, name: str, body: Box) -> Box:
        """Draws a frame around the body, 0.3 em from it."""
        gap = 0.3 * self.em
        width, height = body.width + 2 * gap, body.height + body.depth + 2 * gap
        top, bottom = -body.height - gap, body.depth + gap
        thin = self.rule
        sides = [
            (0.0, top, width, thin),
            (0.0, bottom, width, thin),
            (0.0, top, thin, height),
            (width, top, thin, height),
        ]
        marks = [(x, y, Rule(w, h, SymbolPart(name, i))) for i, (x, y, w, h) in enumerate(sides)]
        return overlay(width, (gap, 0.0, body), (0.0, 0.0, Box(width, -top, bottom, list(marks))))

    def grid(self, rows: Sequence[Sequence[Box]], columns: Columns, lines: Sequence[int], style: int) -> Box:
        """Sets LaTeX's array.

        Args:
          rows: the cells of each row; each row is at least 0.84 em high and 0.36 em deep.
          columns: alignment and spaces of the columns.
          lines: numbers of the rows with a line above them.
          style: style of the surrounding formula.
        """
        em = self.size(style)
        aligns = columns.aligns
        widths = [max(row[i].width for row in rows) for i in range(len(aligns))]
        heights = [max([0.84 * em, *(cell.height for cell in row)]) for row in rows]
        depths = [max([0.36 * em, *(cell.depth for cell in row)]) for row in rows]
        between = [space * em for space in columns.between]
        total = sum(widths) + em * len(widths) if columns.side else sum(widths) + sum(between)
        extra = columns.spread * em
        y = -(sum(heights + depths) + extra * (len(rows) - 1)) / 2 - _AXIS * em
        top, placed = y, []
        edges = [y]
        for row, height, depth in zip(rows, heights, depths, strict=True):
            y += height
            x = columns.side * em
            for cell, width, align, space in zip(row, widths, aligns, [*between, 0.0], strict=True):
                placed.append((x + {"l": 0.0, "c": 0.5, "r": 1.0}[align] * (width - cell.width), y, cell))
                x += width + space
            y += depth
            edges.append(y)
            y += extra
        y -= extra
        for number in lines:
            placed.append((0.0, edges[number], rule("\\hline", total, self.rule)))
        for column in columns.lines:
            x = total if column == len(widths) else sum(widths[:column]) + sum(between[:column])
            placed.append((x, y, rule("\\vline", self.rule, y - top, y - top)))
        box = overlay(total, *placed)
        return box._replace(height=-top, depth=y)

    def lines(self, rows: Sequence[Box], style: int) -> Box:
        """Sets \\substack: centred rows."""
        return self.grid([[row] for row in rows], Columns("c", ()), (), style) if rows else EMPTY
