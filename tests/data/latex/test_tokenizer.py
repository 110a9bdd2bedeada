from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data.pictures.synthetic import LEVELS, formulas
from im2latex.tokenizer import FormulaError, tokenize

SAMPLES = Path(os.environ.get("IM2LATEX_SAMPLES", Path(__file__).parents[4] / "shared"))

PIECES = st.sampled_from(
    [
        "{",
        "}",
        "_",
        "^",
        "'",
        "[",
        "]",
        "x",
        "y",
        "1",
        "|",
        "&",
        "~",
        "$",
        "% ",
        "{c}",
        "a^b",
        "\\\\",
        "\\\\[2mm]",
        "\\ ",
    ]
    + [
        "\\frac",
        "\\sqrt",
        "\\hat",
        "\\left(",
        "\\right)",
        "\\left.",
        "\\right\\}",
        "\\alpha",
        "\\rm ",
        "\\over ",
        "\\mbox",
    ]
    + [
        "\\begin{array}",
        "\\end{array}",
        "\\begin{matrix}",
        "\\end{matrix}",
        "\\operatorname",
        "\\,",
        "\\label",
        "\\sum",
    ]
    + ["\\nonumber", "\\limits", "\\"]
)
RAW = st.lists(st.tuples(PIECES, st.sampled_from(["", " ", "\n"])), max_size=25).map(
    lambda pieces: "".join(piece + space for piece, space in pieces)
)
SYMBOLS = st.sampled_from(["x", "2", "\\alpha", "\\,", "="])
FORMULAS = st.recursive(
    st.lists(SYMBOLS, min_size=1, max_size=4),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda ab: ["\\frac", "{", *ab[0], "}", "{", *ab[1], "}"]),
        st.tuples(SYMBOLS, inner, inner).map(lambda abc: [abc[0], "_", "{", *abc[1], "}", "^", "{", *abc[2], "}"]),
        inner.map(lambda body: ["\\left(", *body, "\\right]"]),
        inner.map(lambda body: ["\\sqrt", "[", "3", "]", "{", *body, "}"]),
        st.tuples(inner, inner).map(
            lambda ab: ["\\begin{array}", "{", "c", "r", "}", *ab[0], "&", *ab[1], "\\\\", "x", "&", "\\end{array}"]
        ),
    ),
    max_leaves=8,
)


@given(RAW)
@example("'\\label'")
@example("'\\label_'")
@example("\\begin{array}[")
def test_tokens_joined_are_tokenised_to_themselves(raw: str) -> None:
    try:
        tokens = tokenize(raw)
    except FormulaError:
        return
    assert tokenize(" ".join(tokens)) == tokens
    assert tokens.count("{") == tokens.count("}")


@given(FORMULAS)
def test_normalised_formulas_stay_as_they_are(tokens: list[str]) -> None:
    assert tokenize(" ".join(tokens)) == tokens
    # Blanks between tokens mean nothing where no command's name meets a letter.
    assert tokenize("  ".join(tokens) + "\n") == tokens


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (r"\frac12", r"\frac { 1 } { 2 }"),
        (r"x^2_i", r"x _ { i } ^ { 2 }"),
        (r"x^\alpha", r"x ^ { \alpha }"),
        (r"x^\frac12", r"x ^ { \frac { 1 } { 2 } }"),
        (r"f''_i(x)", r"f _ { i } ^ { \prime \prime } ( x )"),
        (r"f'^2", r"f ^ { \prime 2 }"),
        (r"{a+1\over b}", r"{ \frac { a + 1 } { b } }"),
        (r"{n \choose k}", r"{ \binom { n } { k } }"),
        (r"\operatorname{sin}x \operatorname*{lim}_{n} \operatorname{Tr} A",
         r"\sin x \lim _ { n } \operatorname { T r } A"),
        (r"\sum\limits_{i}^n", r"\sum _ { i } ^ { n }"),
        (r"\left ( x \right \} \left. y \right|", r"\left( x \right\} \left. y \right|"),
        (r"\leftarrow \rightarrow", r"\leftarrow \rightarrow"),
        (r"\sqrt[3]2 \sqrt x", r"\sqrt [ 3 ] { 2 } \sqrt { x }"),
        (r"\mbox{ if $x$ is} {\rm d}x", r"\mathrm { ~ i f ~ x ~ i s } { \mathrm { d } } x"),
        (r"\begin{array}{l@{\,}c|} a & b^2 \\[4mm] c \end{array}",
         r"\begin{array} { l c | } a & b ^ { 2 } \\ c \end{array}"),
        ("a % b\n+ c \\% \\label{eq:_1_2} \\nonumber", r"a + c \%"),
        (r"$$ x $$", "x"),
        (r"\begin{equation} x \end{equation}", "x"),
        (r"a\ b~c\,d", r"a \ b ~ c \, d"),
        ("", ""),
    ],
)  # fmt: skip
def test_raw_latex_is_normalised(raw: str, expected: str) -> None:
    assert " ".join(tokenize(raw)) == expected


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("{ x", "{ without }"),
        ("x }", "} without {"),
        ("\\left( x", "\\left without \\right"),
        ("x \\right)", "\\right without \\left"),
        ("x ^ 1 ^ 2", "double superscript"),
        ("x _ 1 _ 2", "double subscript"),
        ("x ^", "^ without its argument"),
        ("\\frac { 1 }", "\\frac without its argument"),
        ("\\begin{array} { c } x", "\\begin{array} without \\end{array}"),
        ("x \\end{array}", "\\end without \\begin"),
        ("\\begin{array} x \\end{array}", "an array without columns"),
        ("\\sqrt [ 3 { x }", "\\sqrt [ without ]"),
        ("{" * 100_000, "nested too deeply"),
    ],
)
def test_invalid_tex_is_refused(raw: str, message: str) -> None:
    with pytest.raises(FormulaError) as error:
        tokenize(raw)
    assert str(error.value) == message


@pytest.mark.parametrize("level", LEVELS)
def test_the_grammar_writes_the_normalised_style(level: str) -> None:
    for formula in formulas(300, 1, level):
        assert tokenize(formula) == formula.split()


def test_most_real_normalised_formulas_stay_as_they_are() -> None:
    path = SAMPLES / "im2latex-100k" / "im2latex_formulas.norm.lst"
    if not path.is_file():
        pytest.skip(f"no real sample: {path} is missing")
    lines = path.read_text("utf-8").splitlines()[::20]
    tokens = [tokenize(line) for line in lines]
    # The others have \operatorname { s i n }, or an argument without braces.
    assert sum(" ".join(a) == b.strip() for a, b in zip(tokens, lines, strict=True)) > 0.85 * len(lines)
    assert all(tokenize(" ".join(a)) == a for a in tokens)


@pytest.mark.parametrize(
    ("latex", "count"),
    [
        ("\\mbox{ab " * 60 + "}" * 60, 360),  # parsing twice at each level would take 2^60 steps
        ("$" * 50_000, 0),
        ("x " + "\\nonumber " * 50_000 + "_ 1", 5),
        ("x " * 10_000, 10_000),
        ("'" * 10_000, 10_003),
    ],
)
def test_long_and_deep_formulas_take_linear_time(latex: str, count: int) -> None:
    started = time.process_time()
    assert len(tokenize(latex)) == count
    assert time.process_time() - started < 20


def test_text_applies_to_one_atom_without_braces() -> None:
    assert tokenize("\\mbox \\frac ab c") == ["\\mathrm", "{", "\\frac", "{", "a", "}", "{", "b", "}", "}", "c"]
