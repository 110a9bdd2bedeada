r"""Tokenises raw LaTeX in the normalised style of im2latex-100k.

im2markup normalised its formulas with a patched KaTeX. This module parses TeX itself and writes the same style:
arguments of commands and scripts are in braces, the subscript comes before the superscript, `\left(` is one token, each
letter or digit is one token, and environments look like `\begin{array} { c c } a & b \\ c & d \end{array}`. Unlike in
im2markup, functions are commands (`\sin`, not `\operatorname { s i n }`). Invisible parts (comments, labels, equation
numbers) are dropped, and explicit spaces (`\,`, `\quad`, `~`) are kept. `\rm` and `\over` become `\mathrm` and `\frac`.
Dollars and equation environments around the whole formula are removed.

Tokenising is idempotent: tokens joined by spaces give the same tokens again.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import NamedTuple

from im2latex.latex_commands import (
    FORMULA_ENVIRONMENTS,
    FRACTIONS,
    FUNCTIONS,
    ONE_ARGUMENT,
    OPTION_AND_ARGUMENT,
    RENAMED,
    SCRIPT_MARKS,
    TEXT_ARGUMENT,
    TEXT_AS_MATHRM,
    TWO_ARGUMENTS,
    WITHOUT_INK,
    WITHOUT_INK_ARGUMENT,
)


class FormulaError(ValueError):
    """An invalid formula, for example with unbalanced braces, double scripts or unclosed environments."""


_LEXEME = re.compile(
    r"""
      %[^\n]*\n?                                                  # a comment
    | \\(?P<side>left|right|middle)(?![a-zA-Z])\s*(?P<delimiter>\\[a-zA-Z]+|\\.|[^\s{}]|)
    | \\(?P<edge>begin|end)\s*\{\s*(?P<environment>[a-zA-Z]+\*?)\s*\}
    | \\(?:operatorname|hspace|vspace|tag)\*
    | \\[a-zA-Z]+ | \\[^\s] | \\\s? | \S
    """,
    re.VERBOSE,
)


_LENGTH = re.compile(r"\[-?[\d.]+(pt|mm|cm|ex|em|in)\]")


class _Lexeme(NamedTuple):
    text: str
    start: int
    end: int


def _lex(latex: str) -> list[_Lexeme]:
    lexemes = []
    for match in _LEXEME.finditer(latex):
        text = match[0]
        if text.startswith("%"):
            continue
        if match.lastgroup is None and text[0] != "\\":  # the most frequent case
            pass
        elif match["side"]:
            if not match["delimiter"]:
                raise FormulaError(f"\\{match['side']} without a delimiter")
            text = f"\\{match['side']}{match['delimiter']}"
        elif match["edge"]:
            text = f"\\{match['edge']}{{{match['environment']}}}"
        elif text[0] == "\\" and text[1:].isspace():
            text = "\\"  # a control space, which is a lone backslash in the normalised style
        text = SCRIPT_MARKS.get(text, text)
        lexemes.append(_Lexeme(text, match.start(), match.end()))
    return lexemes


class _Parser:
    """A recursive descent parser of the lexemes; its methods return tokens."""

    def __init__(self, latex: str) -> None:
        self.lexemes = _lex(latex)
        self.at = 0
        self.no_mark_before = 0  # there is no script mark before this index, so `script_mark` need not search again

    def peek(self) -> str:
        return self.lexemes[self.at].text if self.at < len(self.lexemes) else ""

    def take(self) -> str:
        self.at += 1
        return self.lexemes[self.at - 1].text

    def sequence(self, *stops: str) -> list[str]:
        """Parses up to a stop token, which it does not consume, or to the end; \\right stands for any \\right(."""
        tokens: list[str] = []
        while (token := self.peek()) and token not in stops and side_of(token) not in stops:
            if token in FRACTIONS:
                self.take()
                rest = self.sequence(*stops)
                return [FRACTIONS[token], "{", *tokens, "}", "{", *rest, "}"]
            if token == "\\rm":
                self.take()
                return [*tokens, "\\mathrm", "{", *self.sequence(*stops), "}"]
            tokens += self.scripted()
        return tokens

    def scripted(self) -> list[str]:
        """Parses an atom with its scripts; returns the subscript first, then the superscript with primes first."""
        tokens = [] if self.peek() in ("_", "^", "'") else self.atom()
        below: list[str] | None = None
        above: list[str] | None = None
        primes = 0
        while mark := self.script_mark():
            if mark == "'":
                primes += 1
            elif mark == "_":
                if below is not None:
                    raise FormulaError("double subscript")
                below = self.argument("_")
            elif mark == "^":
                if above is not None:
                    raise FormulaError("double superscript")
                above = self.argument("^")
        if below is not None:
            tokens += ["_", "{", *below, "}"]
        if above is not None or primes:
            tokens += ["^", "{", *["\\prime"] * primes, *(above or []), "}"]
        return tokens

    def script_mark(self) -> str:
        """Consumes a script mark with the invisible tokens before it and returns it; "" if no mark follows."""
        if self.at < self.no_mark_before:
            return ""
        start = self.at
        while is_inkless(token := self.peek()):
            self.skip_inkless(self.take())
        if token in ("_", "^", "'"):
            return self.take()
        self.at, self.no_mark_before = start, self.at
        return ""

    def skip_inkless(self, token: str) -> bool:
        """Returns whether a consumed token is invisible; if so, also consumes its argument."""
        if token in WITHOUT_INK_ARGUMENT and self.peek() == "{":
            self.at = self.take_brace_end() + 1  # names of labels are not formulas, so skip them without parsing
        return is_inkless(token)

    def argument(self, owner: str) -> list[str]:
        """Parses the argument of a command or a script; returns it without braces."""
        token = self.peek()
        if (
            not token
            or token in ("}", "&", "\\\\", "_", "^", "\\rm", *FRACTIONS)
            or side_of(token) == "\\right"
            or is_end(token)
        ):
            raise FormulaError(f"{owner} without its argument")
        if token == "'":
            self.take()
            return ["\\prime"]
        if token == "{":
            return self.group()
        return self.atom()

    def group(self) -> list[str]:
        self.take()
        tokens = self.sequence("}")
        if self.peek() != "}":
            raise FormulaError("{ without }")
        self.take()
        return tokens

    def atom(self) -> list[str]:
        token = self.take()
        token = RENAMED.get(token, token)
        if token == "{":
            self.at -= 1
            return ["{", *self.group(), "}"]
        if token == "}":
            raise FormulaError("} without {")
        if self.skip_inkless(token):
            return []
        if side_of(token) == "\\left":
            tokens = self.sequence("\\right", "}")
            if side_of(self.peek()) != "\\right":
                raise FormulaError("\\left without \\right")
            return [token, *tokens, self.take()]
        if side_of(token) == "\\right":
            raise FormulaError("\\right without \\left")
        if token.startswith("\\begin{"):
            return self.environment(token[7:-1])
        if is_end(token):
            raise FormulaError("\\end without \\begin")
        if token in ("\\operatorname", "\\operatorname*"):
            name = self.argument(token)
            function = "\\" + "".join(name)
            return [function] if function in FUNCTIONS else [token, "{", *name, "}"]
        if token in TEXT_ARGUMENT:
            return self.text(token)
        if token in TWO_ARGUMENTS:
            first = self.argument(token)
            return [token, "{", *first, "}", "{", *self.argument(token), "}"]
        if token in OPTION_AND_ARGUMENT:
            option = []
            if self.peek() == "[":
                self.take()
                option = ["[", *self.sequence("]", "}"), "]"]
                if self.peek() != "]":
                    raise FormulaError(f"{token} [ without ]")
                self.take()
            return [token, *option, "{", *self.argument(token), "}"]
        if token in ONE_ARGUMENT:
            return [token, "{", *self.argument(token), "}"]
        return [token]

    def text(self, token: str) -> list[str]:
        """Parses the argument of \\mbox and similar commands; spaces become ~ unless the text is tokenised already."""
        # Decide before parsing; parsing twice would double the time at each level of nested text.
        inside = self.lexemes[self.at : self.brace_end()] if self.peek() == "{" else []
        is_raw = any(a.end == b.start and a.text.isalnum() and b.text.isalnum() for a, b in itertools.pairwise(inside))
        tokens = self.spaced_text() if is_raw else self.argument(token)
        name = "\\mathrm" if token in TEXT_AS_MATHRM else token
        return [name, "{", *tokens, "}"]

    def spaced_text(self) -> list[str]:
        end = self.take_brace_end()
        tokens = []
        while self.at < end:
            gap = self.lexemes[self.at].start > self.lexemes[self.at - 1].end
            tokens += ["~"] if gap else []
            if self.peek() in FRACTIONS:
                raise FormulaError(f"{self.peek()} in text")
            if self.peek() == "\\rm":  # has no effect, because text is upright
                self.take()
            else:
                tokens += self.scripted()
        if self.lexemes[end].start > self.lexemes[end - 1].end:
            tokens.append("~")
        self.take()
        return tokens

    def take_brace_end(self) -> int:
        """Consumes the opening brace and returns the index of its closing brace."""
        end = self.brace_end()
        self.take()
        return end

    def brace_end(self) -> int:
        """Returns the index of the brace that closes the next one."""
        depth = 0
        for index in range(self.at, len(self.lexemes)):
            depth += {"{": 1, "}": -1}.get(self.lexemes[index].text, 0)
            if depth == 0:
                return index
        raise FormulaError("{ without }")

    def environment(self, name: str) -> list[str]:
        tokens = [] if name in FORMULA_ENVIRONMENTS else [f"\\begin{{{name}}}"]
        if name in ("array", "tabular"):
            tokens += self.columns()
        end = f"\\end{{{name}}}"
        while True:
            tokens += self.sequence("&", "\\\\", end, "}")
            separator = self.peek()
            if separator not in ("&", "\\\\", end):
                raise FormulaError(f"\\begin{{{name}}} without {end}")
            self.take()
            if separator == "\\\\":
                self.skip_length()
            if separator == end:
                return tokens if name in FORMULA_ENVIRONMENTS else [*tokens, end]
            tokens.append(separator)

    def skip_length(self) -> None:
        r"""Skips the space between rows in `\\[4mm]`."""
        rest = "".join(lexeme.text for lexeme in self.lexemes[self.at : self.at + 12])
        if _LENGTH.match(rest):
            while self.take() != "]":
                pass

    def columns(self) -> list[str]:
        """Parses the columns of an array: c, l, r and |; material between columns, such as @{}, is dropped."""
        if self.peek() == "[":  # [t], the vertical position of the array
            self.sequence("]")
            if self.peek() != "]":
                raise FormulaError("[ without ]")
            self.take()
        if self.peek() != "{":
            raise FormulaError("an array without columns")
        kept, depth = [], 0
        end = self.take_brace_end()
        while self.at < end:
            token = self.take()
            depth += {"{": 1, "}": -1}.get(token, 0)
            if depth == 0 and token in "clr|":
                kept.append(token)
        self.take()
        return ["{", *kept, "}"]


_SIDE = re.compile(r"\\(?:left|right|middle)(?=[^a-zA-Z])")


@functools.lru_cache(4096)
def side_of(token: str) -> str | None:
    r"""Returns `\left`, `\right` or `\middle` for a token such as `\left(`; otherwise None."""
    match = _SIDE.match(token)
    return match[0] if match else None


def is_end(token: str) -> bool:
    return token.startswith("\\end{")


def is_inkless(token: str) -> bool:
    return token in WITHOUT_INK or token in WITHOUT_INK_ARGUMENT


_WRAPPED = re.compile(r"\s*(?:\$\$(.*)\$\$|\$(.*)\$|\\\[(.*)\\\]|\\\((.*)\\\))\s*", re.DOTALL)


def tokenize(latex: str) -> list[str]:
    """Tokenises a formula in the normalised style.

    Args:
      latex: a formula, raw or tokenised, with or without surrounding dollars.

    Raises:
      FormulaError: braces, scripts, \\left or environments do not match, or an argument is missing.
    """
    if wrapped := _WRAPPED.fullmatch(latex):
        latex = next(group for group in wrapped.groups() if group is not None)
    reader = _Parser(latex)
    try:
        tokens = reader.sequence()
    except RecursionError as error:
        raise FormulaError("nested too deeply") from error
    return tokens
