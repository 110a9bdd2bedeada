r"""The normal form of a formula: one spelling for one look.

LaTeX has many spellings that draw the same picture: `\to` and `\rightarrow`, `{ \cal D }` and `\mathcal { D }`,
`{ x } _ { 1 }` and `x _ { 1 }`. A model that reads pictures cannot tell them apart, so its labels, and both sides of an
evaluation, are put into this form. docs/normal-form.md lists the rules.

A formula is read into rows of items. An item is a token, a space (a float, in em), or a `Node`. `_Reader` reads items
as they stand; `_joined` makes a row of them that is in normal form.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from data.spelling_tables import (
    ACCENTS,
    ARGUMENTS,
    BIG_DELIMITERS,
    BIG_OPERATORS,
    BOLD,
    DECLARATIONS,
    DROPPED,
    DROPPED_WITH_ARGUMENT,
    ENVIRONMENTS,
    FONTS,
    GREEK_CAPITALS,
    GROUPS,
    INFIX,
    NEGATED,
    OPERATORS_AND_RELATIONS,
    SPACES,
    STYLES,
    SYNONYMS,
    TEXT_FONTS,
    WITH_LIMITS,
)
from data.tokenizer import FUNCTIONS, FormulaError, side_of, tokenize

# In em: spaces of so much in a row are one \quad; from so much on a space between words is `~`.
QUAD = 0.75
WORD_SPACE = 0.25
DISPLAY, TEXT, SCRIPT, SCRIPTSCRIPT = range(4)


@dataclass(slots=True, eq=False)
class Node:
    """An item with parts.

    Attributes:
      head: the command, or the token that has scripts; "" for an empty base, "{" for a group, "verbatim" for tokens.
      rows: the arguments.
      sub: the subscript, if any.
      sup: the superscript, if any.
      tail: the delimiters, the columns of an array, or tokens.
    """

    head: str
    rows: list[Row] = field(default_factory=list)
    sub: Row | None = None
    sup: Row | None = None
    tail: str = ""


Item = str | float | Node
Row = list[Item]


def normal_form(latex: str) -> str:
    """The normal form of a formula, its tokens joined by single spaces.

    Args:
      latex: a formula, raw or tokenised.

    Raises:
      FormulaError: as `data.tokenizer.tokenize` does.
    """
    try:
        tokens: list[str] = []
        _write(_Reader(tokenize(latex)).row(), tokens)
    except RecursionError as error:
        raise FormulaError("nested too deeply") from error
    return " ".join(tokens)


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
    "root": ("\\sqrt",),
    "length": ("\\hspace", "\\kern", "\\hskip", "\\mkern", "\\mskip"),
    "infix": INFIX,
    "command": ARGUMENTS,
}


@functools.cache
def _kind(token: str) -> str:
    """The method of `_Reader` that reads a token; nothing for a symbol, "end" for what closes a row."""
    for kind, tokens in _KINDS.items():
        if token in tokens:
            return kind
    if token.startswith("\\begin{"):
        return "environment"
    if token == "}" or side_of(token) == "\\right":
        return "end"
    return {"\\left": "left", "\\middle": "middle"}.get(side_of(token) or "", "")


class _Reader:
    """Recursive descent over well-formed tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = [*tokens, "}"]  # the end, which closes nothing
        self.at = 0
        self.style = DISPLAY
        self.text = ""  # the font of the text command that is read

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def row(self, *stops: str, style: int | None = None) -> Row:
        """Everything up to one of the stops or a closing token, which is not taken, in normal form."""
        outer, self.style = self.style, self.style if style is None else style
        row = _joined(self.items(stops))
        self.style = outer
        return row

    def items(self, stops: tuple[str, ...] = ()) -> Row:
        """The same, as it stands."""
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
                elif tokens[self.at] == "{" and token[0] == "\\" and token not in ("\\\\", "\\not"):
                    items += self.scripted(self.unknown(token))
                else:
                    items.append(token)
            elif kind == "declaration":
                items += _with_font(DECLARATIONS[token], self.items(stops))
            elif kind == "style_command":
                items += self.styled(token, stops)
            elif kind == "infix":
                items = [Node(token, [_joined(items), self.row(*stops)])]
            else:
                items += self.scripted(getattr(self, kind)(token))
        return items

    def argument(self, style: int | None = None) -> Row:
        """An argument in the braces that tokenize has put there."""
        self.at += 1
        row = self.row(style=style)
        self.at += 1
        return row

    def group(self, token: str) -> Row:
        items = self.items()
        self.at += 1
        if "&" in items:  # of a \\pmatrix of plain TeX
            return [Node("{", [_joined(items)])]
        if self.tokens[self.at] in ("_", "^") and self.style == DISPLAY:
            inner = _bare(items)[1]
            if len(inner) == 1 and inner[0] in WITH_LIMITS:
                return [Node("{", [inner])]
        return items

    def scripted(self, base: Row) -> Row:
        """A base that was read, with the scripts that follow."""
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
            if len(above) == 1 and isinstance(above[0], Node) and _is_primes(above[0]):
                above = above[0].sup  # x ^ { ' }
        if not below and not above:
            return base
        lead, inner, trail = _bare(base)
        last = inner[-1] if inner else ""
        if len(inner) > 1 and _is_flat(inner) and _is_symbol(last):
            lead, inner = [*lead, *inner[:-1]], [last]
        if len(inner) > 1 or isinstance(last, Node) and (last.sub or last.sup):
            last = Node("{", [_joined(inner)])
        node = last if isinstance(last, Node) else Node(str(last))
        return [*lead, replace(node, sub=below or None, sup=above or None), *trail]

    def styled(self, token: str, stops: tuple[str, ...]) -> Row:
        r"""What follows \displaystyle and its like, up to the end of the group."""
        outer, self.style = self.style, STYLES[token]
        items = self.items(stops)
        self.style = outer
        if STYLES[token] == outer or not _bare(items)[1]:
            return items
        if max(outer, STYLES[token]) == TEXT and not any(map(_differs_in_display, items)):
            return items
        return [Node(token, [_joined(items)])]

    # Each of these reads what follows a token of its kind.

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
        """A length in braces, or bare as behind \\kern."""
        braced = self.tokens[self.at] == "{"
        end = self.tokens.index("}", self.at)
        match = _LENGTH.match("".join(self.tokens[self.at + braced : end]))
        self.at = end + 1 if braced else self.at + (len(match[0]) if match else 0)
        return [float(match[1]) * _EM[match[2]]] if match else []

    def font(self, token: str) -> Row:
        if self.tokens[self.at] != "{":
            return []
        font = FONTS[token]
        if self.text == "\\mathbf" and token in ("\\textup", "\\textrm"):
            font = ""  # they leave text bold
        outer, self.text = self.text, font if token.startswith("\\text") else ""
        self.at += 1
        items = self.items()
        self.at += 1
        self.text = outer
        return _with_font(font, items)

    def name(self, token: str) -> Row:
        row = _joined(self.font("\\mathrm"))
        return row if token == "\\operatorname" else self.with_limits(row)

    def mathop(self, token: str) -> Row:
        return self.with_limits(self.argument())

    def with_limits(self, row: Row) -> Row:
        """An operator that may have its scripts below and above it."""
        if self.tokens[self.at] not in ("_", "^"):
            return row
        if len(row) == 1:
            item = row[0]
            if item in WITH_LIMITS:
                return row
            if isinstance(item, Node) and item.head == "\\mathrm" and self.style == DISPLAY:
                return [Node("\\operatorname*", item.rows)]
        return [Node("\\mathop", [row])] if self.style == DISPLAY else row

    def big(self, token: str) -> Row:
        if self.tokens[self.at] in ("}", "{", "&", "\\\\"):
            return []
        return [Node(BIG_DELIMITERS[token], tail=_delimiter(self.take()))]

    def root(self, token: str) -> Row:
        degree: list[Row] = []
        if self.tokens[self.at] == "[":
            self.at += 1
            degree = [self.row("]", style=SCRIPTSCRIPT)]
            self.at += 1
        return [Node(token, [*degree, self.argument()])]

    def middle(self, token: str) -> Row:
        return [Node("\\middle", tail=_delimiter(token[7:]))]

    def left(self, token: str) -> Row:
        items = self.items()
        opening, closing = _delimiter(token[5:]), _delimiter(self.take()[6:])
        if _is_flat(items) or opening == closing == ".":
            items = [item.tail if isinstance(item, Node) and item.head == "\\middle" else item for item in items]
            return [*([opening] if opening != "." else []), *items, *([closing] if closing != "." else [])]
        return [Node("\\left", [_joined(items)], tail=f"{opening} {closing}")]

    def command(self, token: str) -> Row:
        """A command whose arguments are formulas."""
        name, styles = ARGUMENTS[token]
        smaller = min(self.style + 1, SCRIPTSCRIPT)
        steps = {"same": self.style, "smaller": smaller, "script": max(SCRIPT, smaller), "display": DISPLAY}
        return [Node(name, [self.argument(steps[style]) for style in styles if self.tokens[self.at] == "{"])]

    def unknown(self, token: str) -> Row:
        """A command of which nothing is known: its groups stay as they are."""
        start = self.at
        while self.tokens[self.at] == "{":
            depth = 0
            while True:
                depth += {"{": 1, "}": -1}.get(self.take(), 0)
                if depth == 0:
                    break
        return [Node("verbatim", tail=" ".join([token, *self.tokens[start : self.at]]))]

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
            lines[-1].append(self.row("&", "\\\\", end, style=style))
            separator = self.take()
            if separator == "\\\\":
                lines.append([])
            elif separator == end:
                return _array(name, columns, lines)


