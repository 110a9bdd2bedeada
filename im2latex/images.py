"""Images brought into the form the model reads, in NumPy and Pillow alone: `trainer_module.image_graph` twice over.

Ink: whatever its colour and its paper's, the ink becomes black and the paper white; uneven light is taken off, and
what is left of noise. Size: glyphs are brought to the size the model learned from (`glyph_size`).
"""

from __future__ import annotations

import io
from typing import Protocol

import numpy as np
from PIL import Image

from im2latex.glyph_size import glyph_scale, measures

WHITE = 255

# Red, green and blue in luma (ITU-R BT.601), in 1/65536: integers, so every machine rounds alike.
LUMA = (19595, 38470, 7471)

# The paper is dark where the median pixel, and that of the frame, lie in this lower share of all levels.
DARK_PAPER = 0.4

# A picture is clean where this share of its pixels is within so many grey levels of the paper, and where no more are
# between those and this share of the darkest than are darker. Then what is outside of the ink's frame tells nothing,
# and white takes its place: a wider border changes no pixel.
CLEAN_SHARE, CLEAN_LEVELS, FAINT_SHARE, FRAME = 0.3, 2, 0.1, 8

# Uneven light: the paper's darkness is the least of the means over `TILE` x `TILE` blocks, `BLOCK` pixels wide, or
# more in images that are larger than `EVEN_HEIGHT` x `EVEN_WIDTH`.
BLOCK, TILE = 4, 4
EVEN_HEIGHT, EVEN_WIDTH = 64, 512

# The darkest pixels of an image that count as one: this share of all, but at least and at most so many.
DARKEST_SHARE, LEAST_DARKEST, MOST_DARKEST = 0.002, 1, 64
# Ink that is less dark than the paper by so many grey levels, or by so many standard deviations of the paper's
# noise, is none: the image is blank.
LEAST_CONTRAST, LEAST_SIGNAL = 16, 6
# Of the pixels that are at least half as dark as the darkest, this share is no darker than ink.
INK_QUANTILE = 0.75
# Standard deviations of the paper's noise that are taken off, but at most a share of the ink's darkness.
NOISE_OFF, MOST_OFF = 1.5, 0.15

# A pixel is inside the frame when it is darker than this share of the ink, and than the noise that is left. Hairlines
# of one third of a pixel are; the rings that JPEG draws around strokes (at most 43 of 255 at quality 75) are not.
INK_SHARE = 3 / 16
NOISE_LEFT = 2.5


class ImageForm(Protocol):
    """What images are brought to, as `trainer_module.config.image.ImageConfig` says it; all in pixels."""

    @property
    def max_height(self) -> int: ...
    @property
    def max_width(self) -> int: ...
    @property
    def border(self) -> int: ...
    @property
    def glyph_size(self) -> int: ...


def normalise(encoded: bytes, config: ImageForm) -> np.ndarray:
    """Decodes one image and brings it into the form the model reads, as `normalise_image` does.

    The same pixels, but for rounding by few grey levels, and for JPEGs: TensorFlow decodes those with a faster
    transform, which is a few grey levels off.

    Args:
        encoded: a PNG, JPEG or BMP, or a GIF of which the first frame is read.
        config: the limits, the border and the size of glyphs.

    Returns:
        (height, width) uint8; of a blank image one white pixel with its border.

    Raises:
        PIL.UnidentifiedImageError: the bytes are no image; Pillow's decoders raise others for damaged ones.
    """
    ink, least = _ink(encoded)
    ink = _resize(_crop(ink, least), config)
    # Again, for scaling can make a faint edge too light to be ink.
    grey = np.rint(WHITE - WHITE * _crop(ink, least))
    return np.pad(grey, config.border, constant_values=WHITE).astype(np.uint8)


def ink_of(encoded: bytes) -> np.ndarray:
    """The ink of an image in its own size, cut out: 1 is ink and 0 is paper, float32, (height, width)."""
    return _crop(*_ink(encoded))


def _ink(encoded: bytes) -> tuple[np.ndarray, float]:
    """As `_stretch`."""
    return _stretch(_flatten(_reframe(_darkness(_decode(encoded)))))


