from __future__ import annotations

import numpy as np
import pytest

from data.latex.computer_modern import Glyph
from data.latex.typesetting import draw, typeset

# Widths of Computer Modern's characters in em, from cmmi10.tfm and cmr10.tfm.
X, Y, PLUS, EQUALS = 0.5715, 0.4903, 0.7778, 0.7778


def glyphs(formula: str, em: float = 1000.0) -> list[tuple[float, float, Glyph]]:
    return [(x, y, mark) for x, y, mark in typeset(formula.split(), em).marks if isinstance(mark, Glyph)]


@pytest.mark.parametrize(
    ("formula", "width"),
    [
        ("x y", X + Y),
        ("x + y", X + 4 / 18 + PLUS + 4 / 18 + Y),
        ("x = y", X + 5 / 18 + EQUALS + 5 / 18 + Y),
        ("+ y", PLUS + Y),  # a sign, not an operator: no space
        ("x = + y", X + 5 / 18 + EQUALS + 5 / 18 + PLUS + Y),
    ],
)
def test_atoms_are_spaced_as_in_the_texbook(formula: str, width: float) -> None:
    assert typeset(formula.split(), 1000.0).width == pytest.approx(1000 * width, abs=4)


def test_scripts_are_shifted_by_rule_18() -> None:
    (_, base, _), (_, above, two) = glyphs("x ^ { 2 }")
    assert base == 0 and above == pytest.approx(-413) and two.em == 750  # sup1 of cmsy10
    (_, _, _), (_, below, _) = glyphs("x _ { 2 }")
    assert below == pytest.approx(max(150, 750 * 0.6444 - 0.8 * 431), abs=10)  # sub1 or 4/5 of the x-height
    # Both: at least four rules of 0.04 em between them.
    _, (_, high, _), (_, low, _) = glyphs("x _ { 2 } ^ { 2 }")
    assert (low - 750 * 0.6444) - high >= 160 - 20


def test_fractions_are_shifted_by_rule_15() -> None:
    marks = typeset(["\\frac", "{", "x", "}", "{", "x", "}"], 1000.0).marks
    (_, above, _), (_, below, _), (_, bar, (width, thickness)) = marks  # type: ignore[misc]
    assert above == pytest.approx(-677) and below == pytest.approx(686)  # num1 and denom1 of cmsy10
    assert bar + thickness / 2 == pytest.approx(-250) and thickness == 40  # the axis; cmex10's rule
    assert width >= 571


def test_limits_stand_above_and_below_a_sum_but_beside_it_in_a_fraction() -> None:
    (sum_x, _, _), (n_x, n_y, _), _ = glyphs("\\sum _ { i } ^ { n }")
    assert n_x < sum_x + 1444 and n_y < -950  # cmex10's large sum is 1.444 em wide
    (sum_x, _, _), (n_x, _, _), *_ = glyphs("\\frac { \\sum _ { i } ^ { n } } { 2 }")
    assert n_x > sum_x + 1000


@pytest.mark.parametrize("rows", range(1, 7))
def test_brackets_cover_what_they_enclose(rows: int) -> None:
    matrix = " \\\\ ".join(["x & 1"] * rows)
    inner = typeset(f"\\begin{{array}} {{ c c }} {matrix} \\end{{array}}".split(), 20.0)
    outer = typeset(f"\\left[ \\begin{{array}} {{ c c }} {matrix} \\end{{array}} \\right]".split(), 20.0)
    tall = inner.height + inner.depth
    assert 0.9 * tall <= outer.height + outer.depth <= 1.6 * tall
    assert outer.height - outer.depth == pytest.approx(2 * 0.25 * 20, abs=1)  # centred on the axis


def test_nothing_is_drawn_outside_the_border() -> None:
    formula = "\\sqrt { \\frac { f _ { j } } { \\int x } } \\hat { y }"
    image = draw(formula.split(), 11, border=3)
    assert image.dtype == np.uint8
    frame = np.ones_like(image, bool)
    frame[3:-3, 3:-3] = False
    assert (image[frame] == 255).all()
    assert (image[3] < 255).any() and (image[-4] < 255).any()
    assert (image[:, 3] < 255).any() and (image[:, -4] < 255).any()


@pytest.mark.parametrize(
    "formula",
    [
        "\\frac { x }",
        "{ x",
        "x }",
        "\\left( x",
        "\\unknown",
        "x ^ 2",
        "\\begin{array} { c } x & y \\end{array}",
        "\\right)",
    ],
)
def test_what_cannot_be_set_is_refused(formula: str) -> None:
    with pytest.raises(ValueError):
        typeset(formula.split(), 10.0)
