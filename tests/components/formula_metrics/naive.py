"""Naive implementations of the scores, which the tests compare with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def distance(one: Sequence, other: Sequence) -> int:
    """Returns the Levenshtein distance, row by row (Wagner and Fischer 1974)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row, above = [i], row
        for j, b in enumerate(other, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]


def columns(image: np.ndarray, height: int) -> list[str]:
    """Returns the columns from left to right, each as text of 0 and 1 from top to bottom; 1 is ink."""
    return [
        "".join("1" if y < image.shape[0] and image[y, x] <= 128 else "0" for y in range(height))
        for x in range(image.shape[1])
    ]


def symbols(pieces: list[str]) -> list[str]:
    """Returns for each column the first symbol that differs in fewer than 5 pixels; without one, the column itself."""
    known: list[str] = []
    result = []
    for piece in pieces:
        like = [symbol for symbol in known if sum(a != b for a, b in zip(piece, symbol, strict=True)) < 5]
        if not like:
            known.append(piece)
        result.append((like or [piece])[0])
    return result


def image_distance(target: np.ndarray | None, read: np.ndarray | None) -> tuple[int, int]:
    """Returns (distance, length) of two images, by columns."""
    if target is None or read is None:
        width = sum(image.shape[1] for image in (target, read) if image is not None)
        return width, width
    height = max(len(target), len(read))
    return distance(columns(target, height), columns(read, height)), max(target.shape[1], read.shape[1])
