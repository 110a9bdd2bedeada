"""A built-in typesetter: sets formulas in Computer Modern by TeX's rules, thousands per second.

The synthetic data set uses it, because a LaTeX run per formula would take a day, and mathtext's parser needs 20 ms per
formula. The rules come from The TeXbook, Appendix G, and the spacing table from its chapter 18. The input is the token
language of `im2latex.tokenizer`, with the commands of LaTeX and amsmath and the symbols of
`data.latex.computer_modern`. Text sizes (\\large) and lengths between rows are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np

from data.latex.boxes import EMPTY, Box, overlay, paint, row_of, whole
from data.latex.computer_modern import DELIMITERS, LARGE_OPERATORS, LETTERS, LIMIT_FUNCTIONS, SYMBOLS, metrics
from data.latex.forms import FORMS
from data.latex.layout import DISPLAY, SCRIPT, SCRIPTSCRIPT, TEXT, Atom, BoxLayout, Columns, space
from im2latex.latex_commands import (
    BIG_DELIMITERS,
    BIG_SIZES,
    DECLARATIONS,
    DROPPED,
    ENVIRONMENTS,
    FONTS,
    FUNCTIONS,
    INFIX,
    SPACES,
    STYLES,
    SYNONYMS,
    WITHOUT_INK,
)

_THIN = 3 / 18
# The delimiter for each token that may follow \left, \right and \middle.
_DELIMITERS = {name: name for name in DELIMITERS} | {
    **{name: other for name, other in SYNONYMS.items() if other in DELIMITERS},
    "<": "\\langle", ">": "\\rangle", "\\lgroup": "(", "\\rgroup": ")", "\\lmoustache": "(", "\\rmoustache": ")",
    "\\bracevert": "|", ".": "",
}  # fmt: skip
_RIGHT = frozenset(f"\\right{name}" for name in _DELIMITERS)
_MIDDLE = frozenset(f"\\middle{name}" for name in _DELIMITERS)
_BIG_CLASSES = {"l": "P", "r": "C", "m": "R"}
_INFIX_DELIMITERS = {"\\atop": ("", ""), "\\brace": ("\\{", "\\}"), "\\brack": ("[", "]")}
_LENGTH = re.compile(r"(-?(?:\d+\.?\d*|\.\d+))(pt|em|ex|mm|cm|in|mu)")
_EM = {"pt": 0.1, "em": 1.0, "ex": 0.43, "mm": 0.2845, "cm": 2.845, "in": 7.227, "mu": 1 / 18}


class Setter(BoxLayout):
    """Parses tokens from left to right and sets them."""

    def __init__(self, tokens: Sequence[str], em: float) -> None:
        super().__init__(em)
        self.tokens = tokens
        self.at = 0
        self.letters: dict[str, tuple[str, int]] = {}  # glyphs of the current alphabet
        self.has_infix = not INFIX.isdisjoint(tokens)

    def take(self, expected: str | None = None) -> str:
        token = self.tokens[self.at] if self.at < len(self.tokens) else "the end"
        if expected is not None and token != expected:
            raise ValueError(f"{expected} expected at token {self.at}, found {token}")
        self.at += 1
        return token

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    # Rows of atoms.

    def formula(self, style: int, stops: Collection[str] = ()) -> Box:
        """Sets a formula up to a stop token, which it does not consume."""
        letters = self.letters
        infix = self.infix(stops) if self.has_infix else None
        box = self.row(style, stops) if infix is None else self.with_infix(infix, style, stops)
        self.letters = letters
        return box

    def row(self, style: int, stops: Collection[str]) -> Box:
        """Sets atoms up to a stop token, which it does not consume, with spaces from the table of chapter 18."""
        atoms: list[Atom] = []
        spaces: list[float] = []  # explicit space before each atom, in addition to the table's
        styles: list[int] = []
        explicit = 0.0
        while self.at < len(self.tokens) and (token := self.peek()) not in stops:
            if token in SPACES:
                self.take()
                explicit += SPACES[token] * self.size(style)
            elif token in STYLES:
                self.take()
                style = STYLES[token]
            elif token in DECLARATIONS:
                self.take()
                self.letters = LETTERS.get(DECLARATIONS[token], self.letters)
            elif token in DROPPED or token in WITHOUT_INK:
                self.take()
            else:
                atom = self.atom(style)
                # Rules 5 and 6: a binary operator without operands on both sides is an ordinary symbol.
                if atom.kind == "B" and (not atoms or atoms[-1].kind in "BLRP,"):
                    atom = atom._replace(kind="O")
                if atom.kind in "RC," and atoms and atoms[-1].kind == "B":
                    atoms[-1] = atoms[-1]._replace(kind="O")
                atoms.append(atom)
                spaces.append(explicit)
                styles.append(style)
                explicit = 0.0
        boxes, before = [], ""
        for (kind, box, _), explicit_before, at_style in zip(atoms, spaces, styles, strict=True):
            gap = space(before, kind, at_style) * self.size(at_style) if before else 0.0
            boxes.append((gap + explicit_before, box))
            before = kind
        if explicit:
            boxes.append((explicit, EMPTY))
        return row_of(boxes)

    def infix(self, stops: Collection[str]) -> int | None:
        r"""Returns the position of an infix command such as \atop in the row that begins here, or None."""
        depth = 0
        for at in range(self.at, len(self.tokens)):
            token = self.tokens[at]
            if depth == 0 and token in INFIX:
                return at
            if depth == 0 and (token in stops or token == "}"):
                return None
            opens = (
                token == "{" or token.startswith("\\begin{") or token.startswith("\\left") and token[5:] in _DELIMITERS
            )
            depth += opens - (token == "}" or token.startswith("\\end{") or token in _RIGHT)
        return None

    def with_infix(self, at: int, style: int, stops: Collection[str]) -> Box:
        inner = TEXT if style == DISPLAY else min(style + 1, SCRIPTSCRIPT)
        above = self.row(inner, (self.tokens[at],))
        opening, closing = _INFIX_DELIMITERS[self.take()]
        return self.between(opening, self.stack(above, self.row(inner, stops), style), closing, style)

    def group(self, style: int) -> Box:
        self.take("{")
        box = self.formula(style, ("}",))
        self.take("}")
        return box

    def argument(self, style: int) -> Box:
        """Sets an argument: a group, or the next symbol."""
        return self.group(style) if self.peek() == "{" else self.nucleus(style).box

    def atom(self, style: int) -> Atom:
        atom = Atom("O", EMPTY) if self.peek() in ("_", "^") else self.nucleus(style)
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
        token = SYNONYMS.get(token, token)
        em = self.size(style)
        if token in self.letters:
            return Atom("O", self.glyph(*self.letters[token], em), "char")
        if token in SYMBOLS:
            kind, font, code = SYMBOLS[token]
            return Atom(kind, self.glyph(font, code, em), "char")
        if token in LARGE_OPERATORS:
            text, display = LARGE_OPERATORS[token]
            box = self.centred(self.glyph("x", display if style == DISPLAY else text, em), style)
            beside = style != DISPLAY or token in ("\\int", "\\oint")
            return Atom("L", box, "box" if beside else "limits")
        if token in FUNCTIONS:
            limits = token in LIMIT_FUNCTIONS and style == DISPLAY
            return Atom("L", self.name(token, em), "limits" if limits else "char")
        if token == "{":
            self.at -= 1
            return Atom("O", self.group(style))
        if token == "\\neq":
            equals, slash = self.glyph("r", 61, em), self.glyph("y", 54, em)
            return Atom("R", self.negated("=", equals, slash, em))
        if token in ("\\ldots", "\\cdots", "\\dots"):
            dot = self.glyph(*(("y", 162) if token == "\\cdots" else ("m", 58)), em)
            return Atom("I", row_of([(0.0 if i == 0 else _THIN * em, dot) for i in range(3)]))
        if token in FONTS:
            return Atom("O", self.in_alphabet(FONTS[token], style), "char")
        if token.startswith("\\left") and token[5:] in _DELIMITERS:
            return Atom("I", self.fenced(token, style))
        if token in BIG_DELIMITERS:
            return self.big(token, style)
        if token.startswith("\\begin{"):
            return Atom("O", self.environment(token[7:-1], style))
        if token in SPACES:  # an argument without braces
            return Atom("O", EMPTY._replace(width=SPACES[token] * em))
        if token not in FORMS:
            raise ValueError(f"{token} at token {self.at - 1} cannot be set here")
        content = FORMS[token](self, token, style)
        return content if isinstance(content, Atom) else Atom("O", content)

    # Parts that consist of several glyphs.

    def in_alphabet(self, alphabet: str, style: int) -> Box:
        """Sets an argument in an alphabet; symbols that the alphabet lacks keep their normal form."""
        letters, self.letters = self.letters, LETTERS[alphabet]
        box = self.argument(style)
        self.letters = letters
        return box

    def name(self, token: str, em: float) -> Box:
        """Sets the name of a function; \\limsup and \\liminf contain a thin space."""
        thin = _THIN * em
        return row_of([
            (thin if i == 3 and len(token) == 7 and token[1:4] == "lim" else 0.0, self.glyph("r", ord(letter), em))
            for i, letter in enumerate(token[1:])
        ])  # fmt: skip

    def negated(self, name: str, box: Box, slash: Box, em: float) -> Box:
        measures = metrics("y", 54)
        middle = (box.width - (measures.left + measures.right) * em) / 2
        return whole(f"\\not {name}", overlay(box.width, (0.0, 0.0, box), (middle, 0.0, slash)))

    def fence(self, name: str, body: Box, style: int) -> Box:
        return self.delimiter(name, body, style) if name else EMPTY._replace(width=0.12 * self.em)

    def between(self, opening: str, body: Box, closing: str, style: int) -> Box:
        parts = [self.fence(opening, body, style), body, self.fence(closing, body, style)]
        return row_of([(0.0, part) for part in parts])

    def fenced(self, token: str, style: int) -> Box:
        bodies, fences = [], [_DELIMITERS[token[5:]]]
        while True:
            bodies.append(self.formula(style, _RIGHT | _MIDDLE))
            closing = self.take()
            if closing not in _RIGHT and closing not in _MIDDLE:
                raise ValueError(f"{token} without \\right at token {self.at - 1}")
            fences.append(_DELIMITERS[closing[6 if closing in _RIGHT else 7 :]])
            if closing in _RIGHT:
                break
        tallest = row_of([(0.0, body) for body in bodies])
        boxes = [self.fence(fences[0], tallest, style)]
        for body, fence in zip(bodies, fences[1:], strict=True):
            boxes += [body, self.fence(fence, tallest, style)]
        return row_of([(0.0, box) for box in boxes])

    def big(self, token: str, style: int) -> Atom:
        delimiter = self.take()
        if delimiter not in _DELIMITERS:
            raise ValueError(f"{delimiter} at token {self.at - 1} is no delimiter")
        kind = _BIG_CLASSES.get(token[-1], "O")
        name = _DELIMITERS[delimiter]
        if not name:
            return Atom(kind, EMPTY)
        # LaTeX sets them around content of 0.85 to 1.75 em, which requires nine tenths of that size.
        return Atom(
            kind, self.centred(self.sized(name, 0.9 * BIG_SIZES[BIG_DELIMITERS[token]] * self.em, self.em), style)
        )

    # Arrays.

    def environment(self, name: str, style: int) -> Box:
        kind, align, opening, closing = ENVIRONMENTS.get(name, (name, "c", ".", "."))
        if kind in ("aligned", "gathered"):
            cell = DISPLAY
        elif kind in ("smallmatrix", "subarray"):
            cell = SCRIPT
        elif kind == "array":
            cell = max(style, TEXT)
        else:
            raise ValueError(f"\\begin{{{name}}} cannot be set here")
        column_spec = self.columns() if name in ("array", "tabular", "subarray") else None
        rows, lines = self.rows(f"\\end{{{name}}}", cell)
        count = max(map(len, rows))
        if column_spec is None:
            aligns = ["rl"[i % 2] for i in range(count)] if kind == "aligned" else [align] * count
            between = [(0.0 if kind == "aligned" and i % 2 == 0 else 1.0) for i in range(count - 1)]
            columns = Columns(aligns, between, 0.0, (), 0.3 if cell == DISPLAY else 0.0)
        else:
            aligns = [column for column in column_spec if column != "|"]
            line_columns = [i - column_spec[:i].count("|") for i, column in enumerate(column_spec) if column == "|"]
            columns = Columns(aligns, [1.0] * (len(aligns) - 1), 0.5, line_columns)
        if count > len(columns.aligns) or set(columns.aligns) - set("clr"):
            raise ValueError(f"an array of {len(columns.aligns)} columns with rows of {[len(row) for row in rows]}")
        full = [row + [EMPTY] * (len(columns.aligns) - len(row)) for row in rows]
        box = self.grid(full, columns, lines, cell if kind == "smallmatrix" else style)
        if (opening, closing) == (".", "."):
            return box
        return self.between(_DELIMITERS[opening], box, _DELIMITERS[closing], style)

    def columns(self) -> list[str]:
        self.take("{")
        columns = []
        while self.peek() not in ("}", ""):
            columns.append(self.take())
        self.take("}")
        return columns

    def rows(self, end: str, style: int) -> tuple[list[list[Box]], list[int]]:
        """Sets the cells of an environment; returns them by row, and the numbers of the rows below a \\hline."""
        rows: list[list[Box]] = [[]]
        lines = []
        while True:
            while self.peek() == "\\hline":
                self.take()
                lines.append(len(rows) - 1)
            span = self.span()
            rows[-1] += [self.formula(style, ("&", "\\\\", "\\cr", end)), *[EMPTY] * (span - 1)]
            separator = self.take()
            if separator == end:
                break
            if separator in ("\\\\", "\\cr"):
                rows.append([])
            elif separator != "&":
                raise ValueError(f"\\begin{end[4:]} without {end}")
        if len(rows) > 1 and len(rows[-1]) == 1 and not rows[-1][0].marks:
            rows.pop()
        return rows, lines

    def span(self) -> int:
        r"""Returns the number of columns of a cell, after consuming the first two arguments of a \multicolumn."""
        if self.peek() != "\\multicolumn":
            return 1
        self.take()
        number = "".join(self.columns())
        self.columns()
        return int(number) if number.isdigit() and 1 < int(number) < 100 else 1

    def length(self) -> float:
        """Parses a length, in braces or without, as after \\kern. Returns pixels."""
        text = "".join(self.columns() if self.peek() == "{" else self.tokens[self.at : self.at + 10])
        match = _LENGTH.match(text)
        if match is None:
            raise ValueError(f"no length at token {self.at}")
        if self.tokens[self.at - 1] != "}":
            self.at += len(match[0])
        return float(match[1]) * _EM[match[2]] * self.em

    def skip_option(self) -> None:
        if self.peek() == "[":
            while self.take() != "]":
                if self.at > len(self.tokens):
                    raise ValueError("[ without ]")


def typeset(tokens: Sequence[str], em: float) -> Box:
    """Sets a formula in display style.

    Args:
      tokens: the formula in the token language of `im2latex.tokenizer`.
      em: text size in pixels per em.

    Raises:
      ValueError: a token is not supported, or groups are unbalanced.
    """
    setter = Setter(tokens, em)
    box = setter.formula(DISPLAY)
    if setter.at != len(tokens):
        raise ValueError(f"{tokens[setter.at]} at token {setter.at} closes nothing")
    return box


def draw(tokens: Sequence[str], em: float, border: int = 2) -> np.ndarray:
    """Draws a formula, black on white, cropped to its ink.

    Args:
      tokens: the formula in the token language of `im2latex.tokenizer`.
      em: text size in pixels per em.
      border: white pixels around the ink.

    Returns:
      uint8 (H, W), 255 is white.

    Raises:
      ValueError: a token is not supported, groups are unbalanced, or the formula has no ink.
    """
    return paint(typeset(tokens, em), border)
