r"""Raw LaTeX to tokens in the normalised style of im2latex-100k.

im2markup normalised its formulas by a patched KaTeX; this reads TeX's structure itself and writes the same style:
every argument of a command and of a script in braces, the subscript before the superscript, `\left(` one token, a
letter or digit a token, environments `\begin{array} { c c } a & b \\ c & d \end{array}`. Beyond im2markup, functions
stay or become commands (`\sin`, not `\operatorname { s i n }`). What draws nothing (comments, labels, numbers of
equations) is dropped; spaces the author asked for (`\,`, `\quad`, `~`) are kept. `\rm` and `\over` become `\mathrm` and
`\frac`, dollars and equation environments around the whole are taken off.

A token list joined by spaces is tokenised to itself.
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
    """A formula that TeX would not read: braces, scripts or environments do not fit together."""


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
        if match.lastgroup is None and text[0] != "\\":  # most of them
            pass
        elif match["side"]:
            if not match["delimiter"]:
                raise FormulaError(f"\\{match['side']} without a delimiter")
            text = f"\\{match['side']}{match['delimiter']}"
        elif match["edge"]:
            text = f"\\{match['edge']}{{{match['environment']}}}"
        elif text[0] == "\\" and text[1:].isspace():
            text = "\\"  # a control space: in the normalised style a lone backslash
        text = SCRIPT_MARKS.get(text, text)
        lexemes.append(_Lexeme(text, match.start(), match.end()))
    return lexemes


class _Reader:
    """Recursive descent over the lexemes; every method returns tokens."""

    def __init__(self, latex: str) -> None:
        self.lexemes = _lex(latex)
        self.at = 0
        self.no_mark_before = 0  # up to here nothing draws, and no script follows it

    def peek(self) -> str:
        return self.lexemes[self.at].text if self.at < len(self.lexemes) else ""

    def take(self) -> str:
        self.at += 1
        return self.lexemes[self.at - 1].text

    def sequence(self, *stops: str) -> list[str]:
        """Everything up to one of the stops, which is not taken, or to the end; the stop \\right is any delimiter's."""
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
        """An atom, then its subscript, then its superscript with the primes first."""
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
        """Takes a mark of a script, and what draws nothing before it; nothing where there is no mark."""
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
        """Whether a token that was taken draws nothing; if so takes its argument too."""
        if token in WITHOUT_INK_ARGUMENT and self.peek() == "{":
            self.at = self.take_brace_end() + 1  # names of labels are no formulas, so they are not read as such
        return is_inkless(token)

    def argument(self, owner: str) -> list[str]:
        """What a command or a script applies to, without its braces."""
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
        """The argument of \\mbox and its like, blanks as ~ unless the text is tokenised already."""
        # Looked at before it is read: read twice, text in text in text would take twice as long at each level.
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
            if self.peek() == "\\rm":  # text is upright anyway
                self.take()
            else:
                tokens += self.scripted()
        if self.lexemes[end].start > self.lexemes[end - 1].end:
            tokens.append("~")
        self.take()
        return tokens

    def take_brace_end(self) -> int:
        """Takes the opening brace; the index of the one that closes it."""
        end = self.brace_end()
        self.take()
        return end

    def brace_end(self) -> int:
        """The index of the brace that closes the one which is next."""
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
        """The columns of an array: c, l, r and |; what LaTeX puts between columns is dropped."""
        if self.peek() == "[":  # [t]: the array's own position
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
    r"""`\left`, `\right` or `\middle` for a token such as `\left(`."""
    match = _SIDE.match(token)
    return match[0] if match else None


def is_end(token: str) -> bool:
    return token.startswith("\\end{")


def is_inkless(token: str) -> bool:
    return token in WITHOUT_INK or token in WITHOUT_INK_ARGUMENT


_WRAPPED = re.compile(r"\s*(?:\$\$(.*)\$\$|\$(.*)\$|\\\[(.*)\\\]|\\\((.*)\\\))\s*", re.DOTALL)


def tokenize(latex: str) -> list[str]:
    """Tokens of a formula in the normalised style.

    Args:
      latex: a formula, raw or tokenised, with or without the dollars around it.

    Raises:
      FormulaError: braces, scripts, \\left or environments do not fit together, or an argument is missing.
    """
    if wrapped := _WRAPPED.fullmatch(latex):
        latex = next(group for group in wrapped.groups() if group is not None)
    reader = _Reader(latex)
    try:
        tokens = reader.sequence()
    except RecursionError as error:
        raise FormulaError("nested too deeply") from error
    return tokens
