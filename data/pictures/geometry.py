"""Geometric transformations of images, with NumPy and Pillow only."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image


def resample(image: np.ndarray, factor: float, method: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """Scales an image by a factor. Pillow averages over areas when it shrinks an image."""
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), method))


def corners_of(image: np.ndarray) -> np.ndarray:
    """Returns the corners of an image, clockwise from the upper left, float64 (4, 2): x and y in pixels."""
    height, width = image.shape[:2]
    return np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)


def warp(image: np.ndarray, corners: np.ndarray, method: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """Moves the corners of an image by a perspective transformation; new pixels get the colour of the paper.

    Args:
        image: uint8, (H, W) or (H, W, 3).
        corners: new positions of the corners in the order of `corners_of`, (4, 2): x and y in pixels.
        method: nearest, bilinear or bicubic.

    Returns:
        The smallest image that contains all four corners.
    """
    corners = corners - corners.min(axis=0)
    width, height = (max(1, math.ceil(side - 1e-6)) for side in corners.max(axis=0))
    # Pillow needs the mapping from new pixels (u, v) to old ones: x = (a u + b v + c) / (g u + h v + 1), y likewise.
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
    """Returns the colour of the paper in the form that Pillow takes: the median of the outermost pixels."""
    frame = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    colour = np.median(frame, axis=0)
    return int(colour) if image.ndim == 2 else tuple(int(value) for value in colour)
