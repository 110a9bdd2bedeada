from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.formula_metrics.cdm import PARTS, boxes_of, cdm_statistics, f1
from data.latex.computer_modern import SYMBOLS
from data.latex.rendering import default_renderer
from data.latex.symbol_boxes import symbol_boxes
from data.spelling import normal_form
from tests.data.spelling.test_pictures import REAL


def cdm(reference: str, prediction: str) -> float:
    target, read = boxes_of(reference), boxes_of(prediction)
    assert target is not None and read is not None
    return f1(target, read)


# --- boxes ------------------------------------------------------------------------------------


def test_boxes_enclose_the_ink_of_characters_in_em() -> None:
    boxes = symbol_boxes(["x", "^", "{", "2", "}"])
    (left, top, right, bottom), (script_left, _, _, script_bottom) = boxes.corners
    # cmmi10's x is 0.431 em high, on the baseline; the exponent is cmr10 at 0.75 em, raised by sup1.
    assert (top, bottom) == pytest.approx((-0.43, 0), abs=0.02) and 0 <= left < right < 0.58
    assert script_left > right - 0.05 and script_bottom == pytest.approx(-0.413, abs=0.02)
    assert boxes.sizes.tolist() == [1, 0.75]


@pytest.mark.parametrize(
    ("formula", "symbols"),
    [
        ("\\frac { a } { b }", 3),  # the bar is a symbol
        ("\\sqrt { x }", 2),  # the sign and its bar are one symbol
        ("a \\neq b", 3),
        ("\\sin x", 4),
        ("\\underbrace { a b } _ { n }", 4),
        ("a \\ldots", 4),
        ("\\begin{array} { c | c } a & b \\end{array}", 3),
        ("\\hat { x }", 2),
        ("x \\quad y", 2),
    ],
)
def test_symbols_are_counted_as_they_look(formula: str, symbols: int) -> None:
    assert len(symbol_boxes(formula.split()).labels) == symbols


def test_delimiters_and_operators_of_any_size_have_one_label() -> None:
    (plain, *_), (large, *_) = (
        symbol_boxes(text.split()).labels for text in ("( x )", "\\left( \\frac { x } { y } \\right)")
    )
    assert plain == large
    (one, *_), (two, *_) = (symbol_boxes(text.split()).labels for text in ("\\sum x", "{ \\textstyle \\sum x }"))
    assert one == two


# --- the properties of the paper --------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a \\rightarrow b", "a \\to b"),
        ("a \\le b \\ne c", "a \\leq b \\neq c"),
        ("{ \\cal L } _ { \\rm i n t }", "\\mathcal { L } _ { \\mathrm { i n t } }"),
        ("x ^ { 2 } _ { 1 }", "x _ 1 ^ 2"),
        ("{ a } \\over { b }", "\\frac { a } { b }"),
        ("\\operatorname { s i n } x", "\\sin x"),
        ("\\left( x \\right)", "( x )"),
        ("\\lbrace x \\rbrace", "\\{ x \\}"),
        ("\\begin{pmatrix} a & b \\end{pmatrix}", "\\left( \\begin{array} { c c } a & b \\end{array} \\right)"),
        ("x \\, y \\; z", "x y z"),
        ("f '", "f ^ { \\prime }"),
        ("| x |", "\\vert x \\vert"),
    ],
)  # fmt: skip
def test_spellings_that_look_the_same_score_one(one: str, other: str) -> None:
    assert cdm(one, other) == cdm(other, one) == 1
    assert cdm_statistics(one, other).tolist() == [PARTS, PARTS, 1, 1, 0]


FORMULA = "a b c + d e f = g h".split()  # noqa: SIM905


@pytest.mark.parametrize("index", range(len(FORMULA)))
def test_one_wrong_symbol_of_n_costs_1_over_n(index: int) -> None:
    n = len(FORMULA)
    wrong = " ".join([*FORMULA[:index], "\\Omega", *FORMULA[index + 1 :]])
    assert cdm(" ".join(FORMULA), wrong) == pytest.approx((n - 1) / n)


