"""Commands with arguments, for the built-in typesetter. Each function parses a command's arguments and sets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from data.latex.boxes import EMPTY, Box, overlay, row_of, rule
from data.latex.computer_modern import ACCENTS, ACCENTS_BELOW, TEXT_ACCENTS, WIDE_ACCENTS
from data.latex.layout import DISPLAY, SCRIPT, SCRIPTSCRIPT, TEXT, Atom
from im2latex.latex_commands import GROUPS

if TYPE_CHECKING:
    from data.latex.typesetting import Setter

_CLASSES = {
    "\\mathbin": "B", "\\mathrel": "R", "\\mathopen": "P", "\\mathclose": "C", "\\mathpunct": ",", "\\mathinner": "I",
}  # fmt: skip
_INTEGRALS = {"\\iint": 2, "\\iiint": 3, "\\iiiint": 4}


def _fraction(setter: Setter, token: str, style: int) -> Box | Atom:
    inner = TEXT if style == DISPLAY else min(style + 1, SCRIPTSCRIPT)
    above, below = setter.group(inner), setter.group(inner)
    if token == "\\binom":
        return setter.between("(", setter.stack(above, below, style), ")", style)
    return Atom("I", setter.fraction(above, below, style))


def _root(setter: Setter, token: str, style: int) -> Box:
    degree = None
    if setter.peek() == "[":
        setter.take()
        degree = setter.formula(SCRIPTSCRIPT, ("]",))
        setter.take("]")
    return setter.root(setter.group(style), degree, style)


def _accent(setter: Setter, token: str, style: int) -> Box:
    font, code = ACCENTS[TEXT_ACCENTS.get(token, token)]
    return setter.accent(font, code, setter.argument(style), style)


def _three_dots(setter: Setter, token: str, style: int) -> Box:
    body, em = setter.group(style), setter.size(style)
    dot = setter.glyph("m", 58, em)
    dots = row_of([(0.0, dot)] * 3)
    return overlay(body.width, (0.0, 0.0, body), ((body.width - dots.width) / 2, -body.height - 0.15 * em, dots))


def _accent_below(setter: Setter, token: str, style: int) -> Box:
    return setter.accent_below(*ACCENTS_BELOW[token], setter.argument(style), style)


def _wide_accent(setter: Setter, token: str, style: int) -> Box:
    return setter.wide_accent(token, setter.group(style), style)


def _overline(setter: Setter, token: str, style: int) -> Box:
    return setter.line_above(token, setter.group(style))


def _underline(setter: Setter, token: str, style: int) -> Box:
    return setter.line_below(token, setter.group(style))


def _over_arrow(setter: Setter, token: str, style: int) -> Box:
    """Sets an arrow above or below a body, as wide as the body."""
    body, em = setter.group(style), setter.size(style)
    arrow = setter.arrow(token, body.width, em)
    y = body.depth + 0.6 * em if token.startswith("\\under") else -body.height - 0.05 * em
    return overlay(max(body.width, arrow.width), (0.0, 0.0, body), (0.0, y, arrow))


def _long_arrow(setter: Setter, token: str, style: int) -> Atom:
    below = None
    smaller = min(max(style, TEXT) + 1, SCRIPTSCRIPT)
    if setter.peek() == "[":
        setter.take()
        below = setter.formula(smaller, ("]",))
        setter.take("]")
    above = setter.group(smaller)
    width = max(above.width, below.width if below else 0.0) + setter.size(style)
    return Atom("R", setter.limits(setter.arrow(token[2:], width, setter.size(style)), below, above))


def _brace(setter: Setter, token: str, style: int) -> Atom:
    body, em = setter.group(DISPLAY), setter.size(style)
    brace = setter.brace(token, body.width, em)
    y = -body.height - 0.3 * em if token == "\\overbrace" else body.depth + 0.3 * em
    width = max(body.width, brace.width)
    parts = ((width - body.width) / 2, 0.0, body), ((width - brace.width) / 2, y, brace)
    return Atom("O", overlay(width, *parts), "limits")


def _stacked(setter: Setter, token: str, style: int) -> Atom:
    smaller = min(max(style, TEXT) + 1, SCRIPTSCRIPT)
    script = setter.group(smaller)
    base = setter.group(style)
    below, above = (script, None) if token == "\\underset" else (None, script)
    return Atom("R", setter.limits(base, below, above))


def _operator(setter: Setter, token: str, style: int) -> Atom:
    """Sets \\mathop, \\operatorname and \\operatorname*; all but \\operatorname take limits in display style."""
    box = setter.group(style) if token == "\\mathop" else setter.in_alphabet("\\mathrm", style)
    limits = style == DISPLAY and token != "\\operatorname"
    return Atom("L", box, "limits" if limits else "char")


def _classed(setter: Setter, token: str, style: int) -> Atom:
    return Atom(_CLASSES.get(token, "O"), setter.argument(style))


def _modulo(setter: Setter, token: str, style: int) -> Atom:
    em = setter.size(style)
    mod = setter.name("\\mod", em)
    if token == "\\bmod":
        return Atom("B", mod)
    opening, closing = (setter.glyph("r", code, em) for code in (40, 41))
    gap = em if style == DISPLAY else 0.44 * em
    if token == "\\mod":
        return Atom("O", row_of([(gap, mod), (em / 3, EMPTY)]))
    return Atom("I", row_of([(gap, opening), (0.0, mod), (em / 3, setter.group(style)), (0.0, closing)]))


def _phantom(setter: Setter, token: str, style: int) -> Box:
    box = setter.group(style)._replace(marks=[])
    if token == "\\hphantom":
        return box._replace(height=0.0, depth=0.0)
    return box._replace(width=0.0) if token == "\\vphantom" else box


def _smash(setter: Setter, token: str, style: int) -> Box:
    return setter.group(style)._replace(height=0.0, depth=0.0)


def _without_width(setter: Setter, token: str, style: int) -> Box:
    """Sets a body with zero width; it extends to the right for \\rlap and \\lefteqn, to the left for \\llap."""
    body = setter.argument(style)
    return overlay(0.0, (-body.width if token == "\\llap" else 0.0, 0.0, body))


def _not(setter: Setter, token: str, style: int) -> Atom:
    name = setter.peek()
    body = setter.nucleus(style)
    em = setter.size(style)
    return Atom("R" if body.kind == "O" else body.kind, setter.negated(name, body.box, setter.glyph("y", 54, em), em))


def _integrals(setter: Setter, token: str, style: int) -> Atom:
    em = setter.size(style)
    one = setter.centred(setter.glyph("x", 90 if style == DISPLAY else 82, em), style)
    back = -0.45 * em if style == DISPLAY else -0.25 * em
    return Atom("L", row_of([(back if i else 0.0, one) for i in range(_INTEGRALS[token])]))


def _substack(setter: Setter, token: str, style: int) -> Box:
    setter.take("{")
    rows, _ = setter.rows("}", max(style, SCRIPT))
    return setter.lines([cell for row in rows for cell in row], max(style, SCRIPT))


def _space(setter: Setter, token: str, style: int) -> Box:
    return EMPTY._replace(width=setter.length())


def _raised(setter: Setter, token: str, style: int) -> Box:
    lift = setter.length()
    setter.skip_option()
    setter.skip_option()
    body = setter.argument(style)
    return overlay(body.width, (0.0, -lift, body))


def _framed(setter: Setter, token: str, style: int) -> Box:
    """Sets \\fbox, \\boxed, and \\makebox and \\framebox, whose optional widths are ignored."""
    setter.skip_option()
    setter.skip_option()
    body = setter.group(style)
    return body if token == "\\makebox" else setter.frame("\\fbox", body)


def _rule(setter: Setter, token: str, style: int) -> Box:
    width, height = setter.length(), setter.length()
    return rule(token, width, height, height) if width > 0 and height > 0 else EMPTY._replace(width=max(width, 0.0))


def _text_script(setter: Setter, token: str, style: int) -> Box:
    smaller = min(max(style, TEXT) + 1, SCRIPTSCRIPT)
    script = setter.group(smaller)
    below, above = (script, None) if token == "\\textsubscript" else (None, script)
    return setter.scripts(Atom("O", EMPTY), below, above, style)


def _small_capitals(setter: Setter, token: str, style: int) -> Box:
    return setter.in_alphabet("\\mathrm", style)


def _ring(setter: Setter, token: str, style: int) -> Box:
    letter = "A" if token == "\\AA" else "a"
    return setter.accent(*ACCENTS["\\mathring"], setter.glyph("r", ord(letter), setter.size(style)), style)


def _polish(setter: Setter, token: str, style: int) -> Box:
    """Sets L or l with a stroke."""
    em = setter.size(style)
    letter, stroke = setter.glyph("r", ord(token[1]), em), setter.glyph("r", 195, em)
    return overlay(letter.width, (0.0, 0.0, letter), (0.0, 0.0, stroke))


_Form = Callable[["Setter", str, int], Box | Atom]


def _table(*entries: tuple[_Form, str]) -> dict[str, _Form]:
    return {token: form for form, tokens in entries for token in tokens.split()}


# The function that sets each command.
FORMS: dict[str, _Form] = _table(
    (_fraction, r"\frac \binom"),
    (_root, r"\sqrt"),
    (_accent, " ".join([*ACCENTS, *TEXT_ACCENTS])),
    (_three_dots, r"\dddot"),
    (_accent_below, " ".join(ACCENTS_BELOW)),
    (_wide_accent, " ".join(WIDE_ACCENTS)),
    (_overline, r"\overline"),
    (_underline, r"\underline"),
    (
        _over_arrow,
        r"\overrightarrow \overleftarrow \overleftrightarrow \underrightarrow \underleftarrow",
    ),
    (_long_arrow, r"\xrightarrow \xleftarrow"),
    (_brace, r"\overbrace \underbrace"),
    (_stacked, r"\stackrel \overset \underset"),
    (_operator, r"\mathop \operatorname \operatorname*"),
    (_classed, " ".join([*_CLASSES, *GROUPS, "\\vcenter"])),
    (_modulo, r"\bmod \pmod \mod"),
    (_phantom, r"\phantom \hphantom \vphantom"),
    (_smash, r"\smash"),
    (_without_width, r"\rlap \llap \lefteqn"),
    (_not, r"\not"),
    (_integrals, " ".join(_INTEGRALS)),
    (_substack, r"\substack"),
    (_space, r"\hspace \hskip \kern \mkern \mskip"),
    (_raised, r"\raisebox"),
    (_framed, r"\makebox \framebox \fbox \boxed"),
    (_rule, r"\rule"),
    (_text_script, r"\textsubscript \textsuperscript"),
    (_small_capitals, r"\textsc"),
    (_ring, r"\AA \aa"),
    (_polish, r"\L \l"),
)
