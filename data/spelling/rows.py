"""Puts rows of items into normal form: fonts of single letters, spaces, neighbours, pairs of delimiters, arrays."""

from __future__ import annotations

from dataclasses import replace

from data.spelling.heights import delimiter_size
from data.spelling.nodes import FormulaNode, Item, Row, head_of
from im2latex.latex_commands import (
    BIG_SIZES,
    BOLD,
    DELIMITER_PAIRS,
    ENVIRONMENTS,
    FONTS,
    GREEK_CAPITALS,
    LETTERS,
    NEGATED,
    OPERATORS_AND_RELATIONS,
    TEXT_FONTS,
    UPRIGHT_NAMES,
    WITH_LIMITS,
)

# Thresholds in em: successive spaces of this total width become one \quad; a space of this width between letters of a
# text font becomes `~`.
QUAD = 0.75
WORD_SPACE = 0.16


def joined(items: Row) -> Row:
    r"""Puts parsed items into normal form, except for pairs of \big delimiters, see `paired`."""
    row: Row = []
    space = 0.0
    for item in items:
        if isinstance(item, float):
            space += item
            continue
        last = row[-1] if row else None
        if isinstance(last, FormulaNode) and last.head in FONTS and last.head == head_of(item) and not last.has_scripts:
            assert isinstance(item, FormulaNode)
            if space < QUAD:
                gap = ["~"] if space >= WORD_SPACE and last.head in TEXT_FONTS else []
                row[-1] = replace(item, rows=[[*last.rows[0], *gap, *item.rows[0]]])
                space = 0.0
                continue
        if last == "\\dots":
            row[-1] = "\\cdots" if space < QUAD and head_of(item) in OPERATORS_AND_RELATIONS else "\\ldots"
        if space >= QUAD and row:
            row.append("\\quad")
            last = None
        space = 0.0
        if last == "\\not" and (negated := NEGATED.get(head_of(item))):
            row[-1] = replace(item, head=negated) if isinstance(item, FormulaNode) else negated
        else:
            row.append(item)
    if row and row[-1] == "\\dots":
        row[-1] = "\\ldots"
    return [_named(item) if isinstance(item, FormulaNode) and item.head == "\\mathrm" else item for item in row]


def _named(node: FormulaNode) -> Item:
    r"""Replaces `\mathrm { s i n }` by \sin, unless this would move its scripts."""
    name = UPRIGHT_NAMES.get("".join(map(str, node.rows[0])))
    if name is None or node.has_scripts and name in WITH_LIMITS:
        return node
    return FormulaNode(name, sub=node.sub, sup=node.sup) if node.has_scripts else name


def paired(row: Row, style: int) -> Row:
    r"""Replaces pairs of \big delimiters by \left and \right where these have the same size."""
    opened: list[int] = []
    paired: Row = []
    for item in row:
        if isinstance(item, FormulaNode) and item.head in BIG_SIZES:
            if item.tail in DELIMITER_PAIRS:
                opened.append(len(paired))
            elif opened and isinstance(start := paired[opened.pop()], FormulaNode) and start.head == item.head:
                # Replacements shorten the list only after this position, so it is still valid.
                start_at = next(i for i, other in enumerate(paired) if other is start)
                inner = paired[start_at + 1 :]
                if DELIMITER_PAIRS[start.tail] == item.tail and delimiter_size(inner, style) == BIG_SIZES[item.head]:
                    paired[start_at:] = [
                        FormulaNode("\\left", [inner], item.sub, item.sup, f"{start.tail} {item.tail}")
                    ]
                    continue
        paired.append(item)
    return paired


# Fonts.


def with_font(font: str, row: Row) -> Row:
    """Applies a font to each symbol of a row that the font contains."""
    return [_item_with_font(font, item) for item in row] if font else row


def _item_with_font(font: str, item: Item) -> Item:
    if isinstance(item, float):
        return item
    if isinstance(item, str):
        return _symbol_with_font(font, item)
    head, rows = item.head, item.rows
    if head in ("verbatim", "\\operatorname*") or head.startswith("\\begin{"):
        return item
    sub, sup = (script and joined(with_font(font, script)) for script in (item.sub, item.sup))
    if font == "\\boldsymbol" and head in BOLD:
        return FormulaNode(BOLD[head] or font, rows if BOLD[head] else [[FormulaNode(head, rows)]], sub, sup)
    if not rows and not item.tail and head:
        symbol = _symbol_with_font(font, head)
        head, rows = (symbol.head, symbol.rows) if isinstance(symbol, FormulaNode) else (symbol, [])
    elif head not in FONTS:
        rows = [joined(with_font(font, row)) for row in rows]
    return FormulaNode(head, rows, sub, sup, item.tail)


def _symbol_with_font(font: str, token: str) -> str | FormulaNode:
    is_letter = len(token) == 1 and token.isalpha() and token.isascii() or token in LETTERS
    is_digit = len(token) == 1 and token.isdigit() and token.isascii()
    if font == "\\mathnormal":
        return "\\var" + token[1:] if token in GREEK_CAPITALS else token
    if font == "\\boldsymbol":
        # \boldsymbol and \mathbf have the same digits and Greek capitals.
        if token in ("&", "\\\\", "\\hline", "\\quad"):
            return token
        return FormulaNode("\\mathbf" if is_digit else font, [[token]])
    if is_letter or is_digit and font != "\\mathrm":
        return FormulaNode(font, [[token]])
    if token in GREEK_CAPITALS and font != "\\mathrm":
        return FormulaNode("\\boldsymbol" if font == "\\mathbf" else font, [[token]])
    return token


# Environments.


def array(name: str, columns: list[str], lines: list[list[Row]]) -> Row:
    """Builds an environment, without the empty cells at the ends of lines.

    Args:
      name: name of the environment.
      columns: c, l, r and |, for an array; otherwise empty.
      lines: the cells of each line.
    """
    for line in lines:
        while line and not line[-1]:
            line.pop()
    count = max((len(line) for line in lines), default=0)
    environment, align, opening, closing = ENVIRONMENTS.get(name, (name, "", ".", "."))
    row: Row = []
    for i, line in enumerate(lines):
        row += ["\\\\"] if i else []
        for j, cell in enumerate(line):
            row += ["&"] if j else []
            if i and not j and cell and head_of(cell[0]) in ("[", "*"):
                cell = [FormulaNode("{", [cell[:1]]), *cell[1:]]  # otherwise \\ would take it as its argument
            row += cell
    if lines and not lines[-1]:
        row.append("\\\\")  # keeps the empty last line
    if environment == "array":
        columns = _kept(columns or [align] * count, count)
        if len(lines) == 1:  # alignment has no effect in a single line
            columns = [column if column == "|" else "c" for column in columns]
    node = FormulaNode(f"\\begin{{{environment}}}", [row], tail=" ".join(columns))
    return [node] if opening == closing == "." else [FormulaNode("\\left", [[node]], tail=f"{opening} {closing}")]


def _kept(columns: list[str], count: int) -> list[str]:
    """Returns the first `count` columns with the lines beside them; missing columns are centred."""
    kept = []
    for column in columns:
        count -= column != "|"
        if count < 0:
            break
        kept.append(column)
    return kept + ["c"] * count
