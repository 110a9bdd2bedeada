"""Makes a synthetic data set from a grammar of formulas; it needs no download.

No two formulas of the grammar look the same, because it avoids ambiguous symbols and spellings: it has no l because of
1, no O because of 0, no Sigma because of the sum, and no capitals that look like enlarged small letters. Subscripts
always come before superscripts, there are no spacing tokens, and \\left( only appears around tall content.
"""

from __future__ import annotations

import functools
import io
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from data.dataset.record import SPLITS, Record, encode
from data.dataset.writer import DatasetSummary, DatasetWriter
from data.parallel import ordered_map
from im2latex.errors import UserError

LEVELS = {
    "digits": "whole numbers, sums and products of them",
    "simple": "letters, relations, sub- and superscripts",
    "fractions": "also fractions, roots, brackets",
    "standard": "also sums, integrals, limits, Greek, functions",
    "full": "also accents, growing brackets, alphabets, matrices",
}
DEFAULT_LEVEL = "standard"
# 11 pixels per em at 10 pt. Look at the contact sheet of `im2latex data check` before using a smaller one.
DEFAULT_DPI = 80
POINTS = 10
MIN_TOKENS, DEFAULT_MAX_TOKENS = 4, 40
_CHUNK = 64

Tokens = list[str]

_LETTERS = list("abcdfghijkmnpqrstuxyzABDFGHMNRT")
_INDICES = list("ijkmn")
_GREEK = ["\\alpha", "\\beta", "\\gamma", "\\delta", "\\theta", "\\lambda", "\\mu", "\\pi", "\\sigma", "\\phi"]
_GREEK += ["\\psi", "\\omega", "\\Gamma", "\\Delta", "\\Omega", "\\Phi"]
_FUNCTIONS = ["\\sin", "\\cos", "\\tan", "\\exp", "\\log", "\\ln"]
_RELATIONS = ["="] * 6 + ["<", ">", "\\leq", "\\geq", "\\neq", "\\approx"]
_OPERATORS = ["+"] * 3 + ["-"] * 3 + ["\\cdot", "\\times", "\\pm"]


