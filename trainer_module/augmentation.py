"""Changes training images as pens, printers, cameras and files do. NumPy and Pillow alone.

The images are normalised already: dark on white, cropped, of one size of glyphs. So colours and large changes of size
have no place here; what normalisation leaves of the others does.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from data.pictures.degradation import degrade
from data.pictures.geometry import corners_of, resample, warp
from im2latex.images import WHITE

# Kinds of `data.pictures.degradation` and how often each comes, in the order of what they come from: the pen or
# printer, the paper, the light, the lens, the sensor, the file.
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
# How often the whole ink is fainter, and the least of it that is left.
FAINT, FAINTEST = 0.3, 0.35
# The least size, as a share; and how often an image is scaled, turned, slanted, seen from the side; how far at most.
SMALLEST = 0.85
SCALED, TURNED, SLANTED, ASIDE = 0.5, 0.4, 0.2, 0.2
MOST_DEGREES, MOST_SLANT, MOST_ASIDE = 2.0, 0.12, 0.06
METHODS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


class Augmentation:
    """Changes images, most of them a little and few of them a lot.

    An image never grows, so it fits into the batch that was planned for it.

    Args:
        share: of the images that are changed, 0 to 1.
        seed: with an example's index, decides what happens to its image.
    """

    def __init__(self, share: float, seed: tuple[int, ...]) -> None:
        self.share, self.seed = share, seed

    def __call__(self, index: int, image: Image.Image) -> Image.Image:
        """The image, grey, or a changed one."""
        random = np.random.default_rng((*self.seed, index))
        if random.random() >= self.share:
            return image
        pixels = _moved(np.asarray(image), random)
        if random.random() < FAINT:
            left = 1 - (1 - FAINTEST) * _strength(random)
            pixels = np.rint(WHITE - left * np.arange(WHITE, -1, -1)).astype(np.uint8)[pixels]
        for (kind, probability), chance in zip(KINDS, random.random(len(KINDS)), strict=True):
            if chance < probability:
                pixels = degrade(pixels, kind, _strength(random), random)
        return Image.fromarray(pixels)


def _strength(random: np.random.Generator) -> float:
    """From 0 to 1: a quarter in the mean, over a half in one image of eight."""
    return random.beta(1, 3)


def _moved(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The image (H, W), smaller, turned, slanted, seen from the side: resampled once."""
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
    # What grew is scaled into the old size, and a wide image, which grows more, is moved less.
    while (fitting := (corners[2] / np.ptp(moved, axis=0)).min()) < SMALLEST:
        moved = (moved + corners) / 2
    return warp(pixels, moved * min(scale, fitting), method)
