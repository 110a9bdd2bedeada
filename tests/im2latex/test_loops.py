"""The model that comes with im2latex does not repeat a part of a formula up to the maximum length."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

import im2latex
from components.evaluator.pictures import PICTURES, RobustnessTest, trials
from data.dataset.record import Record
from data.importers.importing import open_source
from data.importers.source import read_image

SAMPLES = Path(os.environ.get("IM2LATEX_SAMPLES", Path(__file__).parents[3] / "shared"))
REAL = SAMPLES / "im2latex-100k"
# Examples for each kind of picture. docs/concepts/metrics.md has the figures of a measurement with all of them.
EXAMPLES = 16
# Shortest repetition that counts, in tokens: of 347,000 real formulas, 12 end with so much of it.
SHORTEST = 40


def ends_in_a_loop(tokens: Sequence[str]) -> bool:
    """Returns whether the last `SHORTEST` tokens repeat a sequence of up to 20 tokens."""
    end = tokens[-SHORTEST:]
    return len(end) == SHORTEST and any(
        all(token == end[index % period] for index, token in enumerate(end)) for period in range(1, SHORTEST // 2 + 1)
    )


def test_a_loop_is_recognised() -> None:
    assert ends_in_a_loop([*"abc", *"+x" * 20]) and ends_in_a_loop([*"a" * 40])
    assert not ends_in_a_loop([*"+x" * 20, "y"]) and not ends_in_a_loop([*"+x" * 19])


@pytest.mark.integration
@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs im2latex-100k in {REAL}; IM2LATEX_SAMPLES names another folder")
@pytest.mark.one_stack
def test_no_real_or_degraded_formula_is_read_in_a_loop() -> None:
    validation = (one for one in open_source(REAL).candidates if one.split == "eval")
    records = [Record(read_image(one.image), one.formula.decode(), one.name) for one in validation]
    assert len(records) > 1000
    tried = trials(records, RobustnessTest(EXAMPLES, seed=1))
    assert {one.kind for one in tried} == set(PICTURES) - {"unseen-font"}
    readings = im2latex.Reader().predict([one.image for one in tried])
    loops = [one.kind for one, read in zip(tried, readings, strict=True) if ends_in_a_loop(read.latex.split())]
    assert loops == []