_LENGTH = re.compile(r"(-?(?:\d+\.?\d*|\.\d+))(pt|em|ex|mm|cm|in|mu)")
_EM = {"pt": 0.1, "em": 1.0, "ex": 0.43, "mm": 0.2845, "cm": 2.845, "in": 7.227, "mu": 1 / 18}


def _delimiter(token: str) -> str:
    return {"<": "\\langle", ">": "\\rangle", "\\backslash": "\\backslash"}.get(token) or SYNONYMS.get(token, token)


def _bare(row: Row) -> tuple[Row, Row, Row]:
    """Spaces before, what is between, spaces behind."""
    start, end = 0, len(row)
    while start < end and isinstance(row[start], float):
        start += 1
    while end > start and isinstance(row[end - 1], float):
        end -= 1
    return row[:start], row[start:end], row[end:]


def _head(item: Item | None) -> str:
    return item.head if isinstance(item, Node) else item if isinstance(item, str) else ""


def _is_primes(node: Node) -> bool:
    return not node.head and not node.sub and all(item == "\\prime" for item in node.sup or [""])


def _differs_in_display(item: Item) -> bool:
    head = _head(item)
    if head in BIG_OPERATORS or head in WITH_LIMITS or head in ("\\frac", "\\binom", "\\sqrt", "verbatim"):
        return True
    return isinstance(item, Node) and any(_differs_in_display(part) for row in item.rows for part in row)