class Grammar:
    """Generates random formulas of a level with at most `max_tokens` tokens, with `rng` as the source of randomness."""

    def __init__(self, level: str, max_tokens: int, rng: random.Random) -> None:
        self.rng = rng
        self.max_tokens = max_tokens
        self.rank = list(LEVELS).index(level)

    def formula(self) -> Tokens:
        """Returns a formula of MIN_TOKENS to `max_tokens` tokens."""
        while True:
            tokens = self.statement()
            if MIN_TOKENS <= len(tokens) <= self.max_tokens:
                return tokens

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def one(self, choices: list[str]) -> str:
        return choices[int(self.rng.random() * len(choices))]

    def statement(self) -> Tokens:
        if self.rank == 0:
            return self.sum(0, self.number)
        tokens = self.sum(0)
        if self.chance(0.42):
            tokens += [self.one(_RELATIONS), *self.sum(0 if len(tokens) < 6 else 1)]
        return tokens

    def sum(self, depth: int, term: Callable[[], Tokens] | None = None) -> Tokens:
        """Returns a sum of one to three terms; deeper sums are shorter."""
        term = term or functools.partial(self.term, depth)
        tokens = ["-"] if self.chance(0.06) else []
        tokens += term()
        for share in (0.25, 0.1):
            if not self.chance(share if depth == 0 else share / 2):
                break
            tokens += [self.one(_OPERATORS), *term()]
        return tokens

    def number(self) -> Tokens:
        """Returns the digits of a number, without leading zeros."""
        digits = str(self.rng.randrange(10 ** (1 if self.chance(0.7) or self.rank and self.chance(0.5) else 3)))
        return list(digits)

    def term(self, depth: int) -> Tokens:
        """Returns a product of one or two factors, perhaps with a leading number, or one of the level's forms."""
        forms = self.forms() if depth < 2 else []
        if forms and self.chance(0.45 if depth == 0 else 0.15):
            form = self.rng.choices([form for form, _ in forms], [weight for _, weight in forms])[0]
            return form(depth)
        tokens = []
        if self.chance(0.25):
            tokens = self.number() if self.chance(0.3) else [self.one(list("23456789"))]
        if not tokens or len(tokens) == 1 and tokens[0] not in "01" and self.chance(0.8):
            tokens += self.factor(depth)
            if self.chance(0.15):
                tokens += self.factor(depth)
        return tokens

    def forms(self) -> list[tuple[Callable[[int], Tokens], float]]:
        forms: list[tuple[Callable[[int], Tokens], float]] = []
        if self.rank >= 2:
            forms += [(self.fraction, 4), (self.root, 2), (self.brackets, 1.5), (self.call, 1)]
        if self.rank >= 3:
            forms += [(self.large_operator, 2.5), (self.function, 3), (self.limit, 0.7), (self.derivative, 0.8)]
        if self.rank >= 4:
            forms += [(self.growing_brackets, 1.5), (self.accent, 1.5), (self.alphabet, 1), (self.matrix, 1)]
        return forms

    def symbol(self) -> str:
        if self.rank >= 3 and self.chance(0.3):
            return self.one(_GREEK)
        return self.one(_LETTERS)

    def factor(self, depth: int) -> Tokens:
        """Returns a symbol with or without scripts."""
        tokens = [self.symbol()]
        kind = self.rng.random()
        if kind < 0.18:
            tokens += self.subscript()
        elif kind < 0.36:
            tokens += self.superscript(depth)
        elif kind < 0.41:
            tokens += self.subscript() + self.superscript(depth)
        elif kind < 0.44 and self.rank >= 3:
            tokens += ["^", "{", "\\prime", "}"]
        return tokens

    def subscript(self) -> Tokens:
        inner = [self.one(_INDICES)] if self.chance(0.6) else list(str(self.rng.randrange(10)))
        if self.chance(0.15):
            inner = [self.one(_INDICES), self.one(["+", "-"]), "1"]
        elif self.chance(0.08):
            inner.append(self.one(_INDICES))
        return ["_", "{", *inner, "}"]

    def superscript(self, depth: int) -> Tokens:
        kind = self.rng.random()
        if kind < 0.5:
            inner = [self.one(["2", "2", "2", "3", "4"])]
        elif kind < 0.75:
            inner = [self.one([*_INDICES, "x", "y", "a", "b"])]
        elif kind < 0.85:
            inner = ["-", "1"]
        elif depth < 1 and self.rank >= 2:
            inner = self.sum(2)
        else:
            inner = ["2", self.one(_INDICES)]
        return ["^", "{", *inner, "}"]

    def fraction(self, depth: int) -> Tokens:
        return ["\\frac", "{", *self.sum(depth + 1), "}", "{", *self.sum(depth + 1), "}"]

    def root(self, depth: int) -> Tokens:
        degree = ["[", self.one(["3", "4", "n"]), "]"] if self.chance(0.15) else []
        return ["\\sqrt", *degree, "{", *self.sum(depth + 1), "}"]

    def brackets(self, depth: int) -> Tokens:
        """Returns brackets of normal size around short content; `growing_brackets` are only around tall content."""
        inner = [*self.factor(2), self.one(["+", "-"]), *(self.number() if self.chance(0.4) else self.factor(2))]
        left, right = ("[", "]") if self.chance(0.2) else ("(", ")")
        power = ["^", "{", self.one(["2", "3", "n"]), "}"] if self.chance(0.4) else []
        return [left, *inner, right, *power]

    def call(self, depth: int) -> Tokens:
        arguments = [self.one(["x", "t", "z"])] if self.chance(0.7) else ["x", ",", self.one(["y", "t"])]
        return [self.one(["f", "g", "h", "F"]), "(", *arguments, ")"]

    def function(self, depth: int) -> Tokens:
        power = ["^", "{", "2", "}"] if self.chance(0.2) else []
        argument = self.factor(2) if self.chance(0.7) else ["(", *self.sum(2), ")"]
        number = [self.one(list("23456789"))] if self.chance(0.2) and argument[0] != "(" else []
        return [self.one(_FUNCTIONS), *power, *number, *argument]

    def large_operator(self, depth: int) -> Tokens:
        if self.chance(0.4):
            limits = ["_", "{", self.one(["0", "a", "1"]), "}", "^", "{", self.one(["1", "b", "\\pi", "\\infty"]), "}"]
            variable = self.one(["x", "t", "z"])
            integrand = self.call(depth) if self.chance(0.4) else [variable, *self.superscript(2)]
            return ["\\int", *(limits if self.chance(0.7) else []), *integrand, "d", variable]
        index = self.one(_INDICES)
        limits = ["_", "{", index, "=", self.one(["0", "1"]), "}"]
        if self.chance(0.8):
            limits += ["^", "{", self.one(["n", "N", "M", "\\infty"]), "}"]
        body = [self.symbol(), "_", "{", index, "}"] if self.chance(0.6) else self.factor(2)
        return [self.one(["\\sum", "\\sum", "\\sum", "\\prod"]), *limits, *body]

    def limit(self, depth: int) -> Tokens:
        variable = self.one(["x", "n", "t"])
        target = self.one(["0", "\\infty", "a"])
        return ["\\lim", "_", "{", variable, "\\to", target, "}", *self.call(depth)]

    def derivative(self, depth: int) -> Tokens:
        d = self.one(["\\partial", "d"])
        return ["\\frac", "{", d, self.symbol(), "}", "{", d, self.one(["x", "y", "t"]), "}"]

    def growing_brackets(self, depth: int) -> Tokens:
        left, right = self.rng.choice([("(", ")"), ("(", ")"), ("[", "]"), ("\\{", "\\}")])
        inner = self.fraction(depth)
        if self.chance(0.4):
            inner = [*self.factor(2), self.one(["+", "-"]), *inner]
        power = ["^", "{", self.one(["2", "n"]), "}"] if self.chance(0.3) else []
        return [f"\\left{left}", *inner, f"\\right{right}", *power]

    def accent(self, depth: int) -> Tokens:
        kind = self.one(["\\hat", "\\tilde", "\\vec", "\\dot", "\\overline"])
        return [kind, "{", self.one(["a", "b", "p", "q", "u", "x", "y", "z"]), "}"]

    def alphabet(self, depth: int) -> Tokens:
        alphabet, letters = self.rng.choice(
            [("\\mathbf", "A B F k p r x y"), ("\\mathcal", "A B D F H L M"), ("\\mathrm", "d k m T")]
        )
        return [alphabet, "{", self.one(letters.split()), "}"]

    def matrix(self, depth: int) -> Tokens:
        if depth > 0:
            return self.factor(depth)
        rows, columns = self.rng.choice([(2, 2), (2, 2), (2, 1), (3, 1), (2, 3), (3, 3)])
        cell = self.number if self.chance(0.3) else functools.partial(self.term, 2)
        lines: list[Tokens] = []
        for _ in range(rows):
            cells = [cell() for _ in range(columns)]
            lines.append(list(itertools.chain(*([*tokens, "&"] for tokens in cells)))[:-1])
        body = list(itertools.chain(*([*line, "\\\\"] for line in lines)))[:-1]
        left, right = ("[", "]") if self.chance(0.3) else ("(", ")")
        array = ["\\begin{array}", "{", *["c"] * columns, "}", *body, "\\end{array}"]
        return [f"\\left{left}", *array, f"\\right{right}"]