def _decode(encoded: bytes) -> np.ndarray:
    """(height, width, 1 to 4) uint8, the last of 2 or 4 channels alpha."""
    with Image.open(io.BytesIO(encoded)) as image:
        if image.mode in ("1", "L"):
            return np.asarray(image.convert("L"))[:, :, np.newaxis]
        if image.mode.startswith("I"):  # 16 bits
            return (np.asarray(image, np.int32) >> 8).astype(np.uint8)[:, :, np.newaxis]
        # Of images without an alpha channel, only those with a palette can say what is transparent.
        clear = image.mode in ("LA", "PA", "RGBA") or (image.mode == "P" and "transparency" in image.info)
        return np.asarray(image.convert("RGBA" if clear else "RGB"))


def _darkness(image: np.ndarray) -> np.ndarray:
    """(height, width, channels) uint8 -> (height, width) float32: how much darker than paper, or lighter if it is dark.

    Of a colour it is the channel that differs most. Paper is about 0, its lighter parts below.
    """
    colours = image[:, :, :3].astype(np.int32) if image.shape[2] >= 3 else image[:, :, :1].astype(np.int32)
    if image.shape[2] % 2 == 0:
        alpha = image[:, :, -1:].astype(np.int32)
        # All zero is no transparency: BMP files of 32 bits leave the fourth byte of a pixel unused.
        if alpha.any():
            on_black = (colours * alpha + 127) // 255
            on_white = (colours * alpha + WHITE * (255 - alpha) + 127) // 255
            colours = on_white if _contrast(on_white) >= _contrast(on_black) else on_black
    grey = colours[:, :, 0] if colours.shape[2] == 1 else (colours @ np.array(LUMA, np.int32) + 32768) // 65536
    frame = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    low, high = int(grey.min()), int(grey.max())
    limit = low + DARK_PAPER * (high - low)
    is_dark = max(_median(grey), _median(frame)) < limit
    # The paper's colour: of the pixels on its side of the middle.
    on_side = (2 * grey <= low + high) if is_dark else (2 * grey >= low + high)
    paper = np.array([_median(channel[on_side]) for channel in np.moveaxis(colours, 2, 0)])
    difference = colours - paper if is_dark else paper - colours
    return difference.max(axis=2).astype(np.float32)


def _contrast(colours: np.ndarray) -> int:
    """The widest range of a channel."""
    return int((colours.max(axis=(0, 1)) - colours.min(axis=(0, 1))).max())


def _median(levels: np.ndarray) -> int:
    """The median of grey levels, the lower one of two."""
    return _quantile(np.bincount(levels.ravel(), minlength=256), 0.5)


def _quantile(histogram: np.ndarray, share: float) -> int:
    """The first level at or under which at least this share of all lie."""
    counts = np.cumsum(histogram)
    return int((counts < np.float32(share) * np.float32(counts[-1])).sum())


def _reframe(darkness: np.ndarray) -> np.ndarray:
    """(height, width) float32 -> of a clean picture the ink in a frame of paper, of another one all of it."""
    is_paper = np.abs(darkness) <= CLEAN_LEVELS
    is_ink = darkness > np.float32(FAINT_SHARE) * max(darkness.max(), np.float32(LEAST_CONTRAST))
    faint = darkness.size - int((is_paper | is_ink).sum())
    if is_paper.mean(dtype=np.float32) < np.float32(CLEAN_SHARE) or faint > int(is_ink.sum()):
        return darkness
    return np.pad(_crop_to(darkness, is_ink), FRAME)


