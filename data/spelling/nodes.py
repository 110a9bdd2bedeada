"""The data structure of a parsed formula: rows of items, some of which are nodes with rows of their own."""

from __future__ import annotations

from dataclasses import dataclass, field

DISPLAY, TEXT, SCRIPT, SCRIPTSCRIPT = range(4)


@dataclass(slots=True, eq=False)
class FormulaNode:
    r"""A command with its arguments, or a symbol with scripts.

    Attributes:
      head: the command or symbol; "" for an empty base, "{" for a group, "verbatim" for tokens that are kept as they
        are.
      rows: the arguments. An environment has a single row with the cells, `&` and `\\`.
      sub: the subscript, if any.
      sup: the superscript, if any.
      tail: the delimiters of \left or a big delimiter, the columns of an array, or the verbatim tokens.
    """

    head: str
    rows: list[Row] = field(default_factory=list)
    sub: Row | None = None
    sup: Row | None = None
    tail: str = ""

    @property
    def has_scripts(self) -> bool:
        return bool(self.sub or self.sup)


# A token, a space in em, or a node.
Item = str | float | FormulaNode
Row = list[Item]


def head_of(item: Item | None) -> str:
    """Returns an item's symbol or command, without its scripts; "" for a space or None."""
    return item.head if isinstance(item, FormulaNode) else item if isinstance(item, str) else ""


def without_spaces(row: Row) -> tuple[Row, Row, Row]:
    """Splits a row into its leading spaces, its content, and its trailing spaces."""
    start, end = 0, len(row)
    while start < end and isinstance(row[start], float):
        start += 1
    while end > start and isinstance(row[end - 1], float):
        end -= 1
    return row[:start], row[start:end], row[end:]