def formulas(count: int, seed: int, level: str = DEFAULT_LEVEL, max_tokens: int = DEFAULT_MAX_TOKENS) -> Iterator[str]:
    """Yields `count` different formulas, as tokens separated by one space.

    Args:
      count: number of formulas.
      seed: random seed.
      level: one of LEVELS.
      max_tokens: maximum number of tokens in a formula.

    Raises:
      UserError: the level is unknown or has too few formulas, or `max_tokens` is too small for any formula.
    """
    if level not in LEVELS:
        raise UserError(f"there is no level {level}; the levels are {', '.join(LEVELS)}")
    if max_tokens < MIN_TOKENS:
        raise UserError(f"no formula has at most {max_tokens} tokens; allow at least {MIN_TOKENS}")
    grammar = Grammar(level, max_tokens, random.Random(seed))
    seen: set[str] = set()
    misses = 0
    while len(seen) < count:
        formula = " ".join(grammar.formula())
        if formula in seen:
            misses += 1
            if misses > 20 * count + 1000:
                raise UserError(f"level {level} has not many more than {len(seen):,} formulas; use fewer examples")
            continue
        seen.add(formula)
        yield formula


def draw_png(formula: str, em: float) -> bytes:
    """Draws a formula, black on white, as an 8-bit grey PNG.

    Args:
      formula: tokens separated by spaces.
      em: pixels per em.
    """
    from PIL import Image

    from data.latex.typesetting import draw

    buffer = io.BytesIO()
    Image.fromarray(draw(formula.split(), em)).save(buffer, "PNG")
    return buffer.getvalue()


