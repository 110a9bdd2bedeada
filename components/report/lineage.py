"""From which data a model came and where it went: the geometry of the drawing, which charts.html draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# Boxes of two columns, left corner and middle: the model's way on the left, what judges it on the right.
WIDTH, HEIGHT = 336, 428
BOX_WIDTH, BOX_HEIGHT = 136, 44
_LEFT, _RIGHT = 1, 183
_PLACES = {
    "data": (_LEFT, 24),
    "examples": (_LEFT, 100),
    "transform_graph": (_LEFT, 176),
    "model": (_LEFT, 252),
    "pushed_model": (_LEFT, 404),
    "baseline": (_RIGHT, 176),
    "evaluation": (_RIGHT, 252),
    "serving_check": (_RIGHT, 328),
}
TITLES = {
    "data": "data",
    "examples": "examples",
    "transform_graph": "transformation",
    "model": "model",
    "baseline": "serving before",
    "evaluation": "evaluation",
    "serving_check": "serving check",
    "pushed_model": "pushed version",
}
_DOWN = (("data", "examples"), ("examples", "transform_graph"), ("transform_graph", "model"), ("model", "pushed_model"))


class Box(NamedTuple):
    """An artifact."""

    title: str
    note: str
    x: float
    y: float  # of its middle
    there: bool


class Arrow(NamedTuple):
    """What one was made from."""

    path: str  # SVG's `d`
    there: bool


class Drawing(NamedTuple):
    """Boxes and arrows."""

    boxes: list[Box]
    arrows: list[Arrow]


def draw(notes: Mapping[str, str]) -> Drawing:
    """Lays out what there is.

    Args:
        notes: a few words for each artifact that there is, by its name in TITLES.
    """
    boxes = [Box(TITLES[name], notes.get(name, "none"), *place, name in notes) for name, place in _PLACES.items()]
    half, middle = BOX_HEIGHT / 2, BOX_WIDTH / 2
    y = {name: place[1] for name, place in _PLACES.items()}
    left, right = _LEFT + BOX_WIDTH, _RIGHT
    gap, rail = (left + right) / 2, WIDTH - 4
    paths = [(pair, f"M{_LEFT + middle},{y[pair[0]] + half} V{y[pair[1]] - half}") for pair in _DOWN]
    pushed = f"V{y['pushed_model']} H{left}"
    paths += [
        (("examples", "evaluation"), f"M{left},{y['examples']} H{gap} V{y['evaluation'] - 8} H{right}"),
        (("model", "evaluation"), f"M{left},{y['model'] + 4} H{right}"),
        (("model", "serving_check"), f"M{left},{y['model'] + 12} H{gap} V{y['serving_check']} H{right}"),
        (("baseline", "evaluation"), f"M{right + middle},{y['baseline'] + half} V{y['evaluation'] - half}"),
        (("evaluation", "pushed_model"), f"M{right + BOX_WIDTH},{y['evaluation']} H{rail} {pushed}"),
        (("serving_check", "pushed_model"), f"M{right + middle},{y['serving_check'] + half} {pushed}"),
    ]
    return Drawing(boxes, [Arrow(path, all(name in notes for name in pair)) for pair, path in paths])
