"""What the rows of a formula are made of."""

from __future__ import annotations

from dataclasses import dataclass, field

DISPLAY, TEXT, SCRIPT, SCRIPTSCRIPT = range(4)


@dataclass(slots=True, eq=False)
class Node:
    r"""An item with parts.

    Attributes:
      head: the command, or the token that has scripts; "" for an empty base, "{" for a group, "verbatim" for tokens
        that stay as they are.
      rows: the arguments; the cells of an environment are one row, with `&` and `\\`.
      sub: the subscript, if any.
      sup: the superscript, if any.
      tail: the delimiters, the columns of an array, or tokens.
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
Item = str | float | Node
Row = list[Item]


def head_of(item: Item | None) -> str:
    """The token or command of an item, without its scripts; nothing of a space."""
    return item.head if isinstance(item, Node) else item if isinstance(item, str) else ""


def without_spaces(row: Row) -> tuple[Row, Row, Row]:
    """The spaces before, what is between, the spaces behind."""
    start, end = 0, len(row)
    while start < end and isinstance(row[start], float):
        start += 1
    while end > start and isinstance(row[end - 1], float):
        end -= 1
    return row[:start], row[start:end], row[end:]
