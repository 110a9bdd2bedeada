"""What `preprocessing.normalise_image` does, without TensorFlow: NumPy and Pillow alone."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from trainer_module.config.image import ImageConfig

WHITE = 255

# Red, green and blue in luma (ITU-R BT.601), in 1/65536: integers, so every machine rounds alike.
LUMA = (19595, 38470, 7471)

# A pixel is ink when it is darker than this share of the darkest pixel. Hairlines of one third
# of a pixel are ink; the rings that JPEG draws around strokes (at most 43 of 255 at quality 75) are not.
INK_SHARE = 3 / 16

# The darkest pixel counts as at least so dark: where all are nearly white there is only noise, and no ink.
LEAST_DARKNESS = 128


def normalise(encoded: bytes, config: ImageConfig) -> np.ndarray:
    """Decodes one image and brings it into the form the model reads, as `normalise_image` does.

    The same pixels, but for rounding by one grey level where an image is scaled down, and for JPEGs:
    TensorFlow decodes those with a faster transform, which is a few grey levels off.

    Args:
        encoded: a PNG, JPEG or BMP, or a GIF of which the first frame is read.
        config: the limits and the border.

    Returns:
        (height, width) uint8.

    Raises:
        PIL.UnidentifiedImageError: the bytes are no image; Pillow's decoders raise others for damaged ones.
    """
    ink = _crop(_whiten_background(_grey(encoded)))
    ink = _fit(ink, config.max_height - 2 * config.border, config.max_width - 2 * config.border)
    # Again, for scaling can make a faint edge too light to be ink.
    return np.pad(_crop(ink), config.border, constant_values=WHITE).astype(np.uint8)


def _grey(encoded: bytes) -> np.ndarray:
    """(height, width) int32, what is transparent on white."""
    with Image.open(io.BytesIO(encoded)) as image:
        if image.mode in ("1", "L"):
            return np.asarray(image.convert("L"), np.int32)
        if image.mode.startswith("I"):  # 16 bits
            return np.asarray(image, np.int32) >> 8
        # Of images without an alpha channel, only those with a palette can say what is transparent.
        clear = image.mode in ("LA", "PA", "RGBA") or (image.mode == "P" and "transparency" in image.info)
        pixels = np.asarray(image.convert("RGBA" if clear else "RGB"), np.int32)
    colours, alpha = pixels[:, :, :3], pixels[:, :, 3:]
    # All zero is no transparency: BMP files of 32 bits leave the fourth byte of a pixel unused.
    if alpha.any():
        colours = (colours * alpha + WHITE * (255 - alpha) + 127) // 255
    return (colours @ np.array(LUMA, np.int32) + 32768) // 65536


def _whiten_background(grey: np.ndarray) -> np.ndarray:
    """(height, width) int32 on any even background -> the same, dark on white."""
    frame = np.sort(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    background = frame[len(frame) // 2]
    level = np.arange(256, dtype=np.int32)
    if background < 128:
        level, background = WHITE - level, WHITE - background
    return np.minimum((level * WHITE + background // 2) // background, WHITE)[grey]


def _crop(grey: np.ndarray) -> np.ndarray:
    """(height, width) int32 -> the part from the first to the last row and column with ink; a white pixel if blank."""
    darkness = WHITE - grey
    is_ink = darkness > INK_SHARE * max(darkness.max(), LEAST_DARKNESS)
    if not is_ink.any():
        return np.full((1, 1), WHITE, np.int32)
    rows, columns = np.flatnonzero(is_ink.any(axis=1)), np.flatnonzero(is_ink.any(axis=0))
    return grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _fit(grey: np.ndarray, max_height: int, max_width: int) -> np.ndarray:
    """(height, width) int32 -> scaled down evenly, by the mean over areas, until it fits; at least one pixel."""
    height, width = grey.shape
    scale = min(max_height / height, max_width / width)
    if scale >= 1:
        return grey
    rows = _area_weights(height, max(round(height * scale), 1))
    columns = _area_weights(width, max(round(width * scale), 1))
    return np.rint(rows @ grey.astype(np.float32) @ columns.T).astype(np.int32)


def _area_weights(source: int, target: int) -> np.ndarray:
    """The share that each source pixel has in each target pixel, float32, (target, source)."""
    edges, pixels = np.arange(target + 1) * (source / target), np.arange(source)
    covered = np.minimum(edges[1:, np.newaxis], pixels + 1) - np.maximum(edges[:-1, np.newaxis], pixels)
    return (np.maximum(covered, 0) * (target / source)).astype(np.float32)
