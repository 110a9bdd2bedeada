from __future__ import annotations

import pytest

from components.evaluator.slices import KEYS, SLICES, slices_of, source_of


@pytest.mark.parametrize(
    ("tokens", "length"), [(1, "1-9"), (9, "1-9"), (10, "10-19"), (79, "40-79"), (80, "80+"), (900, "80+")]
)
def test_examples_are_sliced_by_the_length_of_the_target(tokens: int, length: str) -> None:
    assert slices_of("x " * tokens, 10, 10)["length"] == [length]


@pytest.mark.parametrize(("height", "width", "area"), [(1, 1, "0-1999"), (20, 100, "2000-3999"), (400, 400, "16000+")])
def test_examples_are_sliced_by_the_area_of_the_image(height: int, width: int, area: str) -> None:
    assert slices_of("x", height, width)["area"] == [area]


def test_an_example_is_in_the_slice_of_each_of_its_structures() -> None:
    latex = "\\frac { \\sqrt { x } } { 2 } \\sum _ { i } \\begin{array} { c } x \\end{array}"
    assert slices_of(latex, 1, 1)["structure"] == ["fraction", "matrix", "root", "big operator"]
    assert slices_of("\\sqrt [ 3 ] { x }", 1, 1)["structure"] == ["root"]
    assert slices_of("\\fraction x ^ { 2 }", 1, 1)["structure"] == ["none of these"]


def test_all_possible_slices_are_listed() -> None:
    for tokens in range(1, 100):
        for key, values in slices_of("\\frac " * tokens, tokens, 200).items():
            assert key in KEYS and set(values) <= set(SLICES[key])


def test_corrections_and_other_examples_are_slices_if_there_are_corrections() -> None:
    correction = "correction-20261127T150423Z-ada-3f2a9c81d0e4-b7aa12cd"
    assert [source_of(name) for name in ("7944775fc9.png", correction)] == ["others", "corrections"]
