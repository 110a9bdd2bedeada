r"""Makes new formulas by exchanging parts of the same kind between known formulas.

Parts are numerators and denominators, subscripts, superscripts, the content of roots and accents, the content between
\left and \right, cells, and sides of relations. One or two parts of a formula are replaced by parts of the same kind
from other formulas, so that groups stay balanced and the formula keeps its structure. All kinds are drawn equally
often, so that rare ones (roots, cells) are exchanged as often as subscripts. On average, a part is as long as the part
that it replaces.
"""

from __future__ import annotations

import array
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from data.formulas.lists import Formula, drawn_key
from data.latex.program import is_local
from im2latex.errors import UserError
from im2latex.tokenizer import FormulaError, side_of

KINDS = ("fraction", "subscript", "superscript", "root", "accent", "delimited", "cell", "row", "side")
SOURCE = "recombined"


def _names(commands: str) -> frozenset[str]:
    return frozenset(commands.split())


# The kinds of the groups that follow a token.
_GROUPS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("\\frac", "\\binom"), ("fraction", "fraction")),
    **{"_": ("subscript",), "^": ("superscript",), "\\sqrt": ("root",)},
    **dict.fromkeys(
        _names(
            r"""\hat \widehat \tilde \widetilde \bar \vec \dot \ddot \overline \underline \overbrace \underbrace
            \overrightarrow"""
        ),
        ("accent",),
    ),
}
# Commands whose arguments are not formulas, or not independent ones.
_CLOSED = _names(
    r"""\mathrm \mathbf \mathit \mathcal \mathsf \mathtt \mathbb \mathfrak \mathscr \boldsymbol \operatorname
    \operatorname* \textrm \textbf \textit \textsf \texttt \textsc \textup \textnormal \emph \hspace \mathop \substack
    \multicolumn \raisebox \rule \mbox"""
)
# Tokens that separate sides, outside brackets.
_SEPARATORS = _names(
    r"""= < > \leq \le \geq \ge \neq \ne \equiv \sim \simeq \approx \cong \propto \ll \gg \in \notin \ni \subset
    \subseteq \supset \supseteq \to \rightarrow \longrightarrow \mapsto \Rightarrow \Leftrightarrow \iff \implies \quad
    \qquad , ; ."""
)
_BRACKETS = {"(": 1, "[": 1, "\\{": 1, "\\langle": 1, ")": -1, "]": -1, "\\}": -1, "\\rangle": -1}
# Environments whose cells are pieces of a line instead of entries.
_LINES = _names("aligned split gathered")
# Commands that apply to the rest of their group, or divide it. Parts with one of these at the top level are not
# exchanged.
_REACHING = _names(
    r"""\atop \above \brace \brack \choose \over \rm \bf \it \cal \sf \tt \sl \sc \em \mit \boldmath \displaystyle
    \textstyle \scriptstyle \scriptscriptstyle \tiny \scriptsize \footnotesize \small \normalsize \large \Large \LARGE
    \huge \Huge \hline \cline"""
)
# Maximum number of attempts per requested formula.
_TRIES = 50
# Share of formulas in which two parts are replaced.
_TWICE = 0.3


class FormulaPart(NamedTuple):
    """A part of a formula: its kind, and the range of its tokens; `end` is exclusive."""

    kind: str
    start: int
    end: int


def find_parts(tokens: Sequence[str]) -> list[FormulaPart]:
    """Returns the parts of a formula that can be exchanged.

    Args:
      tokens: the result of `im2latex.tokenizer.tokenize`.

    Raises:
      FormulaError: groups are not balanced.
    """
    finder = _Finder(tokens)
    end, cuts, free = finder.row(0, ())
    if end != len(tokens) or "&" in cuts.values():
        raise FormulaError("an end without a beginning")
    if cuts and free:
        edges = [-1, *cuts, end]
        finder.parts += [FormulaPart("side", left + 1, right) for left, right in itertools.pairwise(edges)]
    return [part for part in finder.parts if _is_whole(tokens, part)]


def _is_whole(tokens: Sequence[str], part: FormulaPart) -> bool:
    r"""Returns whether a part is not empty and does not belong to the token before it, as [ after \\ does."""
    taken = ("_", "^", "[", "*") if part.kind in ("cell", "row") else ("_", "^")
    return part.start < part.end and tokens[part.start] not in taken