# How high \left( is.


def _is_symbol(item: Item) -> bool:
    """Whether scripts sit on an item as on a letter."""
    if isinstance(item, Node):
        return item.head in FONTS and not item.sub and not item.sup
    return isinstance(item, str) and (item in _CLOSING or len(item) == 1 and item.isalnum())


_CLOSING = frozenset(")]|") | {"\\}", "\\|", "\\rangle", "\\rfloor", "\\rceil"}
_LOW = frozenset("acegmnopqrsuvwxyz*") | {"\\prime", "\\alpha", "\\gamma", "\\mu", "\\nu", "\\rho", "\\sigma"}
_DEEP = frozenset("gjpqyQf,;") | {
    "\\beta",
    "\\gamma",
    "\\zeta",
    "\\eta",
    "\\mu",
    "\\xi",
    "\\rho",
    "\\phi",
    "\\chi",
    "\\psi",
}
_TALL = frozenset("()[]|/") | {"\\{", "\\}", "\\langle", "\\rangle", "\\|", *BIG_OPERATORS}


def _is_flat(row: Row) -> bool:
    r"""Whether \left( and \right) around a row have the size of ( and )."""
    return all(map(_is_flat_item, row))


def _is_flat_item(item: Item) -> bool:
    if not isinstance(item, Node):
        return item not in BIG_OPERATORS and item not in ("&", "\\\\")
    if item.head == "\\middle":
        return True
    accented = item.head in ACCENTS
    if accented and not (len(item.rows[0]) == 1 and isinstance(item.rows[0][0], str) and item.rows[0][0] in _LOW):
        return False
    if not accented and (item.rows and item.head not in FONTS or item.tail or item.head in BIG_OPERATORS | WITH_LIMITS):
        return False
    if item.sup and (accented or not all(isinstance(part, str) and part in _LOW for part in item.sup)):
        return False
    return all(
        part not in _TALL and (not item.sup or part not in _DEEP)
        if isinstance(part, str)
        else isinstance(part, Node) and part.head in FONTS and not part.sub and not part.sup
        for part in item.sub or ()
    )


