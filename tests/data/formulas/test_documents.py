from __future__ import annotations

import pytest

from data.formulas.documents import closure, find_formulas, roots
from data.formulas.macros import MacroError


def formulas(text: str, **files: str) -> list[str]:
    extracted = list(
        find_formulas({"main.tex": text, **{f"{name}.tex": text for name, text in files.items()}}, "main.tex")
    )
    return ["!" if isinstance(formula, MacroError) else " ".join(formula.split()) for formula in extracted]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a $x$ and $y+1$.", ["x", "y+1"]),
        (r"\(x\) \[y\] $$z$$", ["x", "y", "z"]),
        (r"\begin{equation}x\label{eq:a}\end{equation}", ["x"]),
        (r"\begin{equation*} x \tag{1} \nonumber\end{equation*}", ["x"]),
        (r"\begin{displaymath}x\end{displaymath}\begin{math}y\end{math}", ["x", "y"]),
        ("$x\n+y$", ["x +y"]),
        # Escaped dollars, and text with dollars within formulas.
        (r"5\$ and $x$, 3\$.", ["x"]),
        (r"a\\$x$", ["x"]),
        (r"$a \text{ if $b$ holds}$", [r"a \text{ if $b$ holds}"]),
        (r"\\[2mm] $x$", ["x"]),
        # Not formulas: comments, verbatim text, disabled text, text after the document.
        ("$x$ % $y$\n$z$", ["x", "z"]),
        (r"50\% of $x$", ["x"]),
        (r"\begin{verbatim}$x$\end{verbatim}$y$\verb|$z$|\verb+$w$+", ["y"]),
        (r"\begin{lstlisting}[a=b]$x$\end{lstlisting}\begin{comment}$y$\end{comment}$z$", ["z"]),
        (r"\iffalse $x$ \fi $y$", ["y"]),
        (r"$x$\end{document}$y$", ["x"]),
        # A dollar that is never closed ends with its paragraph.
        ("5$ a day\n\nand $x$ then", ["x"]),
        ("$x", []),
        # Unbalanced braces only affect their own formula.
        (r"$\frac{1}{2$ $x$ $y$", [r"\frac{1}{2", "x", "y"]),
        (r"\begin{equation} x", []),
    ],
)
def test_formulas_are_found_where_tex_sets_them(text: str, expected: list[str]) -> None:
    assert formulas(text) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            r"\begin{align} a &= b \label{x}\\c &= d + \begin{matrix} 1 & 2 \\ 3 & 4 \end{matrix} \notag\\\end{align}",
            [
                "a = b",
                r"c = d + \begin{matrix} 1 & 2 \\ 3 & 4 \end{matrix}",
                r"\begin{aligned} a & = b \\ c & = d + \begin{matrix} 1 & 2 \\ 3 & 4 \end{matrix} \end{aligned}",
            ],
        ),
        (r"\begin{align*} a &= b \end{align*}", ["a = b"]),
        (r"\begin{alignat}{2} a &= b \\[2pt] c &= d\end{alignat}",
         ["a = b", "c = d", r"\begin{aligned} a & = b \\ c & = d \end{aligned}"]),
        (r"\begin{eqnarray} a &=& b \\ c &=& d \end{eqnarray}",
         ["a = b", "c = d", r"\begin{array}{rcl} a & = & b \\ c & = & d \end{array}"]),
        (r"\begin{gather} a \\* b \end{gather}", ["a", "b", r"\begin{gathered} a \\ b \end{gathered}"]),
        (r"\begin{equation}\begin{split} a &= b \\ &= c \end{split},\end{equation}",
         ["a = b", "= c,", r"\begin{aligned} a & = b \\ & = c, \end{aligned}"]),
        (r"\begin{align} {a & b} \\ c \end{align}", ["{a & b}", "c", r"\begin{aligned} {a & b} \\ c \end{aligned}"]),
        (r"\begin{align} a \\ \intertext{and so} b \end{align}", ["a", "b", r"\begin{aligned} a \\ b \end{aligned}"]),
    ],
)  # fmt: skip
def test_rows_are_found_one_by_one_and_as_a_whole(text: str, expected: list[str]) -> None:
    assert formulas(text) == expected


def test_definitions_apply_to_the_text_after_them() -> None:
    assert formulas(r"\def\a{x}$\a$ \renewcommand{\a}{y}$\a$") == ["x", "y"]
    assert formulas(r"$\a$ \def\a{x}") == [r"\a"]


def test_definitions_are_no_formulas() -> None:
    assert formulas(r"\newcommand{\price}[1]{$#1$}\def\x{$y$} $z$") == ["z"]


@pytest.mark.parametrize(
    "definition, use",
    [
        (r"\newcommand{\be}{\begin{equation}}\newcommand{\ee}{\end{equation}}", r"\be x \ee"),
        (r"\def\beq{\begin{equation}}\def\be{\beq}\def\ee{\end{equation}}", r"\be x\ee"),
        (r"\newcommand{\eq}[1]{\begin{equation}#1\end{equation}}", r"\eq{x}"),
        (r"\newcommand{\m}[1]{$#1$}", r"\m{x}"),
        (r"\newenvironment{eqn}{\begin{equation}}{\end{equation}}", r"\begin{eqn}x\end{eqn}"),
        (r"\def\bea{\begin{eqnarray}}\def\eea{\end{eqnarray}}", r"\bea x \eea"),
    ],
)
def test_formulas_between_macros_are_found(definition: str, use: str) -> None:
    assert formulas(definition + "text " + use) == ["x"]


def test_endless_macros_only_affect_their_own_formula() -> None:
    assert formulas(r"\def\a{\a\a}$x$ $\a$ $y$") == ["x", "!", "y"]


def test_inputs_are_read_in_their_place_and_once() -> None:
    main = r"\input{macros}$\a$\input chapter \include{gone}\input{main}"
    assert formulas(main, macros=r"\def\a{x}", chapter=r"$\a y$\input{main}") == ["x", "x y"]


def test_packages_of_the_document_are_read() -> None:
    files = {"paper/main.tex": r"\documentclass{a}\usepackage[b]{amsmath,own}$\a$", "paper/own.sty": r"\def\a{x}"}
    assert roots(files) == ["paper/main.tex"]
    assert list(find_formulas(files, "paper/main.tex")) == ["x"]


def test_main_files_are_those_that_no_other_includes() -> None:
    files = {
        "a.tex": r"\input{b}",
        "b.tex": r"\input{c.tex}",
        "c.tex": "",
        "d.tex": "",
        "e.tex": r"\documentclass{x}\input{e}",
    }
    assert roots(files) == ["a.tex", "d.tex", "e.tex"]
    assert sorted(closure(files, "a.tex")) == ["a.tex", "b.tex", "c.tex"]