class _Finder:
    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens
        self.parts: list[FormulaPart] = []

    def peek(self, at: int) -> str:
        return self.tokens[at] if at < len(self.tokens) else ""

    def row(self, at: int, stops: tuple[str, ...]) -> tuple[int, dict[int, str], bool]:
        """Reads a row up to a stop token.

        Returns:
          The position of the stop, the separators by position, and whether the row can be exchanged.
        """
        cuts: dict[int, str] = {}
        reaches, depth = False, 0
        while at < len(self.tokens):
            token = self.tokens[at]
            if token in stops or side_of(token) in stops:
                break
            reaches |= token in _REACHING
            depth += _BRACKETS.get(token, 0)
            if token == "&" or depth == 0 and token in _SEPARATORS:
                cuts[at] = token
            if token in ("}", "\\\\") or side_of(token) == "\\right" or token.startswith("\\end{"):
                break
            at = self.item(at, token)
        return at, cuts, not reaches and depth == 0

    def item(self, at: int, token: str) -> int:
        """Reads one item and returns the position after it."""
        if token == "{":
            return self.group(at, "")
        if side_of(token) == "\\left":
            end, _, _ = self.row(at + 1, ("\\right",))
            self.expect(side_of(self.peek(end)) == "\\right")
            self.parts.append(FormulaPart("delimited", at + 1, end))
            return end + 1
        if token.startswith("\\begin{"):
            return self.environment(at + 1, token[7:-1])
        if token in _CLOSED:
            at += 1
            while self.peek(at) == "{":
                at = self.closed(at)
            return at
        at += 1
        if token == "\\sqrt" and self.peek(at) == "[":
            at, _, _ = self.row(at + 1, ("]",))
            self.expect(self.peek(at) == "]")
            at += 1
        for kind in _GROUPS.get(token, ()):
            at = self.group(at, kind)
        return at

    def group(self, at: int, kind: str) -> int:
        """Reads a group, adds it to the parts if `kind` is not empty, and returns the position after it."""
        self.expect(self.peek(at) == "{")
        end, _, free = self.row(at + 1, ("}",))
        self.expect(self.peek(end) == "}")
        if kind and free:
            self.parts.append(FormulaPart(kind, at + 1, end))
        return end + 1

    def closed(self, at: int) -> int:
        """Skips a group and returns the position after it."""
        self.expect(self.peek(at) == "{")
        depth = 0
        while at < len(self.tokens):
            depth += {"{": 1, "}": -1}.get(self.tokens[at], 0)
            at += 1
            if depth == 0:
                return at
        raise FormulaError("{ without }")

    def environment(self, at: int, name: str) -> int:
        end = f"\\end{{{name}}}"
        if name in ("array", "tabular"):
            at = self.closed(at)
        while True:
            start = at
            at, _, free = self.row(at, ("&", "\\\\", end))
            self.expect(self.peek(at) in ("&", "\\\\", end))
            if free:
                self.parts.append(FormulaPart("row" if name in _LINES else "cell", start, at))
            at += 1
            if self.tokens[at - 1] == end:
                return at

    def expect(self, condition: bool) -> None:
        if not condition:
            raise FormulaError("groups that do not fit together")


def recombine(
    formulas: Iterable[Formula],
    count: int,
    seed: int,
    max_tokens: int,
    exclude: Iterable[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Iterator[str]:
    """Yields new formulas, as tokens separated by one space. Each looks different from the others and the known ones.

    Args:
      formulas: the known formulas; those with unknown commands are not used.
      count: number of formulas to make.
      seed: random seed; the same arguments give the same formulas.
      max_tokens: maximum number of tokens in a formula.
      exclude: `drawn_key`s of formulas that must not be made.
      progress: called with the number of formulas made since the last call.

    Raises:
      UserError: `count` formulas could not be made.
    """
    known: list[list[str]] = []
    seen = set(exclude)
    by_kind = {kind: array.array("I") for kind in KINDS}
    for formula in formulas:
        seen.add(formula.key)
        tokens = formula.tokens.split()
        if not is_local(formula.tokens):
            continue
        for kind in sorted({part.kind for part in _parts(tokens)}):
            by_kind[kind].append(len(known))
        known.append(tokens)
    kinds = [kind for kind, formula_numbers in by_kind.items() if len(formula_numbers) > 1]
    rng = random.Random(seed)
    new = 0
    for _ in range(_TRIES * count if kinds else 0):
        tokens = _exchanged(known, by_kind, kinds, rng)
        if not 0 < len(tokens) <= max_tokens or not is_local(" ".join(tokens)):
            continue
        try:
            key = drawn_key(" ".join(tokens))
        except FormulaError:
            continue
        if key in seen:
            continue
        seen.add(key)
        new += 1
        yield " ".join(tokens)
        if progress is not None:
            progress(1)
        if new == count:
            return
    raise UserError(f"only {new:,} new formulas can be made from these; use more formulas, or a smaller --count")


def _parts(tokens: Sequence[str]) -> list[FormulaPart]:
    try:
        return find_parts(tokens)
    except FormulaError:
        return []


def _exchanged(
    known: list[list[str]], by_kind: dict[str, array.array[int]], kinds: list[str], rng: random.Random
) -> list[str]:
    """Returns a known formula with one or two parts replaced, or an empty list if this fails."""
    kind = rng.choice(kinds)
    tokens = known[rng.choice(by_kind[kind])]
    for step in range(1 + (rng.random() < _TWICE)):
        parts = _parts(tokens)
        if step:
            kind = rng.choice(parts).kind
        part = rng.choice([part for part in parts if part.kind == kind])
        if not by_kind[kind]:
            return []
        donor = known[rng.choice(by_kind[kind])]
        replacement = rng.choice([part for part in _parts(donor) if part.kind == kind])
        tokens = [*tokens[: part.start], *donor[replacement.start : replacement.end], *tokens[part.end :]]
    return tokens
