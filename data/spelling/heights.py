r"""Computes the height of a drawn row, which decides the size of \left( and the position of scripts.

Lengths are in em of the text size, above and below the baseline. They come from Computer Modern and the rules of The
TeXbook, Appendix G. Rows with unknown parts count as infinitely high.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from data.spelling.nodes import DISPLAY, SCRIPT, SCRIPTSCRIPT, TEXT, FormulaNode, Item, Row
from im2latex.latex_commands import ACCENTS, BIG_OPERATORS, BIG_SIZES, FONTS, FUNCTIONS, STYLES, WITH_LIMITS

_SCALE = (1.0, 1.0, 0.7, 0.5)  # font size of display, text, script and scriptscript style
_AXIS, _X_HEIGHT, _RULE = 0.25, 0.430555, 0.04
# Sizes of delimiters larger than the style's own: \big to \Bigg in text, smaller ones in scripts.
_SIZES, _SCRIPT_SIZES = tuple(BIG_SIZES.values()), (1.0, 1.26, 1.68, 2.1)
_HAT, _BAR, _VEC = 0.694444, 0.5678, 0.7144
_ACCENT = {r"\bar": _BAR, r"\vec": _VEC, r"\dot": 0.6679, r"\ddot": 0.6679, r"\tilde": 0.6679, r"\check": 0.6285}

# Commands whose argument is set in cramped style.
_CRAMPING = ACCENTS | {"\\sqrt", "\\overline", "\\widehat", "\\widetilde"}


class Extent(NamedTuple):
    """Height above and depth below the baseline, in em."""

    height: float
    depth: float


_UNKNOWN = Extent(math.inf, math.inf)
_NOTHING = Extent(0.0, 0.0)
_EXTENTS = {
    "acemnorsuvwxz": (_X_HEIGHT, 0.0),
    "gpqy": (_X_HEIGHT, 0.194444),
    "bdhkl": (0.694444, 0.0),
    "f": (0.694444, 0.194444),
    "i": (0.659525, 0.0),
    "j": (0.659525, 0.194444),
    "t": (0.615079, 0.0),
    "Q": (0.683333, 0.194444),
    "0123456789": (0.644444, 0.0),
    "()[]|/": (0.75, 0.25),
    "+-": (0.583333, 0.083333),
    "=": (0.3669, 0.0),
    "<>": (0.5391, 0.0391),
    "*": (0.465278, 0.0),
    ".": (0.105556, 0.0),
    ",": (0.105556, 0.194444),
    ";": (_X_HEIGHT, 0.194444),
    ":": (_X_HEIGHT, 0.0),
    "!": (0.694444, 0.0),
    r"\alpha \epsilon \iota \kappa \nu \pi \sigma \tau \upsilon \omega \varepsilon \varpi \infty": (_X_HEIGHT, 0.0),
    r"\gamma \eta \mu \rho \chi \varrho \varphi \varsigma": (_X_HEIGHT, 0.194444),
    r"\beta \zeta \xi \phi \psi \dagger \ddagger": (0.694444, 0.194444),
    r"\delta \theta \lambda \vartheta \partial \ell \hbar \bot \top \forall \exists": (0.694444, 0.0),
    r"\{ \} \| \langle \rangle \lfloor \rfloor \lceil \rceil \backslash": (0.75, 0.25),
    r"\prime": (0.555556, 0.0),
    r"\cdot \circ \bullet \ldots \cdots \to \leftarrow \sim": (_X_HEIGHT, 0.0),
    r"\pm \mp \times \otimes \oplus": (0.583333, 0.083333),
}


@functools.cache
def _table() -> dict[str, Extent]:
    """Returns the extent of each known symbol by its token."""
    return {
        token: Extent(*extent)
        for tokens, extent in _EXTENTS.items()
        for token in (tokens.split() if tokens[0] == "\\" else tokens)
    }


_DESCENDERS = frozenset("gp")
# Extent of all other symbols: the height of a capital, the depth of \leq.
_SYMBOL = Extent(0.683333, 0.1359)


class _Style(NamedTuple):
    """A style of TeX.

    Attributes:
      level: DISPLAY, TEXT, SCRIPT or SCRIPTSCRIPT.
      cramped: whether superscripts are set lower.
    """

    level: int
    cramped: bool = False

    @property
    def scale(self) -> float:
        return _SCALE[self.level]

    @property
    def is_display(self) -> bool:
        return self.level == DISPLAY

    def smaller(self, cramped: bool = False) -> _Style:
        """Returns the style of a numerator, or of a denominator, which is cramped."""
        return _Style(min(self.level + 1, SCRIPTSCRIPT), cramped or self.cramped)

    def script(self, cramped: bool = False) -> _Style:
        """Returns the style of a superscript, or of a subscript, which is cramped."""
        return _Style(SCRIPT if self.level <= TEXT else SCRIPTSCRIPT, cramped or self.cramped)


def delimiter_size(row: Row, level: int) -> float:
    r"""Returns the size of \left( around a row in em, or infinity if it is larger than \Bigg or unknown.

    Args:
      row: the row between the delimiters.
      level: level of the style, from DISPLAY to SCRIPTSCRIPT.
    """
    return _delimiter_size(row, _Style(level))


def is_flat(row: Row, level: int) -> bool:
    r"""Returns whether \left( and \right) around a row have the size of ( and )."""
    return delimiter_size(row, level) == _SCALE[level]


def _delimiter_size(row: Row, style: _Style) -> float:
    height, depth = _extent(row, style)
    axis = _AXIS * style.scale
    reach = max(height - axis, depth + axis)
    needed = max(2 * 0.901 * reach, 2 * reach - 0.5) - 0.0001  # \delimiterfactor, \delimitershortfall
    sizes = (style.scale, *(_SIZES if style.level < SCRIPT else _SCRIPT_SIZES))
    return next((size for size in sizes if size >= needed), math.inf)


def _extent(row: Row, style: _Style) -> Extent:
    return _highest(_NOTHING, *(_item_extent(item, style) for item in row))


def _highest(*extents: Extent) -> Extent:
    return Extent(*map(max, zip(*extents, strict=True)))


def _item_extent(item: Item, style: _Style) -> Extent:
    if isinstance(item, str):
        return _symbol(item, style)
    if isinstance(item, float):
        return _NOTHING
    nucleus = _nucleus(item, style)
    if not item.has_scripts:
        return nucleus
    with_limits = item.head in WITH_LIMITS or item.head in (r"\mathop", r"\operatorname*")
    if style.is_display and with_limits:
        return _limits(nucleus, item.sub or [], item.sup or [], style)
    is_character = not item.rows and item.head not in BIG_OPERATORS or item.head in FONTS and len(item.rows[0]) == 1
    return _scripts(nucleus, is_character, item, style)


def _symbol(token: str, style: _Style) -> Extent:
    if token in BIG_OPERATORS:
        if "int" in token:
            return Extent(1.36, 0.862) if style.is_display else Extent(0.805, 0.306)
        return Extent(0.95, 0.45) if style.is_display else Extent(0.75, 0.25)
    if token in ("&", "\\\\"):
        return _UNKNOWN
    if token in FUNCTIONS:
        return Extent(0.694444 * style.scale, (not _DESCENDERS.isdisjoint(token)) * 0.194444 * style.scale)
    is_capital = token.isalnum() or token[1:2].isupper()
    height, depth = _table().get(token) or (Extent(0.683333, 0.0) if is_capital else _SYMBOL)
    return Extent(height * style.scale, depth * style.scale)


def _nucleus(node: FormulaNode, style: _Style) -> Extent:
    """Returns the extent of a node without its scripts."""
    head, rows, scale = node.head, node.rows, style.scale
    if not head or head == "\\middle":
        return _NOTHING
    if head in BIG_SIZES:
        return _delimiter(BIG_SIZES[head])
    if not rows:
        return _UNKNOWN if head == "verbatim" else _symbol(head, style)
    body = _extent(rows[-1], style._replace(cramped=style.cramped or head in _CRAMPING))
    if head in FONTS or head in ("{", "\\mathop", "\\operatorname*"):
        return body
    if head in STYLES:
        return _extent(rows[0], _Style(STYLES[head], style.cramped))
    if head in ACCENTS:
        above = _ACCENT.get(head, _HAT) * scale
        return Extent(body.height - min(body.height, _X_HEIGHT * scale) + above, body.depth)
    if head in ("\\widehat", "\\widetilde"):
        return Extent(body.height - min(body.height, _X_HEIGHT * scale) + 0.7222, body.depth)
    if head == "\\overline":
        return Extent(body.height + 5 * _RULE, body.depth)
    if head == "\\underline":
        return Extent(body.height, body.depth + 5 * _RULE)
    if head == "\\frac":
        return _fraction(rows, style)
    if head == "\\binom":
        return _highest(_fraction(rows, style), _delimiter(2.4 if style.is_display else 1.2))
    if head == "\\sqrt":
        return _root(body, style)
    if head == "\\stackrel":
        return _limits(body, [], rows[0], style)
    if head == "\\underset":
        return _limits(body, rows[0], [], style)
    if head == "\\left":
        return _highest(body, _delimiter(_delimiter_size(rows[0], style)))
    return _UNKNOWN


def _delimiter(size: float) -> Extent:
    """Returns the extent of a delimiter centred on the axis."""
    return Extent(_AXIS + size / 2, size / 2 - _AXIS)


def _limits(nucleus: Extent, below: Row, above: Row, style: _Style) -> Extent:
    """Applies rule 13a: limits above and below an operator."""
    height, depth = nucleus
    if above:
        script = _extent(above, style.script())
        height += max(0.1111, 0.2 - script.depth) + script.height + script.depth + 0.1
    if below:
        script = _extent(below, style.script(cramped=True))
        depth += max(0.1667, 0.6 - script.height) + script.height + script.depth + 0.1
    return Extent(height, depth)


def _scripts(nucleus: Extent, is_character: bool, node: FormulaNode, style: _Style) -> Extent:
    """Applies rule 18: scripts beside a nucleus."""
    scale, inner = style.scale, style.script().scale
    up = 0.0 if is_character else nucleus.height - 0.386108 * inner
    down = 0.0 if is_character else nucleus.depth + 0.05 * inner
    above, below = _extent(node.sup or [], style.script()), _extent(node.sub or [], style.script(cramped=True))
    least = 0.288889 if style.cramped else 0.412892 if style.is_display else 0.362892
    up = max(up, least * scale, above.depth + _X_HEIGHT / 4 * scale)
    if not node.sup:
        down = max(down, 0.15 * scale, below.height - 0.8 * _X_HEIGHT * scale)
        return Extent(nucleus.height, max(nucleus.depth, down + below.depth))
    if node.sub:
        down = max(down, 0.247217 * scale)
        gap = (up - above.depth) - (below.height - down)
        if gap < 4 * _RULE:
            down += 4 * _RULE - gap
            rise = max(0.0, 0.8 * _X_HEIGHT * scale - (up - above.depth))
            up, down = up + rise, down - rise
        down += below.depth
    return Extent(max(nucleus.height, up + above.height), max(nucleus.depth, down))


def _fraction(rows: list[Row], style: _Style) -> Extent:
    """Applies rule 15: fractions."""
    scale = style.scale
    above, below = _extent(rows[0], style.smaller()), _extent(rows[1], style.smaller(cramped=True))
    up, down = (0.676508, 0.685951) if style.is_display else (0.393732, 0.344841)
    clearance = 3 * _RULE if style.is_display else _RULE
    axis = _AXIS * scale
    up = max(up * scale, axis + _RULE / 2 + clearance + above.depth)
    down = max(down * scale, clearance + _RULE / 2 - axis + below.height)
    return Extent(up + above.height, down + below.depth)


def _root(body: Extent, style: _Style) -> Extent:
    """Applies rule 11: roots."""
    clearance = _RULE + (_X_HEIGHT * style.scale if style.is_display else _RULE) / 4
    inside = body.height + body.depth
    sign = next((size for size in (1.0, *_SIZES) if size >= inside + clearance + _RULE), inside + clearance + _RULE)
    clearance = max(clearance, (clearance + sign - _RULE - inside) / 2)
    top = body.height + clearance + _RULE
    return Extent(top + _RULE, max(body.depth, sign - top))
