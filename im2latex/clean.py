r"""LaTeX as a person would type it, from the tokens that a model writes.

`x _ { i } ^ { 2 }` becomes `x_i^2`, `f ^ { \prime }` becomes `f'`, `\operatorname { s i n }` becomes `\sin`, and blanks
stay only where TeX needs them. The picture stays the same, and so do the tokens of `im2latex.tokenizer`.
"""

from __future__ import annotations

import re

from im2latex.latex_commands import (
    BLANKS_ARE_DRAWN,
    FUNCTIONS,
    FUNCTIONS_WITH_LIMITS,
    SCRIPTS_WITHOUT_BRACES,
    SPACED_FUNCTIONS,
    STARRED,
)
from im2latex.tokenizer import FormulaError, tokenize

_WORD = re.compile(r"\\[a-zA-Z]+|\\(?:left|right|middle)\\[a-zA-Z]+")


def clean(latex: str) -> str:
    """Rewrites a formula of tokens; what is no formula, or would become another one, is given back as it is.

    Args:
        latex: tokens, separated by one space.
    """
    try:
        tokens = tokenize(latex)
        cleaned = _joined(_scripts(_functions(latex.split(" "))))
        return cleaned if tokenize(cleaned) == tokens else latex
    except FormulaError:
        return latex


def _functions(tokens: list[str]) -> list[str]:
    r"""`\operatorname { s i n }` as `\sin`, where both look alike."""
    kept: list[str] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        end = _group_end(tokens, at + 1) if token in ("\\operatorname", "\\operatorname*") else 0
        function = "\\" + "".join(tokens[at + 2 : end])
        limits = token.endswith("*")
        if end and function in FUNCTIONS - SPACED_FUNCTIONS and (function in FUNCTIONS_WITH_LIMITS) == limits:
            kept.append(function)
            at = end + 1
        else:
            kept.append(token)
            at += 1
    return kept


def _scripts(tokens: list[str]) -> list[str]:
    r"""Scripts of one character without braces, and primes as primes."""
    kept: list[str] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        end = _group_end(tokens, at + 1) if token in ("_", "^") else 0
        if not end:
            kept.append(token)
            at += 1
            continue
        inner = _scripts(tokens[at + 2 : end])
        if token == "^":
            primes = next((i for i, part in enumerate(inner) if part != "\\prime"), len(inner))
            kept += ["'"] * primes
            inner = inner[primes:]
            if primes and not inner:
                at = end + 1
                continue
        following = tokens[end + 1] if end + 1 < len(tokens) else ""
        bare = len(inner) == 1 and _stands_alone(inner[0], following)
        kept += [token, *inner] if bare else [token, "{", *inner, "}"]
        at = end + 1
    return kept


def _stands_alone(token: str, following: str) -> bool:
    """Whether a script needs no braces; a digit before a digit has some, for the eye."""
    if token.isascii() and token.isdigit() and following[:1].isdigit():
        return False
    return token in SCRIPTS_WITHOUT_BRACES or (
        len(token) == 1 and (token.isascii() and token.isalnum() or token in "+-*")
    )


def _joined(tokens: list[str]) -> str:
    parts: list[str] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        following = tokens[at + 1] if at + 1 < len(tokens) else ""
        parts.append(token)
        if token == "\\" or _runs_into(token, following):
            parts.append(" ")
        at += 1
        if token in BLANKS_ARE_DRAWN:
            end = _arguments_end(tokens, at)
            parts.append(" ".join(tokens[at:end]))
            at = end
    return "".join(parts)


def _runs_into(token: str, following: str) -> bool:
    r"""Whether TeX would read two tokens as one: \alpha b, and \\ [ as the beginning of a space between rows."""
    if token in STARRED and following[:1] == "*" or token == "\\\\" and following[:1] == "[":
        return True
    return bool(_WORD.fullmatch(token)) and following[:1].isascii() and following[:1].isalpha()


def _arguments_end(tokens: list[str], at: int) -> int:
    """Behind all groups in brackets and braces that follow."""
    while at < len(tokens) and tokens[at] in ("[", "{"):
        end = _closing(tokens, at)
        if not end:
            break
        at = end + 1
    return at


def _group_end(tokens: list[str], at: int) -> int:
    """The index of the brace that closes the one at `at`; 0 where none opens there."""
    return _closing(tokens, at) if tokens[at : at + 1] == ["{"] else 0


def _closing(tokens: list[str], at: int) -> int:
    """The index of what closes the brace or bracket at `at`; 0 where none opens there or none closes."""
    opening = tokens[at] if at < len(tokens) else ""
    closing = {"{": "}", "[": "]"}.get(opening)
    depth = 0
    for index in range(at, len(tokens) if closing else at):
        depth += {opening: 1, closing: -1}.get(tokens[index], 0)
        if depth == 0:
            return index
    return 0
