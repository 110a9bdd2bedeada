"""Computes the geometry of the lineage drawing, from a model's data to its pushed version; charts.html draws it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# Left edge and vertical middle of each box. Left column: from data to pushed version. Right column: its evaluation.
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


class ArtifactBox(NamedTuple):
    """An artifact."""

    title: str
    note: str
    x: float
    y: float  # of its middle
    present: bool


class Arrow(NamedTuple):
    """An arrow from an artifact to one that was made from it."""

    path: str  # value of SVG's `d` attribute
    present: bool


class Drawing(NamedTuple):
    """Boxes and arrows."""

    boxes: list[ArtifactBox]
    arrows: list[Arrow]


def draw(notes: Mapping[str, str]) -> Drawing:
    """Lays out the drawing.

    Args:
        notes: a short text for each artifact that exists, by its key in TITLES.
    """
    boxes = [
        ArtifactBox(TITLES[name], notes.get(name, "none"), *position, name in notes)
        for name, position in _PLACES.items()
    ]
    half, middle = BOX_HEIGHT / 2, BOX_WIDTH / 2
    y = {name: position[1] for name, position in _PLACES.items()}
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