@pytest.mark.parametrize("index", range(len(FORMULA)))
def test_a_missing_or_extra_symbol_does_not_affect_the_others(index: int) -> None:
    n, whole = len(FORMULA), " ".join(FORMULA)
    shorter = " ".join([*FORMULA[:index], *FORMULA[index + 1 :]])
    assert cdm(whole, shorter) == cdm(shorter, whole) == pytest.approx(2 * (n - 1) / (2 * n - 1))


@pytest.mark.parametrize(
    ("formula", "font"),
    [("x y z", "\\mathbf { x } y z"), ("x y z", "\\mathcal { X } y z"), ("d x", "\\mathrm { d } x")],
)
def test_another_font_is_another_symbol(formula: str, font: str) -> None:
    assert cdm(formula, font) < 1


@pytest.mark.parametrize(
    ("right", "wrong", "most"),
    [
        ("a b c d", "b a c d", 3 / 4),
        ("a b", "b a", 1 / 2),
        ("x ^ { 2 } + y", "x _ { 2 } + y", 3 / 4),
        ("x _ { i j k } + y", "x ^ { i j k } + y", 3 / 6),
        ("x _ { 1 } + x _ { 2 } + x _ { 3 }", "x ^ { 1 } + x ^ { 2 } + x ^ { 3 }", 5 / 8),
        ("x _ { i j k } + y", "x i j k + y", 3 / 6),
        ("\\frac { a b c } { d e f }", "\\frac { d e f } { a b c }", 4 / 7),
        ("\\frac { a } { b } + c", "\\frac { b } { a } + c", 3 / 5),
        ("\\sum _ { i } ^ { n } x", "\\sum _ { n } ^ { i } x", 2 / 4),
    ],
)
def test_order_and_position_count(right: str, wrong: str, most: float) -> None:
    assert 0 < cdm(right, wrong) <= most + 1e-9


def test_rows_below_a_missing_row_are_matched() -> None:
    rows = ["a & b + 1", "c & d + 2", "e & f + 3", "g & h + 4"]

    def array(rows: list[str]) -> str:
        return "\\begin{array} { l l } " + " \\\\ ".join(rows) + " \\end{array}"

    assert cdm(array(rows), array([rows[0], *rows[2:]])) == pytest.approx(2 * 12 / (16 + 12))


def test_formulas_without_common_symbols_score_zero() -> None:
    assert cdm("a b c", "1 2 3") == 0


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        ("x", "\\notacommand", [0, PARTS, 0, 1, 0]),
        ("x", "", [0, PARTS, 0, 1, 0]),
        ("x", "{", [0, PARTS, 0, 1, 0]),
        ("\\notacommand", "x", [0, 0, 0, 0, 1]),
        ("\\frac { a } { b } c", "\\frac { a } { b } \\Omega", [PARTS * 3 // 4, PARTS, 0, 1, 0]),
    ],
)
def test_formulas_that_cannot_be_typeset_score_zero_or_are_left_out(
    reference: str, prediction: str, expected: list[int]
) -> None:
    assert cdm_statistics(reference, prediction).tolist() == expected


# --- against LaTeX ----------------------------------------------------------------------------

DPI = 600
SIZE = DPI * 10 / 72.27  # pixels per em
PREAMBLE = r"""\documentclass[10pt]{article}\usepackage{amsmath,amssymb}\pagestyle{empty}
\oddsidemargin=-.9in \hoffset=0pt \begin{document}
"""
# Tokens that a colour command must not separate.
CLOSED = {"\\big", "\\Big", "\\bigg", "\\Bigg", "\\not"}


