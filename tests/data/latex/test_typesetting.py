from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from data.latex.boxes import Box
from data.latex.computer_modern import (
    ACCENTS,
    DELIMITERS,
    LARGE_OPERATORS,
    LETTERS,
    SYMBOLS,
    WIDE_ACCENTS,
    Glyph,
    bitmap,
)
from data.latex.typesetting import draw, typeset
from im2latex.tokenizer import tokenize

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
    (_, above, _), (_, below, _), (_, bar, (width, thickness, _)) = marks  # type: ignore[misc]
    assert above == pytest.approx(-677) and below == pytest.approx(686)  # num1 and denom1 of cmsy10
    assert bar + thickness / 2 == pytest.approx(-250) and thickness == 40  # the axis; cmex10's rule
    assert width >= 571


def test_limits_are_above_and_below_a_sum_but_next_to_it_in_a_fraction() -> None:
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
def test_unsupported_formulas_are_refused(formula: str) -> None:
    with pytest.raises(ValueError):
        typeset(formula.split(), 10.0)


# --- features of real formulas ----------------------------------------------------------------


def test_the_fonts_have_every_symbol_and_letter() -> None:
    used = {(font, code) for _, font, code in SYMBOLS.values()}
    used |= {letter for letters in LETTERS.values() for letter in letters.values()}
    used |= {("x", code) for codes in (*LARGE_OPERATORS.values(), *WIDE_ACCENTS.values()) for code in codes}
    used |= {size for sizes in DELIMITERS.values() for size in sizes} | {*ACCENTS.values()}
    missing = {font: bitmap(font, 0xE123, 30.0)[2] for font, _ in used}
    for font, code in used:
        ink = bitmap(font, code, 30.0)[2]
        assert ink.any() and not np.array_equal(ink, missing[font]), (font, code)


@pytest.mark.parametrize(
    ("formula", "same"),
    [
        ("\\rightarrow", "\\to"),
        ("{ \\cal L } x", "\\mathcal { L } x"),
        ("{ \\bf x } y", "\\mathbf { x } y"),
        ("\\operatorname { s i n } x", "\\sin x"),
        ("\\left\\vert x \\right\\vert", "\\left| x \\right|"),
        ("\\begin{pmatrix} a & b \\end{pmatrix}", "\\left( \\begin{matrix} a & b \\end{matrix} \\right)"),
        ("\\not =", "\\neq"),
        ("\\begin{array} { c } a \\\\ b \\\\ \\end{array}", "\\begin{array} { c } a \\\\ b \\end{array}"),
    ],
)
def test_spellings_that_look_the_same_are_set_the_same(formula: str, same: str) -> None:
    assert typeset(formula.split(), 20.0).marks == typeset(same.split(), 20.0).marks


def box_of(formula: str, em: float = 1000.0) -> Box:
    return typeset(formula.split(), em)


def test_explicit_spaces_are_added() -> None:
    plain = typeset(["x", "y"], 1000.0).width
    assert typeset(["x", "\\quad", "y"], 1000.0).width == pytest.approx(plain + 1000)
    assert typeset(["x", "\\!", "y"], 1000.0).width == pytest.approx(plain - 167)
    assert box_of("x \\hspace { 1 0 p t } y").width == pytest.approx(plain + 1000)


def test_a_script_without_a_base_is_drawn_alone() -> None:
    ((_, y, two),) = glyphs("_ { 2 }")
    assert y > 0 and two.em == 750


def test_text_and_fonts_apply_to_the_end_of_their_group() -> None:
    fonts = [mark.font for _, _, mark in glyphs("{ \\bf a b } c \\mathrm { d \\mathit { e } f } \\mathbb { R }")]
    assert fonts == ["b", "b", "m", "r", "i", "r", "S"]


def test_lines_of_arrays_and_columns_of_several() -> None:
    marks = box_of("\\begin{array} { c | c } \\hline a & b \\\\ \\multicolumn { 2 } { c } { x } \\end{array}")
    names = [mark.part.name for _, _, mark in marks.marks if mark.part]
    assert names == ["\\hline", "\\vline"]
    letters = [mark.code for _, _, mark in marks.marks if isinstance(mark, Glyph)]
    assert letters == [97, 98, 120]


def test_atop_is_a_fraction_without_its_bar() -> None:
    (a, above, _), (b, below, _) = glyphs("{ a \\atop b }")
    assert above < -400 and below > 400
    assert len(box_of("{ a \\brack b }").marks) == 4
    # Each group is read once, however deeply they are nested.
    typeset(("{ " * 60 + "a" + " \\atop b }" * 60).split(), 10.0)


@pytest.mark.parametrize(
    "text", ["\\hspace { x }", "\\big x", "\\begin{array} { c } \\multicolumn { 9 } { c } { x } \\end{array}"]
)
def test_invalid_arguments_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        typeset(text.split(), 10.0)


REAL = Path(os.environ.get("IM2LATEX_SAMPLES", Path(__file__).parents[4] / "shared")) / "im2latex-100k"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the formulas of im2latex-100k in {REAL}")
def test_nearly_all_real_formulas_can_be_set() -> None:
    formulas = (REAL / "im2latex_formulas.norm.lst").read_text().split("\n")
    lines = (REAL / "im2latex_validate_filter.lst").read_text().splitlines()
    failed = 0
    for line in lines:
        try:
            typeset(tokenize(formulas[int(line.split()[1])]), 10.0)
        except ValueError:
            failed += 1
    print(f"{len(lines) - failed} of {len(lines)} validation formulas are set")
    assert failed / len(lines) < 0.01
