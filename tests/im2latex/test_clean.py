from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from data.latex.rendering import render_all
from data.pictures.synthetic import LEVELS, formulas
from im2latex.clean import clean
from im2latex.tokenizer import FormulaError, tokenize
from tests.data.latex.test_tokenizer import FORMULAS, RAW

SAMPLES = Path(os.environ.get("IM2LATEX_SAMPLES", Path(__file__).parents[3] / "shared"))


@pytest.fixture(scope="module")
def real() -> list[str]:
    path = SAMPLES / "im2latex-100k" / "im2latex_formulas.norm.lst"
    if not path.is_file():
        pytest.skip(f"no real sample: {path} is missing")
    return [" ".join(line.split()) for line in path.read_text("utf-8").split("\n") if line.strip()]


@pytest.mark.parametrize(
    ("tokens", "typed"),
    [
        (r"x _ { i } ^ { 2 }", r"x_i^2"),
        (r"\operatorname { s i n } x", r"\sin x"),
        (r"\operatorname* { l i m } _ { n }", r"\lim_n"),
        # \lim would set its script below.
        (r"\operatorname { l i m } _ { n }", r"\operatorname{lim}_n"),
        (r"\operatorname { T r } A", r"\operatorname{Tr}A"),
        (r"f ^ { \prime \prime } ( x )", r"f''(x)"),
        (r"f _ { 1 } ^ { \prime 2 }", r"f_1'^2"),
        (r"\alpha b \beta \, c", r"\alpha b\beta\,c"),
        (r"x ^ { 2 } 3 y ^ { 2 } z", r"x^{2}3y^2z"),
        (r"x ^ { 1 2 } y _ { \alpha } z _ { \hbar }", r"x^{12}y_\alpha z_{\hbar}"),
        (r"\frac { 1 } { 2 } \sqrt [ 3 ] { x }", r"\frac{1}{2}\sqrt[3]{x}"),
        (r"\left( x \right\rangle y", r"\left(x\right\rangle y"),
        (r"\begin{array} { c c } a & b \\ c & d \end{array}", r"\begin{array}{cc}a&b\\c&d\end{array}"),
        (r"a \\ [ b ] \\ * c", r"a\\ [b]\\ *c"),
        (r"a \ b ~ c", r"a\ b~c"),
        (r"\mathrm { i f ~ x } \mbox { i f }", r"\mathrm{if~x}\mbox{ i f }"),
        (r"{ \cal L } \hspace { 1 c m }", r"{\cal L}\hspace{1cm}"),
        ("", ""),
    ],
)  # fmt: skip
def test_tokens_are_cleaned_to_what_a_person_would_type(tokens: str, typed: str) -> None:
    assert clean(tokens) == typed


@pytest.mark.parametrize("broken", [r"\frac { 1", "x ^ 1 ^ 2", "} x", "{ " * 5000])
def test_invalid_formulas_stay_unchanged(broken: str) -> None:
    assert clean(broken) == broken


@given(FORMULAS)
def test_the_tokens_stay_the_same(tokens: list[str]) -> None:
    assert tokenize(clean(" ".join(tokens))) == tokens


@given(RAW)
def test_the_tokens_of_any_formula_stay_the_same(raw: str) -> None:
    try:
        tokens = tokenize(raw)
    except FormulaError:
        return
    assert tokenize(clean(" ".join(tokens))) == tokens


@pytest.mark.parametrize("level", LEVELS)
def test_formulas_of_the_grammar_get_shorter_and_stay_the_same(level: str) -> None:
    for formula in formulas(300, 2, level):
        typed = clean(formula)
        assert tokenize(typed) == formula.split()
        assert len(typed) < len(formula) or " " not in formula


def test_real_formulas_stay_the_same(real: list[str]) -> None:
    changed = 0
    for formula in real[::10]:
        typed = clean(formula)
        assert tokenize(typed) == tokenize(formula)
        changed += typed != formula
    assert changed > 0.99 * len(real[::10])


@pytest.mark.skipif(not (shutil.which("latex") and shutil.which("dvipng")), reason="needs Debian's texlive and dvipng")
def test_real_formulas_look_the_same_when_latex_draws_them(real: list[str]) -> None:
    chosen = real[7::90]
    drawn, redrawn = (render_all(of, renderer="latex") for of in (chosen, [clean(formula) for formula in chosen]))
    compared = 0
    for formula, one, other in zip(chosen, drawn, redrawn, strict=True):
        if one is not None:
            assert other is not None, formula
            np.testing.assert_array_equal(one, other, err_msg=formula)
            compared += 1
    assert compared > 0.9 * len(chosen)
