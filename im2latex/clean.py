r"""Rewrites the tokens of a model as LaTeX that a person would type.

`x _ { i } ^ { 2 }` becomes `x_i^2`, `f ^ { \prime }` becomes `f'`, `\operatorname { s i n }` becomes `\sin`, and spaces
remain only where TeX needs them. The formula looks the same, and `im2latex.tokenizer` gives the same tokens.
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
    """Rewrites a tokenised formula; returns it unchanged if it is invalid or would get other tokens.

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
    r"""Replaces `\operatorname { s i n }` by `\sin` where both look the same."""
    result: list[str] = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        end = _group_end(tokens, index + 1) if token in ("\\operatorname", "\\operatorname*") else 0
        function = "\\" + "".join(tokens[index + 2 : end])
        limits = token.endswith("*")
        if end and function in FUNCTIONS - SPACED_FUNCTIONS and (function in FUNCTIONS_WITH_LIMITS) == limits:
            result.append(function)
            index = end + 1
        else:
            result.append(token)
            index += 1
    return result


def _scripts(tokens: list[str]) -> list[str]:
    r"""Removes the braces of scripts with one character, and writes primes as '."""
    result: list[str] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        end = _group_end(tokens, position + 1) if token in ("_", "^") else 0
        if not end:
            result.append(token)
            position += 1
            continue
        inner = _scripts(tokens[position + 2 : end])
        if token == "^":
            primes = next((i for i, part in enumerate(inner) if part != "\\prime"), len(inner))
            result += ["'"] * primes
            inner = inner[primes:]
            if primes and not inner:
                position = end + 1
                continue
        following = tokens[end + 1] if end + 1 < len(tokens) else ""
        bare = len(inner) == 1 and _stands_alone(inner[0], following)
        result += [token, *inner] if bare else [token, "{", *inner, "}"]
        position = end + 1
    return result


def _stands_alone(token: str, following: str) -> bool:
    """Returns whether a script needs no braces. A digit before a digit keeps them for readability."""
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
    r"""Returns whether TeX would join two tokens without a space, as in \alpha b, or in \\ [, an option of \\."""
    if token in STARRED and following[:1] == "*" or token == "\\\\" and following[:1] == "[":
        return True
    return bool(_WORD.fullmatch(token)) and following[:1].isascii() and following[:1].isalpha()


def _arguments_end(tokens: list[str], at: int) -> int:
    """Returns the index after all groups in brackets and braces that start at `at`."""
    while at < len(tokens) and tokens[at] in ("[", "{"):
        end = _closing(tokens, at)
        if not end:
            break
        at = end + 1
    return at


def _group_end(tokens: list[str], at: int) -> int:
    """Returns the index of the brace that closes the one at `at`; 0 if there is none at `at`."""
    return _closing(tokens, at) if tokens[at : at + 1] == ["{"] else 0


def _closing(tokens: list[str], at: int) -> int:
    """Returns the index of the token that closes the brace or bracket at `at`; 0 if there is none or it is unclosed."""
    opening = tokens[at] if at < len(tokens) else ""
    closing = {"{": "}", "[": "]"}.get(opening)
    depth = 0
    for index in range(at, len(tokens) if closing else at):
        depth += {opening: 1, closing: -1}.get(tokens[index], 0)
        if depth == 0:
            return index
    return 0
