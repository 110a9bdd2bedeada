from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.commands import app
from data.formulas.lists import Formula, drawn_key, read_formulas
from data.formulas.recombination import KINDS, find_parts, recombine
from data.latex.rendering import render_all
from im2latex.errors import UserError
from im2latex.tokenizer import FormulaError, tokenize

SAMPLES = Path(os.environ.get("IM2LATEX_SAMPLES", Path(__file__).parents[4] / "shared"))
MISSING = [program for program in ("latex", "dvipng") if shutil.which(program) is None]


def formulas(*texts: str) -> list[Formula]:
    tokens = [" ".join(tokenize(text)) for text in texts]
    return [Formula(joined, "own", "", drawn_key(joined)) for joined in tokens]


def parts(text: str) -> list[tuple[str, str]]:
    tokens = tokenize(text)
    return sorted((part.kind, " ".join(tokens[part.start : part.end])) for part in find_parts(tokens))


@pytest.mark.parametrize(
    "text, expected",
    [
        (r"\frac{a}{b}", [("fraction", "a"), ("fraction", "b")]),
        (r"x_i^2", [("subscript", "i"), ("superscript", "2")]),
        (r"\sqrt[n]{x+1} \hat{p}", [("accent", "p"), ("root", "x + 1")]),
        (r"\left( \frac{a}{b} \right]", [("delimited", r"\frac { a } { b }"), ("fraction", "a"), ("fraction", "b")]),
        (r"\begin{array}{cc} a & b \\ & d \end{array}", [("cell", "a"), ("cell", "b"), ("cell", "d")]),
        (r"\begin{aligned} a &= b \end{aligned}", [("row", "= b"), ("row", "a")]),
        ("a + b = c, d", [("side", "a + b"), ("side", "c"), ("side", "d")]),
        # Sides are only found at the top level, and do not end at a comma in brackets.
        ("f(x, y) = z", [("side", "f ( x , y )"), ("side", "z")]),
        (r"{ a = b }", []),
        # Not parts: text, names, commands that apply to their whole group, unclosed brackets, scripts of other items.
        (r"\mathrm{for_all}", []),
        (r"x_{\displaystyle y} + z_{(n}", []),
        (r"\begin{array}{c} a \\ {[b]} \\ [b] \end{array}", [("cell", "a"), ("cell", "{ [ b ] }")]),
        (r"= ^{2} = x", [("side", "x"), ("superscript", "2")]),
        (r"[0, 1) = x", [("side", "[ 0 , 1 )"), ("side", "x")]),
        (r"[0, 1[ \ = x", []),
    ],
)
def test_parts_of_all_kinds_are_found(text: str, expected: list[tuple[str, str]]) -> None:
    assert parts(text) == expected


@pytest.mark.parametrize("tokens", ["a }", "{ a", r"\left( a", r"\frac { a }", r"\begin{array} { c } a", "a & b"])
def test_unbalanced_groups_are_refused(tokens: str) -> None:
    with pytest.raises(FormulaError):
        find_parts(tokens.split())


def test_parts_are_exchanged_within_their_kind_only() -> None:
    known = formulas("x_{a}^{b}", "y_{c}^{d}", "z_{e}^{f}")
    recombined = list(recombine(known, 20, 1, 150))
    assert len(set(recombined)) == 20
    bases, subs, sups = [], set(), set()
    for formula in recombined:
        base, _, _, sub, _, _, _, sup, _ = formula.split()
        bases.append(base)
        subs.add(sub)
        sups.add(sup)
    # 3 x 3 x 3 formulas, 3 of them known; two exchanges reach all others.
    assert set(bases) == {"x", "y", "z"} and subs == {"a", "c", "e"} and sups == {"b", "d", "f"}


def test_known_held_out_and_repeated_formulas_are_not_made() -> None:
    known = formulas("x_{a} = 1", "x_{b} = 1", "y_{a} = 2", r"{y}_{c}\, = 2")
    held_out = {drawn_key("y _ { b } = 2")}
    recombined = list(recombine(known, 4, 1, 150, held_out))
    keys = [drawn_key(formula) for formula in recombined]
    assert len(set(keys)) == 4 and held_out.isdisjoint(keys) and {formula.key for formula in known}.isdisjoint(keys)


def test_the_same_seed_gives_the_same_formulas() -> None:
    known = formulas(*(rf"\frac{{{a}}}{{{b}}}" for a, b in itertools.product("abcd", "wxyz")), "1_2", "3_4", "5_6")
    first, second, other = (list(recombine(known, 6, seed, 150)) for seed in (1, 1, 2))
    assert first == second != other


def test_formulas_stay_within_their_length() -> None:
    known = formulas(r"\frac{a + b + c + d}{x}", r"\frac{y}{z}")  # 13 and 7 tokens
    short, all_of_them = list(recombine(known, 4, 1, 8)), list(recombine(known, 10, 1, 13))
    assert {len(formula.split()) for formula in short} == {7}
    assert {len(formula.split()) for formula in all_of_them} == {7, 13}


def test_too_few_formulas_are_refused() -> None:
    for texts in (["x"], ["x_1"], ["x_1", "x_2"], [r"\unknown_1", "x_2", "y"]):
        with pytest.raises(UserError, match="only 0 new formulas can be made"):
            list(recombine(formulas(*texts), 1, 1, 150))


def test_the_command_keeps_held_out_formulas_out(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("\n".join(f"{a}_{b}+1" for a in "abc" for b in "123") + "\nx_y+2\nz_w+2\n")
    (tmp_path / "held").write_text("x_{1} + 2\n{z}_1+2\n")
    arguments = [str(tmp_path / "list"), "--count", "5", "--exclude", str(tmp_path / "held"), "--workers", "1"]
    result = CliRunner().invoke(
        app, ["recombine", *arguments, "--out", str(tmp_path / "out.gz")], catch_exceptions=False
    )
    assert result.exit_code == 0 and "5 formulas in" in result.output
    recombined = list(read_formulas([tmp_path / "out.gz"], 150, 1))
    assert len(recombined) == 5
    for formula in recombined:
        assert isinstance(formula, Formula) and formula.source == "recombined"
        assert formula.key not in {drawn_key("x _ { 1 } + 2"), drawn_key("z _ { 1 } + 2")}


@pytest.mark.integration
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_of_real_formulas_99_of_100_compile_and_all_can_be_read() -> None:
    source = SAMPLES / "im2latex-100k" / "im2latex_formulas.norm.lst"
    if not source.exists():
        pytest.skip(f"needs {source}; name the samples' folder by IM2LATEX_SAMPLES")
    with open(source) as lines:
        known = []
        for line in itertools.islice(lines, 1500):
            known += formulas(line)
    recombined = list(recombine(known, 1000, 1, 150))
    kinds = set()
    for formula in recombined:
        assert " ".join(tokenize(formula)) == formula
        kinds |= {part.kind for part in find_parts(formula.split())}
    assert kinds == set(KINDS) - {"row"}  # that sample has no aligned lines
    drawn = render_all(recombined, 50, renderer="latex")
    assert sum(picture is None for picture in drawn) <= 10
