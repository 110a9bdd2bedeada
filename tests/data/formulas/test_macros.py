"""Macro expansion. The expected results are those of TeX, worked out by hand."""

from __future__ import annotations

import pytest

from data.formulas.macros import (
    MacroError,
    Macros,
    argument,
    define,
    expand,
    find_definition,
    optional_argument,
    read_definition,
)


def macros_of(text: str) -> Macros:
    macros: Macros = {}
    at = 0
    while match := find_definition(text, at):
        definition = read_definition(text, match)
        assert definition is not None, text[match.start() :]
        define(macros, definition)
        at = definition.end
    return macros


@pytest.mark.parametrize(
    "definition, formula, expanded",
    [
        (r"\newcommand{\R}{\mathbb{R}}", r"x \in \R^n", r"x \in \mathbb{R}^n"),
        (r"\newcommand\R{\mathbb{R}}", r"\R", r"\mathbb{R}"),
        (r"\providecommand*{\R} {\mathbb{R}}", r"\R", r"\mathbb{R}"),
        (r"\DeclareRobustCommand{\R}{\mathbb{R}}", r"\R", r"\mathbb{R}"),
        (r"\newcommand{\inner}[2]{\langle #1, #2 \rangle}", r"\inner{a}{b+c}", r"\langle a, b+c \rangle"),
        (r"\newcommand{\inner}[2]{\langle #1, #2 \rangle}", r"\inner a\beta", r"\langle a, \beta \rangle"),
        (r"\newcommand{\norm}[2][2]{\|#2\|_{#1}}", r"\norm{x} + \norm[p]{y}", r"\|x\|_{2} + \|y\|_{p}"),
        (r"\def\half{\frac12}", r"\half x", r"\frac12 x"),
        (r"\def\d#1#2{\frac{d#1}{d#2}}", r"\d yx", r"\frac{dy}{dx}"),
        (r"\long\def\a{\alpha}", r"\a", r"\alpha"),
        (r"\gdef\a{\alpha}", r"\a", r"\alpha"),
        (r"\DeclareMathOperator{\Hom}{Hom}", r"\Hom(A,B)", r"\operatorname{Hom}(A,B)"),
        (r"\DeclareMathOperator*{\argmax}{arg\,max}", r"\argmax_x", r"\operatorname*{arg\,max}_x"),
        (r"\newenvironment{mat}[1]{\begin{array}{#1}}{\end{array}}", r"\begin{mat}{cc}a&b\end{mat}",
         r"\begin{array}{cc}a&b\end{array}"),
        (r"\newcommand{\a}{\alpha}\renewcommand{\a}{\beta}", r"\a", r"\beta"),
        # A command followed by a letter keeps its name.
        (r"\newcommand{\a}{\alpha}", r"{\a}b \a{}b \a b", r"{\alpha}b \alpha{}b \alpha b"),
        (r"\newcommand{\p}[1]{\partial#1}", r"\p x", r"\partial x"),
        (r"\newcommand{\pp}[1]{#1\partial}", r"\pp xy", r"x\partial y"),
        # A macro whose arguments follow another macro.
        (r"\newcommand{\bm}[1]{\boldsymbol{#1}}\newcommand{\b}{\bm}", r"\b{x}", r"\boldsymbol{x}"),
        # \let keeps the meaning of a command that is redefined later.
        (r"\let\oldphi\phi \renewcommand{\phi}{\varphi}", r"\oldphi \phi", r"\phi \varphi"),
        (r"\let\oldsum=\sum \renewcommand{\sum}{\oldsum\limits}", r"\sum_i", r"\sum\limits_i"),
        (r"\newcommand{\a}{\alpha}\let\b=\a \renewcommand{\a}{x}", r"\b", r"\alpha"),
        # \iff is a relation, not a condition.
        (r"\newcommand{\a}{\iff}", r"\a", r"\iff"),
        (r"\newcommand{\Hash}{a##b}", r"\Hash", r"a#b"),
    ],
)  # fmt: skip
def test_macros_are_expanded_as_tex_does(definition: str, formula: str, expanded: str) -> None:
    assert expand(formula, macros_of(definition)) == expanded


@pytest.mark.parametrize(
    "definition, formula, reason",
    [
        (r"\def\a{x\a}", r"\a", "do not end"),
        (r"\def\a{\b}\def\b{\a}", r"\a", "do not end"),
        (r"\def\a{\a\a\a\a}", r"\a", "do not end"),
        (r"\def\upto#1.{#1}", r"\upto x.", r"\\upto"),
        (r"\newcommand{\a}{\ifmmode x\else y\fi}", r"\a", r"\\a"),
        (r"\newcommand{\two}[2]{#1#2}", r"{\two{x}}", "argument is missing"),
        (r"\newcommand{\one}[1]{#1}", r"\one", "argument is missing"),
        (r"\newcommand{\one}[1]{#1}", r"\one{x", "does not end"),
    ],
)
def test_macros_that_cannot_be_expanded_are_refused(definition: str, formula: str, reason: str) -> None:
    with pytest.raises(MacroError, match=reason):
        expand(formula, macros_of(definition))


def test_expansion_of_hostile_macros_is_bounded() -> None:
    doubling = "".join(rf"\def\{chr(98 + i)}{{\{chr(97 + i)}\{chr(97 + i)}}}" for i in range(25))
    with pytest.raises(MacroError, match="do not end"):
        expand(r"\z", macros_of(r"\def\a{xx}" + doubling))


@pytest.mark.parametrize("broken", [r"\newcommand{\a}{", r"\newcommand", r"\def\a", r"\let\a", r"\newcommand{a}{b}"])
def test_broken_definitions_are_skipped(broken: str) -> None:
    match = find_definition(broken)
    assert match is not None and read_definition(broken, match) is None


def test_arguments_end_where_their_group_does() -> None:
    assert argument(r" {a\}{b}}c", 0) == (r"a\}{b}", 9)
    assert optional_argument("[a{]}b]c", 0) == ("a{]}b", 7)
    assert optional_argument("x", 0) == (None, 0)
