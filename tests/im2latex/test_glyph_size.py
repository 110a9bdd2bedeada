from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from data.dataset.record import Record
from data.dataset.writer import DatasetWriter
from data.pictures.synthetic import draw_png, formulas
from im2latex.glyph_size import estimator, glyph_scale, measures
from im2latex.images import ink_of
from trainer_module.fit_glyph_size import errors, fit, main, samples

POINTS = 72.27


def record(index: int, formula: str, em: float) -> Record:
    """Returns a formula drawn at a size, with a name as from `data draw`."""
    look = f"latex;cm;10pt;{em * POINTS / 10:.6f}dpi;display;regular;4px;light;clean"
    return Record(draw_png(formula, em=em), formula, f"test-{index}-0;{look}")


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Returns formulas at sizes from 10 to 40 pixels per em."""
    sizes = 10 * 4 ** np.random.default_rng(0).random(240)
    return [record(i, *pair) for i, pair in enumerate(zip(formulas(240, seed=3, level="full"), sizes, strict=True))]


def test_most_em_sizes_are_estimated_within_20_percent(records):
    measured = [sample for one in records if (sample := samples(one)) is not None]
    assert len(measured) == len(records)
    off = errors(estimator(), measured)
    assert abs(np.median(off)) < math.log(1.15)
    assert (np.abs(off - np.median(off)) < math.log(1.2)).mean() > 0.6


@pytest.mark.one_stack
def test_a_fit_generalises_to_held_out_formulas(records):
    measured = [sample for one in records if (sample := samples(one)) is not None]
    network = fit(measured[:200], epochs=60)
    # Without an estimate the sizes are off by up to 4.
    assert np.median(np.abs(errors(network, measured[200:]))) < math.log(1.4)


def test_scales_are_steps_within_bounds_and_follow_the_requested_size():
    sums, area = measures(ink_of(draw_png("x + \\frac { a } { b }", em=30)))
    scales = [glyph_scale(sums, area, size) for size in (8, 16, 32)]
    np.testing.assert_allclose(np.log2(scales) * 8, np.rint(np.log2(scales) * 8), atol=1e-9)
    assert scales[2] / scales[1] == scales[1] / scales[0] == 2
    assert scales[1] == pytest.approx(16 / 30, rel=0.35)
    assert glyph_scale(sums, area, 10_000) == 4
    assert glyph_scale(*measures(np.zeros((5, 5), np.float32)), 16) == 1


def test_the_command_measures_fits_and_refuses_data_without_sizes(records, tmp_path, capsys):
    with DatasetWriter(tmp_path / "drawn", "test") as writer:
        for one in records:
            writer.write("train", one)
    assert main([str(tmp_path / "drawn"), "--out", str(tmp_path / "network.npz")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["font", "images"]
    assert [line.split()[0] for line in lines[1:]] == ["all", "cm"]
    with np.load(tmp_path / "network.npz") as saved:
        assert set(saved) == set(estimator()._fields)
    with DatasetWriter(tmp_path / "plain", "test") as writer:
        writer.write("train", dataclasses.replace(records[0], name="plain.png"))
    assert main([str(tmp_path / "plain")]) == 1
    assert "data draw" in capsys.readouterr().err