def _draw_chunk(chunk: list[tuple[str, str]], em: float) -> list[bytes]:
    return [encode(Record(draw_png(formula, em), formula, name)) for name, formula in chunk]


def split_counts(examples: int) -> dict[str, int]:
    """Returns the number of examples per split: a twentieth each for eval and test, at least one."""
    held_out = max(1, examples // 20)
    return {"train": examples - 2 * held_out, "eval": held_out, "test": held_out}


def synthesize(
    out: Path | str,
    examples: int,
    seed: int,
    level: str = DEFAULT_LEVEL,
    dpi: int = DEFAULT_DPI,
    splits: Mapping[str, int] | None = None,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    overwrite: bool = False,
) -> DatasetSummary:
    """Draws a data set whose splits have no formula in common.

    The same arguments give the same bytes, whatever the number of workers.

    Args:
      out: the folder to make.
      examples: number of examples in all splits together.
      seed: random seed of the formulas.
      level: one of LEVELS.
      dpi: resolution; the text is 10 pt, so 72 dpi are ten pixels per em.
      splits: number of examples per split, `examples` in total; `split_counts(examples)` by default.
      max_tokens: maximum number of tokens in a formula.
      workers: number of processes; one per core that this process may use by default.
      progress: called with the number of examples drawn since the last call.
      overwrite: also replace a folder that is not a data set.

    Raises:
      UserError: a number is out of range, the level is unknown, or the folder cannot be written.
    """
    if examples < 3:
        raise UserError(f"{examples} examples cannot fill three splits; use at least 3")
    if not 40 <= dpi <= 600:
        raise UserError(f"{dpi} dpi is out of range; allowed are 40 to 600")
    counts = dict(splits) if splits is not None else split_counts(examples)
    if set(counts) - set(SPLITS) or min(counts.values()) < 0 or sum(counts.values()) != examples:
        raise UserError(f"the splits {counts} do not add up to {examples} examples in {', '.join(SPLITS)}")
    em = dpi * POINTS / 72
    # Shuffle the splits, because later formulas are longer: short ones are repeats more often.
    targets = [split for split in SPLITS for _ in range(counts.get(split, 0))]
    random.Random(f"splits {seed}").shuffle(targets)
    drawn_formulas = formulas(examples, seed, level, max_tokens)
    named = [(f"synthetic-{level}-{seed}-{i}", formula) for i, formula in enumerate(drawn_formulas)]
    chunks = [named[start : start + _CHUNK] for start in range(0, len(named), _CHUNK)]
    details = {"level": level, "seed": seed, "dpi": dpi, "max_tokens": max_tokens}
    with DatasetWriter(out, "synthetic", details, overwrite=overwrite) as writer:
        split_of = iter(targets)
        for drawn in ordered_map(functools.partial(_draw_chunk, em=em), chunks, workers):
            for example in drawn:
                writer.write_encoded(next(split_of), example)
            if progress is not None:
                progress(len(drawn))
    assert writer.summary is not None
    return writer.summary
