from __future__ import annotations

import numpy as np
import pytest

from components.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, curves, histogram

FLOOR = HEIGHT - BOTTOM


def labels(ticks) -> list[str]:
    return [tick.label for tick in ticks]


def test_the_axes_start_at_the_first_epoch_and_at_zero() -> None:
    chart = curves("loss", [("training", "solid", [4.0, 2.0, 0.0])], [1, 2, 3])
    assert chart is not None
    np.testing.assert_allclose(
        chart.lines[0].points, [(LEFT, TOP), ((LEFT + WIDTH - RIGHT) / 2, (TOP + FLOOR) / 2), (WIDTH - RIGHT, FLOOR)]
    )
    assert labels(chart.y_ticks) == ["0", "1", "2", "3", "4"]
    assert labels(chart.x_ticks) == ["1", "2", "3"]


def test_on_a_logarithmic_axis_equal_ratios_have_equal_distances() -> None:
    chart = curves("perplexity", [("v", "solid", [100.0, 10.0, 1.0])], [1, 2, 3], logarithmic=True, mark=(3, 1.0))
    assert chart is not None
    heights = [y for _, y in chart.lines[0].points]
    assert heights == pytest.approx([TOP, (TOP + FLOOR) / 2, FLOOR])
    assert chart.mark == pytest.approx((WIDTH - RIGHT, FLOOR))
    assert labels(chart.y_ticks) == ["1", "2", "5", "10", "20", "50", "100"]


def test_epochs_without_values_are_left_out() -> None:
    chart = curves("loss", [("a", "solid", [None, 1.0]), ("b", "dashed", [None, None])], [4, 5])
    assert chart is not None and [line.name for line in chart.lines] == ["a"]
    assert len(chart.lines[0].points) == 1
    assert curves("loss", [("a", "solid", [None, None])], [4, 5]) is None


def test_one_epoch_or_equal_values_give_a_chart() -> None:
    for values in ([2.5], [1.0]):
        for logarithmic in (False, True):
            chart = curves("x", [("a", "solid", values)], [1], logarithmic)
            assert chart is not None and len(chart.y_ticks) >= 2
            ((x, y),) = chart.lines[0].points
            assert x == LEFT and TOP <= y <= FLOOR


@pytest.mark.parametrize("rate", [1e-5, 2.5e-3, 0.1, 1e6])
def test_ticks_include_the_values_and_are_few_and_distinct(rate: float) -> None:
    chart = curves("rate", [("rate", "solid", [rate, rate / 3])], [1, 2])
    assert chart is not None
    assert 2 <= len(chart.y_ticks) <= 7 and len(set(labels(chart.y_ticks))) == len(chart.y_ticks)
    assert all(TOP - 1e-6 <= y <= FLOOR + 1e-6 for _, y in chart.lines[0].points)


def test_bars_are_shares_of_the_examples() -> None:
    # Bars for 0 to 3. In the first split, half of the values are 1, a quarter are 2, a quarter are 3.
    chart = histogram("Length", "tokens", {"train": np.array([1, 1, 2, 3]), "evaluated": np.array([3])})
    unit = chart.bars[0][2]
    assert [bar[0] for bar in chart.bars] == pytest.approx([LEFT + unit, LEFT + 2 * unit, LEFT + 3 * unit])
    heights = [bar[3] for bar in chart.bars]
    assert heights[1] == pytest.approx(heights[0] / 2) and heights[2] == pytest.approx(heights[0] / 2)
    # In the second split all values are 3, so its line is twice as high as the highest bar.
    outline = chart.lines[1].points
    assert FLOOR - min(y for _, y in outline) == pytest.approx(2 * heights[0])
    assert labels(chart.y_ticks)[-1] == "100"
    assert [line.name for line in chart.lines] == ["train", "evaluated"]


def test_bars_include_every_example() -> None:
    values = np.random.default_rng(1).integers(0, 5000, 1000)
    chart = histogram("Width", "pixels", {"train": values})
    percent = (FLOOR - TOP) / 100
    top = float(labels(chart.y_ticks)[-1]) / 100
    assert sum(bar[3] for bar in chart.bars) == pytest.approx(100 * percent / top)
    assert max(bar[0] + bar[2] for bar in chart.bars) <= WIDTH - RIGHT + 1e-6
