"""Parses the tokens of `im2latex.tokenizer` into rows of items, by recursive descent."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

from data.spelling.heights import is_flat
from data.spelling.nodes import DISPLAY, SCRIPT, SCRIPTSCRIPT, TEXT, FormulaNode, Item, Row, head_of, without_spaces
from data.spelling.rows import array, joined, paired, with_font
from im2latex.latex_commands import (
    ARGUMENTS,
    BIG_DELIMITERS,
    BIG_OPERATORS,
    CLOSING,
    DECLARATIONS,
    DROPPED,
    DROPPED_WITH_ARGUMENT,
    ENVIRONMENTS,
    FONTS,
    FUNCTIONS,
    GROUPS,
    INFIX,
    LOCAL_NAMES,
    OTHER_ENVIRONMENTS,
    SPACES,
    STYLES,
    SYNONYMS,
    TEXT_ACCENTS,
    TEXT_COMMANDS,
    WITH_LIMITS,
    WITH_OPTION,
    WITH_OTHER_ARGUMENTS,
)
from im2latex.tokenizer import side_of


def read(tokens: list[str]) -> Row:
    """Parses a formula into a row in normal form.

    Args:
      tokens: the result of `im2latex.tokenizer.tokenize`.
    """
    return _TokenParser(tokens).row()


_KINDS = {
    "group": ("{",),
    "script": ("_", "^"),
    "space": SPACES,
    "font": FONTS,
    "declaration": DECLARATIONS,
    "style_command": STYLES,
    "dropped": DROPPED,
    "dropped_argument": DROPPED_WITH_ARGUMENT,
    "grouped": GROUPS,
    "name": ("\\operatorname", "\\operatorname*"),
    "mathop": ("\\mathop",),
    "big": BIG_DELIMITERS,
    "with_option": WITH_OPTION,
    "length": ("\\hspace", "\\kern", "\\hskip", "\\mkern", "\\mskip"),
    "modulo": ("\\mod",),
    "infix": INFIX,
    "command": ARGUMENTS,
}

# Commands without arguments.
_SYMBOLS = {f"\\{name}" for name in [*LOCAL_NAMES.split(), *"\\{}|#&_%$"]} - WITH_OTHER_ARGUMENTS | FUNCTIONS


@functools.cache
def _kind(token: str) -> str:
    """Returns the name of a token's method of `_TokenParser`; "" for a symbol, "end" if it closes a row."""
    for kind, tokens in _KINDS.items():
        if token in tokens:
            return kind
    if token.startswith("\\begin{"):
        known = token[7:-1] in ENVIRONMENTS or token[7:-1] in OTHER_ENVIRONMENTS
        return "environment" if known else "unknown_environment"
    if token == "}" or side_of(token) == "\\right":
        return "end"
    if side := side_of(token):
        return side[1:]
    is_command = token[0] == "\\" and len(token) > 1
    return "unknown" if is_command and token not in _SYMBOLS and token not in SYNONYMS else ""


