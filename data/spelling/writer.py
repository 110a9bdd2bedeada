"""Turns rows in normal form into tokens."""

from __future__ import annotations

from data.spelling.nodes import FormulaNode, Row
from im2latex.latex_commands import BIG_SIZES, INFIX, STYLES, WITH_OPTION


def write(row: Row) -> list[str]:
    """Returns the tokens of a row."""
    tokens: list[str] = []
    _write(row, tokens)
    return tokens


def _write(row: Row, tokens: list[str]) -> None:
    for i, item in enumerate(row):
        if not isinstance(item, FormulaNode):
            tokens.append(str(item))
            continue
        if item.head:
            _write_nucleus(item, tokens, alone=len(row) == 1 and not item.has_scripts)
        elif i and row[i - 1] not in ("&", "\\\\"):  # an empty group separates scripts from the item before
            tokens += ("{", "}")
        for mark, script in (("_", item.sub), ("^", item.sup)):
            if script:
                tokens.append(mark)
                _write_group(script, tokens)


def _write_group(row: Row, tokens: list[str]) -> None:
    tokens.append("{")
    _write(row, tokens)
    tokens.append("}")


def _write_nucleus(node: FormulaNode, tokens: list[str], alone: bool) -> None:
    """Writes a node without its scripts; `alone` tells whether it is the only item of its row."""
    head, rows = node.head, node.rows
    if head == "{":
        _write_group(rows[0], tokens)
    elif head == "verbatim":
        tokens += node.tail.split(" ")
    elif head == "\\middle":
        tokens.append(head + node.tail)
    elif head in BIG_SIZES:
        tokens += (head, node.tail)
    elif head == "\\left":
        opening, closing = node.tail.split(" ")
        tokens.append(head + opening)
        _write(rows[0], tokens)
        tokens.append("\\right" + closing)
    elif head.startswith("\\begin{"):
        tokens.append(head)
        if head == "\\begin{array}":
            tokens += ("{", *node.tail.split(), "}")
        _write(rows[0], tokens)
        tokens.append("\\end" + head[6:])
    elif head in STYLES or head in INFIX:  # these extend to the ends of their group, so they need one
        if not alone:
            tokens.append("{")
        *before, after = rows
        for row in before:
            _write(row, tokens)
        tokens.append(head)
        _write(after, tokens)
        if not alone:
            tokens.append("}")
    else:
        tokens.append(head)
        has_option = head in WITH_OPTION and len(rows) == 2
        if has_option:
            _write_option(rows[0], tokens)
        for row in rows[has_option:]:
            _write_group(row, tokens)


def _write_option(row: Row, tokens: list[str]) -> None:
    tokens.append("[")
    if "]" in row:
        _write_group(row, tokens)
    else:
        _write(row, tokens)
    tokens.append("]")
