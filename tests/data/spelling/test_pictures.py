"""Formulas look the same as their normal forms when LaTeX draws both without spaces.

Images that are not equal must have the same marks, moved up or down by at most a few pixels, and sideways because of
removed spaces. docs/concepts/normal-form.md explains the exceptions.
"""

from __future__ import annotations

import gzip
import os
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from data.latex.rendering import default_renderer, render_all
from data.spelling import normal_form
from im2latex.latex_commands import LETTERS, SYNONYMS
from im2latex.tokenizer import FormulaError, tokenize

SAMPLES = Path(os.environ.get("IM2LATEX_SAMPLES", Path(__file__).parents[4] / "shared"))
REAL = SAMPLES / "im2latex-100k" / "im2latex_formulas.norm.lst"
MINED = SAMPLES / "formulas" / "mined.tsv.gz"
# How many real formulas are drawn; 0 for all of them.
COUNT = int(os.environ.get("IM2LATEX_SPELLING_COUNT", "1500"))
DPI = 100
# Pixels; scripts of \left( \right) are moved by up to 2.2 pt, or 3 pixels, against those of ( ).
UP_OR_DOWN = 4

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(default_renderer() != "latex", reason="latex and dvipng are not installed"),
]

SPACES = {
    "\\",
    "~",
    "\\,",
    "\\:",
    "\\;",
    "\\!",
    "\\>",
    "\\quad",
    "\\qquad",
    "\\ ",
    "\\space",
    "\\enspace",
    "\\thinspace",
}
TEXT = {"\\textrm", "\\textbf", "\\textit", "\\textsf", "\\texttt", "\\textup", "\\textnormal", "\\emph", "\\textsl"}


def without_spaces(latex: str) -> str:
    """Removes explicit spaces, and the spaces between letters of text, from a formula."""
    tokens, kept, at = latex.split(), [], 0
    while at < len(tokens):
        token, end = tokens[at], closing(tokens, at + 1)
        if token in SPACES:
            if tokens[at + 1 : at + 2] in (["_"], ["^"]):  # a separate script, not one of the item before
                kept += ["{", "}"]
            end = at
        elif token == "\\hspace" and end:
            pass
        elif token in TEXT and end and all(part in "{}~.,-" or part.isalnum() for part in tokens[at + 1 : end + 1]):
            kept.append(token + "".join(part for part in tokens[at + 1 : end + 1] if part != "~"))
        else:
            kept.append(token)
            end = at
        at = end + 1
    return " ".join(kept)


def closing(tokens: list[str], at: int) -> int:
    """Returns the end of the group that begins at this index; 0 if there is none."""
    depth = 0
    for end in range(at, len(tokens)):
        depth += {"{": 1, "}": -1}.get(tokens[end], 0)
        if depth == 0:
            return end if tokens[at] == "{" else 0
    return 0


def marks(picture: np.ndarray) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Returns the connected marks of an image: the shape of each as runs of pixels, and the x and y of its corner."""
    runs: list[tuple[int, int, int]] = []
    above: list[int] = []
    parent: list[int] = []

    def root(run: int) -> int:
        while parent[run] != run:
            run = parent[run]
        return run

    for y, row in enumerate(picture < 128):
        edges = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0)).tolist()
        here = []
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            here.append(len(runs))
            parent.append(len(runs))
            runs.append((y, start, end))
            for other in above:
                if runs[other][1] <= end and start <= runs[other][2]:
                    parent[root(other)] = root(here[-1])
        above = here
    grouped = defaultdict(list)
    for index, run in enumerate(runs):
        grouped[root(index)].append(run)
    for mark in grouped.values():
        top, left = mark[0][0], min(start for _, start, _ in mark)
        shape = tuple(n for y, start, end in mark for n in (y - top, start - left, end - left))
        yield shape, left, top


def look_alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Returns whether two images have the same marks at nearly the same heights."""
    if one.shape == other.shape and (one == other).all():
        return True
    if abs(one.shape[0] - other.shape[0]) > UP_OR_DOWN:
        return False
    heights: list[dict[tuple[int, ...], list[tuple[int, int]]]] = []
    for picture in (one, other):
        heights.append(defaultdict(list))
        for shape, left, top in marks(picture):
            heights[-1][shape].append((left, top))
    first, second = heights
    if first.keys() != second.keys() or any(len(first[shape]) != len(second[shape]) for shape in first):
        # Without spaces, marks can touch and become one. In that case, the same amount of ink is enough.
        ink = [(255.0 - picture).sum() for picture in (one, other)]
        return abs(ink[0] - ink[1]) < 0.004 * max(ink)
    moved = [b[1] - a[1] for shape in first for a, b in zip(sorted(first[shape]), sorted(second[shape]), strict=True)]
    return max(moved) - min(moved) <= UP_OR_DOWN