class _TokenParser:
    """Recursive descent over well-formed tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = [*tokens, "}"]  # with an end marker
        self.at = 0
        self.style = DISPLAY
        self.text = ""  # font of the enclosing text command

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def row(self, *stops: str, style: int | None = None) -> Row:
        """Parses up to a stop or closing token, which it does not consume, and returns a row in normal form."""
        outer, self.style = self.style, self.style if style is None else style
        row = self.finished(self.items(stops))
        self.style = outer
        return row

    def finished(self, items: Row) -> Row:
        return paired(joined(items), self.style)

    def items(self, stops: tuple[str, ...] = ()) -> Row:
        """Parses up to a stop or closing token, which it does not consume, and returns the items as they are."""
        items: Row = []
        tokens = self.tokens
        while (token := tokens[self.at]) not in stops:
            kind = _kind(token)
            if kind == "end":
                break
            self.at += 1
            if not kind:
                token = SYNONYMS.get(token, token)
                if tokens[self.at] in ("_", "^"):
                    items += self.scripted([token])
                else:
                    items.append(token)
            elif kind == "declaration":
                items += with_font(DECLARATIONS[token], self.items(stops))
            elif kind == "style_command":
                items += self.styled(token, stops)
            elif kind == "infix":
                items = [FormulaNode(token, [self.finished(items), self.row(*stops)])]
            else:
                items += self.scripted(getattr(self, kind)(token))
        return items

    def argument(self, style: int | None = None) -> Row:
        """Parses an argument; the tokenizer has put braces around every argument."""
        self.at += 1
        row = self.row(style=style)
        self.at += 1
        return row

    def group(self, token: str) -> Row:
        items = self.items()
        self.at += 1
        if "&" in items:  # the argument of plain TeX's \pmatrix
            return [FormulaNode("{", [self.finished(items)])]
        if self.tokens[self.at] in ("_", "^") and self.style == DISPLAY:
            inner = without_spaces(items)[1]
            if len(inner) == 1 and inner[0] in WITH_LIMITS:
                return [FormulaNode("{", [inner])]
        return items

    def scripted(self, base: Row) -> Row:
        """Parses the scripts that follow and adds them to a base that was parsed before."""
        if self.tokens[self.at] not in ("_", "^"):
            return base
        style = SCRIPT if self.style <= TEXT else SCRIPTSCRIPT
        below = above = None
        if self.tokens[self.at] == "_":
            self.at += 1
            below = self.argument(style)
        if self.tokens[self.at] == "^":
            self.at += 1
            above = self.argument(style)
            if len(above) == 1 and isinstance(above[0], FormulaNode) and _is_primes(above[0]):
                above = above[0].sup  # x ^ { ' }
        if not below and not above:
            return base
        if len(base) == 1 and isinstance(base[0], str):
            return [FormulaNode(base[0], sub=below or None, sup=above or None)]
        lead, inner, trail = without_spaces(base)
        last = inner[-1] if inner else ""
        if len(inner) > 1 and _is_symbol(last) and is_flat(inner, self.style):
            lead, inner = [*lead, *inner[:-1]], [last]
        if len(inner) > 1 or isinstance(last, FormulaNode) and last.has_scripts:
            last = FormulaNode("{", [self.finished(inner)])
        node = last if isinstance(last, FormulaNode) else FormulaNode(str(last))
        if node.head == "\\mathop" and not below and above:
            node = FormulaNode("\\stackrel", [above, *node.rows])
        elif node.head == "\\mathop" and below and not above:
            node = FormulaNode("\\underset", [below, *node.rows])
        else:
            node = replace(node, sub=below or None, sup=above or None)
        return [*lead, node, *trail]

    def styled(self, token: str, stops: tuple[str, ...]) -> Row:
        r"""Parses what follows a style command such as \displaystyle, up to the end of the group."""
        outer, self.style = self.style, STYLES[token]
        items = self.items(stops)
        row = self.finished(items)
        self.style = outer
        if STYLES[token] == outer or not row:
            return items
        if max(outer, STYLES[token]) == TEXT and not any(map(_differs_in_display, row)):
            return items
        return [FormulaNode(token, [row])]

    # The methods named in _KINDS: each parses what follows a token of its kind.

    def script(self, token: str) -> Row:
        self.at -= 1
        return []

    def grouped(self, token: str) -> Row:
        if self.tokens[self.at] != "{":
            return []
        self.at += 1
        return self.group("{")

    def space(self, token: str) -> Row:
        return [SPACES[token]]

    def dropped(self, token: str) -> Row:
        return []

    def dropped_argument(self, token: str) -> Row:
        row = self.argument() if self.tokens[self.at] == "{" else []
        return [0.5 * len(row)] if DROPPED_WITH_ARGUMENT[token] else []

    def length(self, token: str) -> Row:
        r"""Parses a length, in braces or without, as after \kern."""
        if self.tokens[self.at] == "{":
            match = _LENGTH.fullmatch("".join(self.verbatim_group()[1:-1]))
        elif match := _LENGTH.match("".join(self.tokens[self.at : self.at + 10])):
            self.at += len(match[0])
        return [float(match[1]) * _EM[match[2]]] if match else []

    def modulo(self, token: str) -> Row:
        return [1.0, "\\bmod"]

    def font(self, token: str) -> Row:
        if self.tokens[self.at] != "{":
            return []
        if token in TEXT_COMMANDS:
            start, tokens = self.at, self.verbatim_group()
            if not TEXT_ACCENTS.isdisjoint(tokens):  # math mode has no such accents
                return [FormulaNode("verbatim", tail=" ".join([token, *tokens]))]
            self.at = start
        font = FONTS[token]
        if self.text == "\\mathbf" and token in ("\\textup", "\\textrm"):
            font = ""  # these commands keep bold text bold
        elif token in TEXT_COMMANDS and {self.text, font} == {"\\mathbf", "\\mathit"}:
            font = "\\boldsymbol"
        outer, self.text = self.text, font or self.text if token in TEXT_COMMANDS else ""
        self.at += 1
        items = self.items()
        self.at += 1
        self.text = outer
        return with_font(font, items)

    def name(self, token: str) -> Row:
        row = joined(self.font("\\mathrm"))
        return [*row, 0.167] if token == "\\operatorname" else self.with_limits(row)

    def mathop(self, token: str) -> Row:
        return self.with_limits(self.argument())

    def with_limits(self, row: Row) -> Row:
        """Turns a row into an operator whose scripts are set below and above it in display style."""
        if self.tokens[self.at] not in ("_", "^"):
            return row
        if len(row) == 1:
            item = row[0]
            if item in WITH_LIMITS:
                return row
            if isinstance(item, FormulaNode) and item.head == "\\mathrm" and not item.has_scripts:
                return [FormulaNode("\\operatorname*", item.rows)] if self.style == DISPLAY else row
        return [FormulaNode("\\mathop", [row])] if self.style == DISPLAY else row

    def big(self, token: str) -> Row:
        if _kind(self.tokens[self.at]) or self.tokens[self.at] in ("&", "\\\\"):
            return []
        return [FormulaNode(BIG_DELIMITERS[token], tail=_delimiter(self.take()))]

    def with_option(self, token: str) -> Row:
        r"""Parses \sqrt with an optional degree, or an arrow with optional text below."""
        option: list[Row] = []
        if self.tokens[self.at] == "[":
            self.at += 1
            option = [self.row("]", style=SCRIPTSCRIPT)]
            self.at += 1
        return [FormulaNode(token, [*option, self.argument(None if token == "\\sqrt" else SCRIPT)])]

    def middle(self, token: str) -> Row:
        return [FormulaNode("\\middle", tail=_delimiter(token[7:]))]

    def left(self, token: str) -> Row:
        items = self.items()
        row = self.finished(items)
        opening, closing = _delimiter(token[5:]), _delimiter(self.take()[6:])
        if opening == closing == "." or is_flat(row, self.style):
            items = [item.tail if isinstance(item, FormulaNode) and item.head == "\\middle" else item for item in items]
            return [*([opening] if opening != "." else []), *items, *([closing] if closing != "." else [])]
        return [FormulaNode("\\left", [row], tail=f"{opening} {closing}")]

    def command(self, token: str) -> Row:
        """Parses a command whose arguments are formulas."""
        name, styles = ARGUMENTS[token]
        smaller = min(self.style + 1, SCRIPTSCRIPT)
        steps = {"same": self.style, "smaller": smaller, "script": max(SCRIPT, smaller), "display": DISPLAY}
        rows = [self.argument(steps[style]) for style in styles if self.tokens[self.at] == "{"]
        if name == "\\underset" and self.style == DISPLAY and len(rows) == 2 and len(rows[1]) == 1:
            base = rows[1][0]
            if base in WITH_LIMITS:
                return [FormulaNode(str(base), sub=rows[0])]
            if isinstance(base, FormulaNode) and base.head == "\\mathrm" and not base.has_scripts:
                return [FormulaNode("\\operatorname*", base.rows, rows[0])]
        return [FormulaNode(name, rows)]

    def unknown(self, token: str) -> Row:
        """Keeps an unknown command and its arguments verbatim."""
        tokens = [token]
        while self.tokens[self.at] == "{":
            tokens += self.verbatim_group()
        return [FormulaNode("verbatim", tail=" ".join(tokens))]

    def verbatim_group(self) -> list[str]:
        """Returns the tokens of a group, including its braces."""
        start, depth = self.at, 0
        while True:
            depth += {"{": 1, "}": -1}.get(self.take(), 0)
            if depth == 0:
                return self.tokens[start : self.at]

    def unknown_environment(self, token: str) -> Row:
        start, depth, end = self.at - 1, 1, "\\end" + token[6:]
        while depth:
            depth += {token: 1, end: -1}.get(self.take(), 0)
        return [FormulaNode("verbatim", tail=" ".join(self.tokens[start : self.at]))]

    def environment(self, token: str) -> Row:
        name = token[7:-1]
        end = f"\\end{{{name}}}"
        columns = []
        if name in ("array", "tabular"):
            self.at += 1
            while (column := self.take()) != "}":
                columns.append(column)
        style = {"aligned": DISPLAY, "split": DISPLAY, "gathered": DISPLAY, "smallmatrix": SCRIPT}.get(name, TEXT)
        lines: list[list[Row]] = [[]]
        while True:
            start = self.at
            lines[-1].append(self.row("&", "\\\\", end, style=style))
            separator = self.take()
            if separator == "\\\\":
                lines.append([])
            elif separator == end:
                if len(lines[-1]) == 1 and self.at == start + 1:  # the line after the last \\ is empty
                    lines.pop()
                return array(name, columns, lines)


_LENGTH = re.compile(r"(-?(?:\d+\.?\d*|\.\d+))(pt|em|ex|mm|cm|in|mu)")
_EM = {"pt": 0.1, "em": 1.0, "ex": 0.43, "mm": 0.2845, "cm": 2.845, "in": 7.227, "mu": 1 / 18}


def _delimiter(token: str) -> str:
    return {"<": "\\langle", ">": "\\rangle", "\\backslash": "\\backslash"}.get(token) or SYNONYMS.get(token, token)


def _is_primes(node: FormulaNode) -> bool:
    return not node.head and not node.sub and all(item == "\\prime" for item in node.sup or [""])


def _differs_in_display(item: Item) -> bool:
    head = head_of(item)
    if head in BIG_OPERATORS or head in WITH_LIMITS or head in ("\\frac", "\\binom", "\\sqrt", "verbatim"):
        return True
    return isinstance(item, FormulaNode) and any(_differs_in_display(part) for row in item.rows for part in row)


def _is_symbol(item: Item) -> bool:
    """Returns whether scripts are placed on an item as on a letter."""
    if isinstance(item, FormulaNode):
        return item.head in FONTS and not item.has_scripts
    return isinstance(item, str) and (item in CLOSING or len(item) == 1 and item.isalnum())
