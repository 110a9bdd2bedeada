"""Computes the geometry of the charts; charts.html draws them as SVG in the page's colours.

Lengths are in units of a drawing of WIDTH x HEIGHT; one unit is about one pixel of the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 320, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 22, 34
BARS = 24


class Tick(NamedTuple):
    """A labelled position on an axis."""

    position: float
    label: str


class Series(NamedTuple):
    """A series of points, joined by lines."""

    name: str
    style: str  # CSS class
    points: list[tuple[float, float]]

    @property
    def path(self) -> str:
        """The points as the value of SVG's `points` attribute."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


class Chart(NamedTuple):
    """A chart: lines over epochs, or a histogram over sizes."""

    title: str
    x_title: str
    y_title: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Series]
    mark: tuple[float, float] | None = None  # a point to highlight
    bars: list[tuple[float, float, float, float]] = []  # x, y, width, height


def curves(
    title: str,
    series: Sequence[tuple[str, str, Sequence[float | None]]],
    epochs: Sequence[int],
    logarithmic: bool = False,
    mark: tuple[int, float] | None = None,
) -> Chart | None:
    """Lays out a chart of values by epoch; returns None if no value is known.

    Args:
        title: name of the values.
        series: name, style and values of each line; one value for each epoch, None if it is unknown.
        epochs: numbers of the epochs.
        logarithmic: whether the axis of values is logarithmic.
        mark: epoch and value of a point to highlight.
    """
    known = [value for _, _, values in series for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    ticks = _ratios(min(known), max(known)) if logarithmic else _round_numbers(min(0.0, min(known)), max(known))
    scale = math.log if logarithmic else float
    low, high = scale(ticks[0]), scale(ticks[-1])
    first, last = epochs[0], max(epochs[-1], epochs[0] + 1)

    def x(epoch: float) -> float:
        return LEFT + (epoch - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - scale(value)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    lines = [
        Series(name, style, [(x(e), y(v)) for e, v in zip(epochs, values, strict=True) if v is not None])
        for name, style, values in series
        if any(value is not None for value in values)
    ]
    step = max(1, math.ceil((epochs[-1] - first + 1) / 8))
    x_ticks = [Tick(x(epoch), str(epoch)) for epoch in range(first, epochs[-1] + 1, step)]
    y_ticks = [Tick(y(value), _label(value)) for value in ticks]
    return Chart(
        title=title,
        x_title="epoch",
        y_title="",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        lines=lines,
        mark=(x(mark[0]), y(mark[1])) if mark else None,
    )


def histogram(title: str, unit: str, splits: Mapping[str, np.ndarray]) -> Chart:
    """Lays out a histogram of two splits, the first as bars and the second as a line.

    Args:
        title: name of the measurement.
        unit: unit of the measurement.
        splits: measurements by name of the split; all are at least 0, and no split is empty.
    """
    highest = max(float(values.max()) for values in splits.values())
    ticks = _round_numbers(0, highest, 6)
    # Bar widths are integers, so that every integer falls into one bar.
    width = max(1, math.ceil((highest + 1) / BARS))
    count = math.ceil((highest + 1) / width)
    edges = np.arange(count + 1) * width
    shares = {name: np.histogram(values, edges)[0] / len(values) for name, values in splits.items()}
    tops = _round_numbers(0, 100 * max(share.max() for share in shares.values()))
    end = max(edges[-1], ticks[-1])

    def x(value: float) -> float:
        return LEFT + value / end * (WIDTH - LEFT - RIGHT)

    def y(percent: float) -> float:
        return TOP + (1 - percent / tops[-1]) * (HEIGHT - TOP - BOTTOM)

    (first, bars), *others = shares.items()
    lines = [Series(first, "bars", [])]
    for name, share in others:
        outline = [(x(0), y(0))]
        for index, percent in enumerate(100 * share):
            outline += [(x(edges[index]), y(percent)), (x(edges[index + 1]), y(percent))]
        lines.append(Series(name, "outline", [*outline, (x(edges[-1]), y(0))]))
    return Chart(
        title,
        unit,
        "% of the examples",
        [Tick(x(value), _label(value)) for value in ticks],
        [Tick(y(value), _label(value)) for value in tops],
        lines,
        bars=[
            (x(edges[i]), y(percent), x(edges[i + 1]) - x(edges[i]), y(0) - y(percent))
            for i, percent in enumerate(100 * bars)
            if percent > 0
        ],
    )


def reliability(points: Sequence[tuple[float, float]]) -> Chart:
    """Shares that are right over probabilities, each 0 to 1, beside those of a model that is calibrated perfectly."""

    def point_at(probability: float, share: float) -> tuple[float, float]:
        x = LEFT + probability * (WIDTH - LEFT - RIGHT)
        return x, TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)

    ticks = _round_numbers(0, 1)
    return Chart(
        "confidence",
        "probability",
        "share that is right",
        [Tick(point_at(value, 0)[0], _label(value)) for value in ticks],
        [Tick(point_at(0, value)[1], _label(value)) for value in ticks],
        [
            Series("calibrated perfectly", "dashed", [point_at(0, 0), point_at(1, 1)]),
            Series("this model", "solid", [point_at(*point) for point in points]),
        ],
    )


def _round_numbers(low: float, high: float, count: int = 5) -> list[float]:
    """Returns at most `count` + 1 ticks that include low and high; their distance is 1, 2 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(factor * power for factor in (1, 2, 5, 10) if span <= factor * power * count * (1 + 1e-9))
    start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(start, max(stop, start + 1) + 1)]


def _ratios(low: float, high: float) -> list[float]:
    """Returns ticks for a logarithmic axis, 1, 2 and 5 times powers of ten; leaves some out if they are too many."""
    all_steps = [factor * 10.0**power for power in range(-12, 13) for factor in (1, 2, 5)]
    below = max((i for i, step in enumerate(all_steps) if step <= low * (1 + 1e-9)), default=0)
    above = min((i for i, step in enumerate(all_steps) if step >= high * (1 - 1e-9)), default=len(all_steps) - 1)
    above = max(above, below + 1)
    stride = math.ceil((above - below) / 6)
    return all_steps[below : above + stride : stride]


def _label(value: float) -> str:
    return f"{value:,.6g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}".replace("e-0", "e-")
