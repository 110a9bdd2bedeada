"""Estimates the size of the glyphs in an image from the distribution of its ink over scales.

The file `GLYPH_SIZE` contains a small network that was trained on formulas drawn in many fonts at known sizes
(`python -m trainer_module.fit_glyph_size`). Its inputs are sums over the levels of an image pyramid; its output is the
natural logarithm of em size / stroke width.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from im2latex.bands import bands

GLYPH_SIZE = Path(__file__).with_name("glyph_size.npz")
PYRAMID_LEVELS = 7
# Scales are powers of 2 ** (1 / STEPS), so that implementations with different rounding choose the same scale.
STEPS = 8
LEAST_SCALE, MOST_SCALE = 1 / 16, 4.0


class Estimator(NamedTuple):
    """A perceptron with two hidden layers of ReLU units, all float32."""

    mean: np.ndarray  # mean of the inputs, (3 * PYRAMID_LEVELS,)
    deviation: np.ndarray  # standard deviation of the inputs, (3 * PYRAMID_LEVELS,)
    hidden: np.ndarray  # (3 * PYRAMID_LEVELS, units)
    hidden_bias: np.ndarray
    second: np.ndarray  # (units, units)
    second_bias: np.ndarray
    output: np.ndarray  # (units,)
    output_bias: np.ndarray  # ()


@cache
def estimator() -> Estimator:
    """Loads the trained network."""
    with np.load(GLYPH_SIZE) as saved:
        return Estimator(*(saved[name] for name in Estimator._fields))


def measures(ink: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Measures the distribution of an image's ink over scales.

    Args:
        ink: 1 is ink and 0 is paper, float32, (height, width).

    Returns:
        Three sums for each level of an image pyramid, float32, (3 * PYRAMID_LEVELS,): the absolute differences of
        horizontal neighbours and of vertical neighbours, and the squares, all in pixels of the first level. And the
        area of the ink in pixels.
    """
    sums, area = [], ink.sum(dtype=np.float32)
    for level in range(PYRAMID_LEVELS):
        height, width = ink.shape
        padded = np.zeros((height + 2, width + 2), np.float32)
        padded[1:-1, 1:-1] = ink
        across = down = squares = np.float32(0)
        for rows in bands(height + 1, width):
            band, below = padded[rows], padded[rows.start + 1 : rows.stop + 1]
            across += np.abs(band[:, 1:] - band[:, :-1]).sum(dtype=np.float32)
            down += np.abs(below - band).sum(dtype=np.float32)
            squares += np.square(band).sum(dtype=np.float32)
        sums += [across * 2**level, down * 2**level, squares * 4**level]
        even = padded[1 : 1 + height + height % 2, 1 : 1 + width + width % 2]
        # The mean of 2 x 2 pixels.
        ink = ((even[::2, ::2] + even[::2, 1::2]) + (even[1::2, ::2] + even[1::2, 1::2])) / np.float32(4)
    return np.array(sums, np.float32), area


def glyph_scale(sums: np.ndarray, area: np.float32, size: int) -> float:
    """Returns the factor that scales the glyphs of an image to a size, rounded to a power of 2 ** (1 / STEPS).

    Args:
        found, area: the results of `measures`.
        size: target size of an em, in pixels.
    """
    if area <= 0:
        return 1.0
    em = predict(estimator(), *relative(sums, area))
    step = np.rint(STEPS * (np.log(np.float32(size)) - em) / np.float32(np.log(2)))
    return float(np.clip(2.0 ** (step / STEPS), LEAST_SCALE, MOST_SCALE))


def relative(sums: np.ndarray, area: np.float32) -> tuple[np.ndarray, np.float32]:
    """Returns the network's inputs, float32, (3 * PYRAMID_LEVELS,), and the logarithm of the stroke width in pixels."""
    inputs = np.log(np.maximum(sums / area, np.float32(1e-6)))
    # A stroke of length l and width w has the area l * w and an outline of about 2 * l.
    return inputs, np.float32(np.log(2)) - np.log(np.hypot(sums[0], sums[1]) / area)


def predict(network: Estimator, inputs: np.ndarray, stroke: float | np.floating) -> float:
    """Returns the logarithm of the em size in pixels, from the results of `relative`."""
    hidden = np.maximum((inputs - network.mean) / network.deviation @ network.hidden + network.hidden_bias, 0)
    hidden = np.maximum(hidden @ network.second + network.second_bias, 0)
    return float(stroke + hidden @ network.output + network.output_bias)
