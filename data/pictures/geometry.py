"""Pictures in other sizes and from other sides; NumPy and Pillow alone."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image


def resample(image: np.ndarray, factor: float, method: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """The picture, `factor` times as large; Pillow averages over areas where it becomes smaller."""
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), method))


def corners_of(image: np.ndarray) -> np.ndarray:
    """The corners of a picture, clockwise from the upper left one, (4, 2) float64 of x and y in pixels."""
    height, width = image.shape[:2]
    return np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)


def warp(image: np.ndarray, corners: np.ndarray, method: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """Moves the corners of a picture; what is new is paper.

    Args:
        image: uint8, (H, W) or (H, W, 3).
        corners: where they go, in the order of `corners_of`, (4, 2) of x and y in pixels.
        method: nearest, bilinear or bicubic.

    Returns:
        The smallest picture that holds all four.
    """
    corners = corners - corners.min(axis=0)
    width, height = (max(1, math.ceil(side - 1e-6)) for side in corners.max(axis=0))
    # Pillow asks for each new pixel where it comes from: x = (a u + b v + c) / (g u + h v + 1), y likewise.
    rows, values = [], []
    for (u, v), (x, y) in zip(corners, corners_of(image), strict=True):
        rows += [(u, v, 1, 0, 0, 0, -u * x, -v * x), (0, 0, 0, u, v, 1, -u * y, -v * y)]
        values += [x, y]
    mapping = np.linalg.solve(np.array(rows), np.array(values)).tolist()
    moved = Image.fromarray(image).transform(
        (width, height), Image.Transform.PERSPECTIVE, mapping, method, fillcolor=paper_of(image)
    )
    return np.asarray(moved)


def paper_of(image: np.ndarray) -> int | tuple[int, ...]:
    """The colour of the paper, as Pillow takes it: the median of the frame."""
    frame = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    colour = np.median(frame, axis=0)
    return int(colour) if image.ndim == 2 else tuple(int(value) for value in colour)