# Fonts.


def _with_font(font: str, row: Row) -> Row:
    """A row in a font, which goes down to each symbol that the font has."""
    return [_item_with_font(font, item) for item in row] if font else row


def _item_with_font(font: str, item: Item) -> Item:
    if isinstance(item, float):
        return item
    if font == "\\mathnormal" and _head(item) in GREEK_CAPITALS:
        slanted = "\\var" + _head(item)[1:]
        return slanted if isinstance(item, str) else replace(item, head=slanted)
    if isinstance(item, str):
        return Node(_font_of(item, font), [[item]]) if _has_font(item, font) else item
    head, rows = item.head, item.rows
    if head in ("verbatim", "\\operatorname*") or head.startswith("\\begin{"):
        return item
    if font == "\\boldsymbol" and head in BOLD:
        rows = rows if BOLD[head] else [[Node(head, rows)]]
        head = BOLD[head] or font
    elif not rows and not item.tail and head and _has_font(head, font):
        head, rows = _font_of(head, font), [[head]]
    elif head not in FONTS:
        rows = [_joined(_with_font(font, row)) for row in rows]
    sub = item.sub and _joined(_with_font(font, item.sub))
    sup = item.sup and _joined(_with_font(font, item.sup))
    return Node(head, rows, sub, sup, item.tail)


def _font_of(token: str, font: str) -> str:
    r"""\boldsymbol and \mathbf have the same digits and Greek capitals."""
    if font == "\\boldsymbol" and token.isdigit():
        return "\\mathbf"
    return "\\boldsymbol" if font == "\\mathbf" and token in GREEK_CAPITALS else font


def _has_font(token: str, font: str) -> bool:
    if len(token) == 1 and token.isalpha() and token.isascii():
        return font != "\\mathnormal"
    if font == "\\boldsymbol":
        return token not in ("&", "\\\\", "\\hline", "\\quad")
    if font == "\\mathnormal":
        return False
    return font != "\\mathrm" and (token in GREEK_CAPITALS or token.isdigit() and token.isascii())


# Rows.


def _joined(items: Row) -> Row:
    """A row in normal form: its spaces, neighbours of one font, functions, negations and dots."""
    row: Row = []
    space = 0.0
    for item in items:
        if isinstance(item, float):
            space += item
            continue
        last = row[-1] if row else None
        if isinstance(item, Node) and isinstance(last, Node) and item.head == last.head and item.head in FONTS:
            if not last.sub and not last.sup and space < QUAD:
                word = ["~"] if space >= WORD_SPACE and item.head in TEXT_FONTS else []
                row[-1] = Node(item.head, [[*last.rows[0], *word, *item.rows[0]]], item.sub, item.sup)
                space = 0.0
                continue
        if last == "\\dots":
            row[-1] = "\\cdots" if space < QUAD and _head(item) in OPERATORS_AND_RELATIONS else "\\ldots"
        if space >= QUAD and row:
            row.append("\\quad")
            last = None
        space = 0.0
        if last == "\\not" and (negated := NEGATED.get(_head(item))):
            row[-1] = replace(item, head=negated) if isinstance(item, Node) else negated
            continue
        row.append(item)
    if row and row[-1] == "\\dots":
        row[-1] = "\\ldots"
    return [_function(item) if isinstance(item, Node) else item for item in row]


def _function(node: Node) -> Item:
    r"""`\mathrm { s i n }` as \sin, unless its scripts would move."""
    if node.head != "\\mathrm" or len(node.rows[0]) < 2:
        return node
    name = "\\" + "".join(map(str, node.rows[0]))
    scripts = node.sub or node.sup
    if name not in FUNCTIONS or scripts and name in WITH_LIMITS:
        return node
    return Node(name, sub=node.sub, sup=node.sup) if scripts else name