def coloured(tokens: list[str]) -> tuple[str, dict[int, int]]:
    """Returns LaTeX in which each character has its own colour, and the index of the token by the colour's number.

    Colours are specials, which change no space. What is no character, or is put together, is black.
    """
    black = "\\special{color gray 0}"
    parts: list[str] = []
    indices: dict[int, int] = {}
    in_columns = after_closed = False
    for index, token in enumerate(tokens):
        if in_columns or after_closed:
            in_columns, after_closed = in_columns and token != "}", False
        elif token in SYMBOLS:
            number = len(indices) + 1
            red, green, blue = (number % 6 * 40 + 20, number // 6 % 6 * 40 + 20, number // 36 * 40 + 20)
            indices[red << 16 | green << 8 | blue] = index
            shares = " ".join(f"{(part + 0.5) / 256:.6f}" for part in (red, green, blue))
            parts.append(f"\\special{{color rgb {shares}}}")
        elif token == "}" or token[0] == "\\" or token == "&":
            parts.append(black)
        parts.append(token)
        in_columns = in_columns or token == "\\begin{array}"
        after_closed = token in CLOSED
    return " ".join(parts), indices


def boxes_by_latex(formulas: list[list[str]], folder: Path) -> list[dict[int, np.ndarray]]:
    """Returns the box of each character, em, y downwards, by the index of its token."""
    written = [coloured(tokens) for tokens in formulas]
    pages = "".join(f"\\noindent\\hbox{{$\\displaystyle {latex}$}}\\newpage\n" for latex, _ in written)
    (folder / "boxes.tex").write_text(PREAMBLE + pages + "\\end{document}\n")
    for command in (
        ["latex", "-interaction=nonstopmode", "boxes.tex"],
        ["dvipng", f"-D{DPI}", "-Ttight", "-z0", "--truecolor", "-oboxes-%d.png", "boxes.dvi"],
    ):
        subprocess.run(command, cwd=folder, check=False, capture_output=True, timeout=300)
    page_boxes = []
    for page, (_, indices) in enumerate(written, 1):
        picture = np.asarray(Image.open(folder / f"boxes-{page}.png").convert("RGB")).astype(int)
        codes = picture[..., 0] << 16 | picture[..., 1] << 8 | picture[..., 2]
        boxes = {}
        for code, index in indices.items():
            rows, columns = np.nonzero(codes == code)
            if len(rows):
                boxes[index] = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SIZE
        page_boxes.append(boxes)
    return page_boxes


def pairs_of_boxes(tokens: list[str], by_latex: dict[int, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs the boxes of both for each character; characters of the same kind are paired from left to right."""
    ours = symbol_boxes(tokens)
    kinds: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for label, box in zip(ours.labels, ours.corners, strict=True):
        if isinstance(label, tuple):
            kinds.setdefault(label[1], ([], []))[0].append(box)
    for index, box in by_latex.items():
        kinds.setdefault(SYMBOLS[tokens[index]][2], ([], []))[1].append(box)

    def from_left(box: np.ndarray) -> float:
        return float(box[0] + box[2])

    return [
        pair
        for one, other in kinds.values()
        if len(one) == len(other)
        for pair in zip(sorted(one, key=from_left), sorted(other, key=from_left), strict=True)
    ]


@pytest.mark.skipif(default_renderer() != "latex", reason="latex and dvipng are not installed")
@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is missing; set IM2LATEX_SAMPLES to the folder of im2latex-100k")
def test_characters_have_the_positions_of_latex(tmp_path: Path) -> None:
    formulas = [normal_form(line).split() for line in REAL.read_text().splitlines()[::130][:200]]
    formulas = [tokens for tokens in formulas if len(tokens) <= 100]
    compared = boxes = right = total = 0
    for tokens, by_latex in zip(formulas, boxes_by_latex(formulas, tmp_path), strict=True):
        pairs = pairs_of_boxes(tokens, by_latex)
        if len(pairs) < 3:
            continue
        one, other = (np.array(side) for side in zip(*pairs, strict=True))
        moved = (other[:, :2] + other[:, 2:] - one[:, :2] - one[:, 2:]) / 2
        moved -= np.median(moved, axis=0)
        compared += 1
        boxes += len(pairs)
        total += len(by_latex)
        # LaTeX's scripts have 7 and 5 pt, the built-in typesetter's 7.5 and 6; so lines are longer by some hundredths.
        width = max(1.0, one[:, 2].max() - one[:, 0].min())
        right += int(((np.abs(moved[:, 1]) < 0.25) & (np.abs(moved[:, 0]) < 0.25 + 0.05 * width)).sum())
    print(f"{compared} formulas, {boxes} of {total} characters compared, {right / boxes:.4f} where LaTeX puts them")
    assert compared > 0.9 * len(formulas) and boxes > 0.8 * total and right > 0.97 * boxes
