"""Augments training images as pens, printers, cameras and image files change them, with NumPy and Pillow only.

The images are normalised already: dark on white, cropped, with a fixed glyph size. Normalisation removes colours and
large differences in size, so there is no augmentation for these.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from data.pictures.degradation import EM, degrade
from data.pictures.geometry import corners_of, resample, warp
from im2latex.images import WHITE

# Kinds of `data.pictures.degradation` with their probabilities, in physical order: the pen or printer, the paper, the
# light, the lens, the sensor, the file.
KINDS = (
    ("dilation", 0.15),
    ("erosion", 0.1),
    ("broken", 0.05),
    ("fading", 0.1),
    ("dust", 0.05),
    ("texture", 0.05),
    ("shadow", 0.05),
    ("blur", 0.25),
    ("motion-blur", 0.05),
    ("sharpen", 0.1),
    ("noise", 0.2),
    ("jpeg", 0.2),
)
# Probability of fainter ink, and the minimum share of ink that remains.
FAINT, FAINTEST = 0.3, 0.35
# Minimum scale; probabilities of scaling, rotation, slant and perspective; their maximum strengths.
SMALLEST = 0.85
SCALED, TURNED, SLANTED, ASIDE = 0.5, 0.4, 0.2, 0.2
MOST_DEGREES, MOST_SLANT, MOST_ASIDE = 2.0, 0.12, 0.06
METHODS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


class Augmentation:
    """Changes images at random, mostly a little and rarely a lot.

    Images never grow, so they fit into the batches that were planned for them.

    Args:
        share: share of the images to change, 0 to 1.
        seed: random seed, used together with the index of the example.
        em: size of an em in the images, pixels.
    """

    def __init__(self, share: float, seed: tuple[int, ...], em: float = EM) -> None:
        self.share, self.seed, self.em = share, seed, em

    def __call__(self, index: int, image: Image.Image) -> Image.Image:
        """Returns the grey image of example `index`, changed or not."""
        random = np.random.default_rng((*self.seed, index))
        if random.random() >= self.share:
            return image
        pixels = _moved(np.asarray(image), random)
        if random.random() < FAINT:
            left = 1 - (1 - FAINTEST) * _strength(random)
            pixels = np.rint(WHITE - left * np.arange(WHITE, -1, -1)).astype(np.uint8)[pixels]
        for (kind, probability), chance in zip(KINDS, random.random(len(KINDS)), strict=True):
            if chance < probability:
                pixels = degrade(pixels, kind, _strength(random), random, self.em)
        return Image.fromarray(pixels)


def _strength(random: np.random.Generator) -> float:
    """Draws a strength from 0 to 1: 0.25 on average, over 0.5 in one of eight images."""
    return random.beta(1, 3)


def _moved(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Applies scale, rotation, slant and perspective to an image (H, W), with a single resampling."""
    scale = 1 - (1 - SMALLEST) * random.random() if random.random() < SCALED else 1.0
    turned, slanted, aside = random.random(3) < (TURNED, SLANTED, ASIDE)
    method = METHODS[random.integers(len(METHODS))]
    if not (turned or slanted or aside):
        return pixels if scale == 1 else resample(pixels, scale, method)
    left, right = random.choice((-1, 1), 2)
    angle = math.radians(MOST_DEGREES * turned * _strength(random)) * left
    slant = MOST_SLANT * slanted * _strength(random) * right
    corners = corners_of(pixels)
    cosine, sine = math.cos(angle), math.sin(angle)
    moved = corners @ np.array([(cosine, sine), (slant * cosine - sine, slant * sine + cosine)])
    moved += MOST_ASIDE * aside * _strength(random) * len(pixels) * random.uniform(-1, 1, (4, 2))
    # Scale the result to fit the old size. Reduce the movement if that would shrink the image too much.
    while (fitting := (corners[2] / np.ptp(moved, axis=0)).min()) < SMALLEST:
        moved = (moved + corners) / 2
    return warp(pixels, moved * min(scale, fitting), method)
