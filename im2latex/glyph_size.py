"""The size of the glyphs in an image, estimated from how its ink is spread over scales.

`GLYPH_SIZE` holds a small network that was fitted to formulas drawn in many fonts at known sizes
(`python -m trainer_module.fit_glyph_size`). It takes the sums over the levels of a pyramid of the image, and answers
with the natural logarithm of the size of an em over the width of a stroke.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

GLYPH_SIZE = Path(__file__).with_name("glyph_size.npz")
PYRAMID_LEVELS = 7
# Scales are powers of 2 with this many steps to the next: implementations that round otherwise agree on the step.
STEPS = 8
LEAST_SCALE, MOST_SCALE = 1 / 16, 4.0


class Estimator(NamedTuple):
    """A perceptron with one hidden layer of rectified units, all float32."""

    mean: np.ndarray  # of the features, (3 * PYRAMID_LEVELS,)
    deviation: np.ndarray
    hidden: np.ndarray  # (3 * PYRAMID_LEVELS, units)
    hidden_bias: np.ndarray
    second: np.ndarray  # (units, units)
    second_bias: np.ndarray
    output: np.ndarray  # (units,)
    output_bias: np.ndarray  # ()


@cache
def estimator() -> Estimator:
    """The fitted network."""
    with np.load(GLYPH_SIZE) as saved:
        return Estimator(*(saved[name] for name in Estimator._fields))


def measures(ink: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """How the ink of an image is spread over scales.

    Args:
        ink: 1 is ink and 0 is paper, float32, (height, width).

    Returns:
        Of each level of a pyramid, halved from one to the next, the sums over the image of the steps between neighbours
        across and down, and of the squares, in pixels of the first level, float32, (3 * PYRAMID_LEVELS,); and the area
        of the ink, pixels.
    """
    found, area = [], ink.sum(dtype=np.float32)
    for level in range(PYRAMID_LEVELS):
        padded = np.pad(ink, 1)
        across = np.abs(np.diff(padded, axis=1)).sum(dtype=np.float32)
        down = np.abs(np.diff(padded, axis=0)).sum(dtype=np.float32)
        found += [across * 2**level, down * 2**level, np.square(ink).sum(dtype=np.float32) * 4**level]
        ink = np.pad(ink, [(0, side % 2) for side in ink.shape])
        height, width = ink.shape
        ink = ink.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3), dtype=np.float32)
    return np.array(found, np.float32), area


def glyph_scale(found: np.ndarray, area: np.float32, size: int) -> float:
    """The factor that brings the glyphs of an image to a size, in steps of 2 to the 1 / STEPS.

    Args:
        found, area: what `measures` found.
        size: of an em, pixels.
    """
    if area <= 0:
        return 1.0
    em = predict(estimator(), *relative(found, area))
    step = np.rint(STEPS * (np.log(np.float32(size)) - em) / np.float32(np.log(2)))
    return float(np.clip(2.0 ** (step / STEPS), LEAST_SCALE, MOST_SCALE))


def relative(found: np.ndarray, area: np.float32) -> tuple[np.ndarray, np.float32]:
    """What the network takes, float32, (3 * PYRAMID_LEVELS,), and the logarithm of a stroke's width in pixels."""
    given = np.log(np.maximum(found / area, np.float32(1e-6)))
    # A stroke of length l and width w has the area l * w and an outline of 2 * l.
    return given, np.float32(np.log(2)) - np.log(np.hypot(found[0], found[1]) / area)


def predict(network: Estimator, given: np.ndarray, stroke: float | np.floating) -> float:
    """The logarithm of the size of an em, pixels, from what `relative` makes of an image."""
    hidden = np.maximum((given - network.mean) / network.deviation @ network.hidden + network.hidden_bias, 0)
    hidden = np.maximum(hidden @ network.second + network.second_bias, 0)
    return float(stroke + hidden @ network.output + network.output_bias)