def different(formulas: Sequence[str]) -> tuple[list[str], int, int]:
    """Returns the formulas whose normal form looks different, the number drawn, and the number of equal images."""
    parsed = []
    for formula in formulas:
        try:
            parsed.append((formula, normal_form(formula)))
        except FormulaError:
            continue
    pictures = render_all([without_spaces(latex) for pair in parsed for latex in pair], dpi=DPI)
    differing, drawn, equal = [], 0, 0
    for (formula, form), one, other in zip(parsed, pictures[::2], pictures[1::2], strict=True):
        if one is None:
            continue
        drawn += 1
        assert other is not None, f"{form} cannot be drawn, and {formula} can"
        equal += one.shape == other.shape and bool((one == other).all())
        if not look_alike(one, other):
            differing.append(formula)
    return differing, drawn, equal


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is missing; set IM2LATEX_SAMPLES")
def test_real_formulas_look_like_their_normal_forms() -> None:
    formulas = [line for line in REAL.read_text("utf-8").split("\n") if line]
    random.Random(7).shuffle(formulas)
    differing, drawn, equal = different(formulas[: COUNT or None])
    print(f"{drawn:,} drawn, {equal / drawn:.2%} equal, {1 - len(differing) / drawn:.2%} alike", *differing, sep="\n")
    assert equal >= 0.87 * drawn
    assert len(differing) <= 0.016 * drawn, "\n".join(differing)


@pytest.mark.skipif(not MINED.exists(), reason=f"{MINED} is missing; set IM2LATEX_SAMPLES")
def test_mined_formulas_look_like_their_normal_forms() -> None:
    with gzip.open(MINED, "rt", encoding="utf-8") as lines:
        formulas = [line.rstrip("\n").split("\t")[1] for line in lines]
    differing, drawn, equal = different(random.Random(7).sample(formulas, COUNT or 30_000))
    print(f"{drawn:,} drawn, {equal / drawn:.2%} equal, {1 - len(differing) / drawn:.2%} alike", *differing, sep="\n")
    assert equal >= 0.9 * drawn
    assert len(differing) <= 0.016 * drawn, "\n".join(differing)


def test_synonyms_have_the_same_glyph() -> None:
    pairs = list(SYNONYMS.items())
    pictures = render_all([f"( {latex} )" for pair in pairs for latex in pair], dpi=600)
    drawn = 0
    for pair, one, other in zip(pairs, pictures[::2], pictures[1::2], strict=True):
        if one is not None:  # LaTeX itself knows no \isin, \lt and \gt
            drawn += 1
            assert other is not None and look_alike(one, other), pair
    assert drawn >= 50


def test_letters_by_name_have_an_upright_font() -> None:
    for picture in render_all([f"\\mathrm {{ {letter} }}" for letter in LETTERS]):
        assert picture is not None


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is missing; set IM2LATEX_SAMPLES")
def test_real_formulas_are_stable_in_normal_form() -> None:
    formulas = [line for line in REAL.read_text("utf-8").split("\n") if line]
    for formula in formulas[::10]:
        form = normal_form(formula)
        assert normal_form(form) == form and tokenize(form) == form.split(), formula


# Size of \left( around each, as LaTeX draws it.
AROUND = {
    "": r"""x|x ^ { n }|x _ { j }|x ^ { \prime }|x _ { k j ^ { \prime } }|Q _ { 0 }|\hat { x }|\vec { x }|\mathbf { x }
        |\max|\leq|\underline { x }|\overline { x }""",
    "\\big": r"""x ^ { 2 }|x _ { i } ^ { 2 }|x _ { i _ { j } }|\bar { A }|\overline { A }|\sqrt { x }
        |{ x _ { 1 } } ^ { 2 }|x _ { n + 1 } ^ { \alpha }|\underline { f }|A ^ { T }|\mathcal { L } ^ { \dagger }
        |\bar { \psi }""",
    "\\Big": r"""\frac { a } { b }|\sum|\underset { a } { X }|\hat { A }|\sqrt { A _ { j } }|\sqrt { x ^ { 2 } }
        |f ^ { ( 1 ) }|\stackrel { a } { = }|\lim _ { n }|\widehat { A }|\tilde { \lambda }
        |e ^ { - x / 2 }|\dot { \phi }""",
    "\\bigg": r"""\frac { x ^ { 2 } } { y ^ { 2 } }|\int|\int _ { 0 } ^ { 1 }|\frac { \partial f } { \partial x }
        |\sqrt { \frac { a } { b } }|\binom { n } { k }|\frac { 1 } { 1 + \frac { a } { b } }""",
    "\\Bigg": r"\sum _ { i }|\sum _ { i = 1 } ^ { n }",
}


def test_delimiters_have_the_size_that_latex_gives_them() -> None:
    cases = [(size, content.strip()) for size, contents in AROUND.items() for content in contents.split("|")]
    formulas = []
    for size, content in cases:
        opening, closing = (f"{size}l (", f"{size}r )") if size else ("(", ")")
        formulas += [f"\\left( {content} \\right)", f"{opening} {content} {closing}"]
    pictures = render_all(formulas, dpi=DPI)
    for (size, content), one, other in zip(cases, pictures[::2], pictures[1::2], strict=True):
        assert one is not None and other is not None and look_alike(one, other), content
        expected = f"\\left( {content} \\right)" if size else f"( {content} )"
        assert normal_form(f"\\left( {content} \\right)") == expected
        assert normal_form(f"{size}l ( {content} {size}r )" if size else f"( {content} )") == expected