def _flatten(darkness: np.ndarray) -> np.ndarray:
    """(height, width) float32 -> the same above the darkness of the paper around each pixel."""
    height, width = darkness.shape
    block = BLOCK * max(-(-height // EVEN_HEIGHT), -(-width // EVEN_WIDTH), 1)
    tile = block * TILE
    rows, columns = -(-height // tile), -(-width // tile)
    filled = darkness[np.minimum(np.arange(rows * tile), height - 1)]
    filled = filled[:, np.minimum(np.arange(columns * tile), width - 1)]
    means = filled.reshape(rows * TILE, block, columns * TILE, block).mean(axis=(1, 3), dtype=np.float32)
    paper = means.reshape(rows, TILE, columns, TILE).min(axis=(1, 3))
    # A tile full of ink takes its neighbours' paper: a morphological opening.
    paper = _over_neighbours(_over_neighbours(paper, np.minimum), np.maximum)
    return darkness - _between(height, rows, tile) @ paper @ _between(width, columns, tile).T


def _over_neighbours(grid: np.ndarray, pick: np.ufunc) -> np.ndarray:
    """The least or largest of each value and its eight neighbours."""
    for axis in (0, 1):
        count = np.arange(grid.shape[axis])
        before = np.take(grid, np.maximum(count - 1, 0), axis)
        after = np.take(grid, np.minimum(count + 1, grid.shape[axis] - 1), axis)
        grid = pick(pick(before, grid), after)
    return grid


def _between(length: int, tiles: int, tile: int) -> np.ndarray:
    """Linear interpolation between the middles of tiles, float32, (length, tiles)."""
    place = np.clip((np.arange(length, dtype=np.float32) + 0.5) / tile - 0.5, 0, tiles - 1)
    return np.maximum(1 - np.abs(place[:, np.newaxis] - np.arange(tiles, dtype=np.float32)), 0).astype(np.float32)


def _stretch(darkness: np.ndarray) -> tuple[np.ndarray, float]:
    """(height, width) float32 -> ink 1 and paper 0, float32; and what is darker than the noise of the paper."""
    # Levels from -64 on.
    levels = np.clip(np.rint(darkness), -64, 255).astype(np.int32) + 64
    histogram = np.bincount(levels.ravel(), minlength=320)
    count = darkness.size
    rank = min(max(int(DARKEST_SHARE * count), min(LEAST_DARKEST, count)), MOST_DARKEST)
    darkest = int((np.cumsum(histogram[::-1])[::-1] >= rank).sum()) - 1 - 64
    half = 64 + max(darkest, 0) // 2
    ink = _quantile(np.where(np.arange(320) >= half, histogram, 0), INK_QUANTILE) - 64
    paper = np.where(np.arange(320) < half, histogram, 0)
    low, middle, high = (_quantile(paper, share) - 64 for share in (0.16, 0.5, 0.6))
    # As of a normal distribution; above the median too, because white cuts off what is lighter.
    mean, deviation = float(middle), float(max(np.float32(middle - low), np.float32(high - middle) / np.float32(0.253)))
    if not paper.any():
        mean, deviation = 0.0, 0.0
    if darkest - mean < max(LEAST_CONTRAST, LEAST_SIGNAL * deviation):
        return np.zeros_like(darkness), INK_SHARE
    off = mean + min(NOISE_OFF * deviation, MOST_OFF * (max(ink, 1) - mean))
    stretched = np.clip((darkness - off) / (ink - off), 0, 1).astype(np.float32)
    return stretched, float(INK_SHARE + max(NOISE_LEFT * deviation - (off - mean), 0) / (ink - off))


def _crop(ink: np.ndarray, least: float) -> np.ndarray:
    """(height, width) float32 -> from the first to the last row and column with ink; a white pixel if blank."""
    return _crop_to(ink, ink > least)


def _crop_to(image: np.ndarray, is_ink: np.ndarray) -> np.ndarray:
    """The part of an image from the first to the last row and column with ink; one pixel of paper if it has none."""
    if not is_ink.any():
        return np.zeros((1, 1), np.float32)
    rows, columns = np.flatnonzero(is_ink.any(axis=1)), np.flatnonzero(is_ink.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _resize(ink: np.ndarray, config: ImageForm) -> np.ndarray:
    """(height, width) float32 -> glyphs of the size in `config`, smaller where that would exceed the limits."""
    height, width = ink.shape
    scale = glyph_scale(*measures(ink), config.glyph_size) if config.glyph_size else 1.0
    scale = min(scale, (config.max_height - 2 * config.border) / height, (config.max_width - 2 * config.border) / width)
    if scale == 1:
        return ink
    rows, columns = (_cubic(side, max(round(side * scale), 1)) for side in (height, width))
    return np.clip(rows @ ink @ columns.T, 0, 1)


def _cubic(source: int, target: int) -> np.ndarray:
    """What each source pixel gives to each target pixel, float32, (target, source): cubic convolution (Keys 1981).

    Scaled down, the kernel is wider by as much, so that no pixel is passed over.
    """
    step = np.float32(source) / np.float32(target)
    middle = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * step - np.float32(0.5)
    distance = np.abs(middle[:, np.newaxis] - np.arange(source, dtype=np.float32)) / max(step, np.float32(1))
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0)).astype(np.float32)
    return weights / weights.sum(axis=1, keepdims=True)