def _array(name: str, columns: list[str], lines: list[list[Row]]) -> Row:
    """An environment without what is empty at the ends of its rows and below."""
    for line in lines:
        while line and not line[-1]:
            line.pop()
    while lines and not lines[-1]:
        lines.pop()
    count = max((len(line) for line in lines), default=0)
    environment, align, opening, closing = ENVIRONMENTS.get(name, (name, "", ".", "."))
    row: Row = []
    for i, line in enumerate(lines):
        row += ["\\\\"] if i else []
        for j, cell in enumerate(line):
            row += ["&"] if j else []
            # Behind \\ these would be taken for its own.
            if i and not j and cell and _head(cell[0]) in ("[", "*"):
                cell = [Node("{", [cell[:1]]), *cell[1:]]
            row += cell
    if environment == "array":
        columns = _columns(columns or [align] * count, count)
    node = Node(f"\\begin{{{environment}}}", [row], tail=" ".join(columns))
    return [node] if opening == closing == "." else [Node("\\left", [[node]], tail=f"{opening} {closing}")]


def _columns(columns: list[str], count: int) -> list[str]:
    """The columns that have cells, with the lines beside them."""
    kept = []
    for column in columns:
        count -= column != "|"
        if count < 0:
            break
        kept.append(column)
    return kept + ["c"] * count


def _write(row: Row, tokens: list[str]) -> None:
    """Appends the tokens of a row."""
    for i, item in enumerate(row):
        if not isinstance(item, Node):
            tokens.append(str(item))
            continue
        write: Callable[[Node, list[str], bool], None] = _WRITERS.get(item.head, _write_node)
        alone = len(row) == 1
        if not item.head:
            if i and row[i - 1] not in ("&", "\\\\"):
                tokens += ("{", "}")
        else:
            write(item, tokens, alone)
        for mark, script in (("_", item.sub), ("^", item.sup)):
            if script:
                tokens += (mark, "{")
                _write(script, tokens)
                tokens.append("}")


def _write_node(node: Node, tokens: list[str], alone: bool) -> None:
    head = node.head
    if head == "\\left":
        opening, closing = node.tail.split()
        tokens.append(head + opening)
        _write(node.rows[0], tokens)
        tokens.append("\\right" + closing)
    elif head.startswith("\\begin{"):
        tokens.append(head)
        if head == "\\begin{array}":
            tokens += ("{", *node.tail.split(), "}")
        _write(node.rows[0], tokens)
        tokens.append("\\end{" + head[7:])
    else:
        tokens.append(head)
        for row in node.rows:
            tokens.append("{")
            _write(row, tokens)
            tokens.append("}")


def _write_group(node: Node, tokens: list[str], alone: bool) -> None:
    tokens.append("{")
    _write(node.rows[0], tokens)
    tokens.append("}")


def _write_verbatim(node: Node, tokens: list[str], alone: bool) -> None:
    tokens += node.tail.split()


def _write_middle(node: Node, tokens: list[str], alone: bool) -> None:
    tokens.append("\\middle" + node.tail)


def _write_big(node: Node, tokens: list[str], alone: bool) -> None:
    tokens += (node.head, node.tail)


def _write_root(node: Node, tokens: list[str], alone: bool) -> None:
    tokens.append(node.head)
    *degree, body = node.rows
    for row in degree:
        braced = "]" in row
        tokens += ("[", "{") if braced else ("[",)
        _write(row, tokens)
        tokens += ("}", "]") if braced else ("]",)
    tokens.append("{")
    _write(body, tokens)
    tokens.append("}")


def _write_declared(node: Node, tokens: list[str], alone: bool) -> None:
    """What reaches to the end of its group: a style, or the two sides of \\atop."""
    braced = not alone or node.sub or node.sup
    tokens += ("{",) if braced else ()
    *before, after = node.rows
    for row in before:
        _write(row, tokens)
    tokens.append(node.head)
    _write(after, tokens)
    tokens += ("}",) if braced else ()


_WRITERS = {
    "{": _write_group,
    "verbatim": _write_verbatim,
    "\\middle": _write_middle,
    "\\sqrt": _write_root,
    **dict.fromkeys(BIG_DELIMITERS, _write_big),
    **dict.fromkeys([*STYLES, *INFIX], _write_declared),
}
