"""Image normalisation with NumPy and Pillow only; `trainer_module.image_graph` does the same in TensorFlow.

Ink and paper of any colour become black on white, and uneven light and noise are removed. The image is scaled so that
its glyphs have the size that the model was trained on (`glyph_size`).
"""

from __future__ import annotations

import io
from typing import Protocol

import numpy as np
from PIL import Image

from im2latex.bands import bands
from im2latex.glyph_size import glyph_scale, measures

WHITE = 255

# Weights of red, green and blue in luma (ITU-R BT.601), in 1/65536; integers, so that every machine rounds alike.
LUMA = (19595, 38470, 7471)

# The paper is dark if the medians of all pixels and of the outermost ones are both in this lower share of the levels.
DARK_PAPER = 0.4

# An image is clean if at least CLEAN_SHARE of its pixels differ from the paper by at most CLEAN_LEVELS, and if it has
# no more faint pixels than ink pixels, which are darker than FAINT_SHARE of the darkest. A clean image is cropped to
# its ink with a margin of FRAME pixels, so that a wider border does not change the result.
CLEAN_SHARE, CLEAN_LEVELS, FAINT_SHARE, FRAME = 0.3, 2, 0.1, 8

# Uneven light: the darkness of the paper in a tile is the minimum of the means of its `TILE` x `TILE` blocks. A block
# is `BLOCK` pixels wide, or more in images larger than `EVEN_HEIGHT` x `EVEN_WIDTH`.
BLOCK, TILE = 4, 4
EVEN_HEIGHT, EVEN_WIDTH = 64, 512

# Number of pixels that define the darkest level: this share of all, but at least and at most these numbers.
DARKEST_SHARE, LEAST_DARKEST, MOST_DARKEST = 0.002, 1, 64
# An image is blank if its darkest level differs from the paper by less than LEAST_CONTRAST grey levels, or by less than
# LEAST_SIGNAL standard deviations of the paper's noise.
LEAST_CONTRAST, LEAST_SIGNAL = 16, 6
# The level of ink is this quantile of the pixels that are at least half as dark as the darkest level.
INK_QUANTILE = 0.75
# Noise is removed by subtracting this many standard deviations of it, but at most this share of the ink's darkness.
NOISE_OFF, MOST_OFF = 1.5, 0.15

# A pixel counts as ink when cropping if it is darker than this share of the ink, and than the remaining noise. This
# includes hairlines of a third of a pixel, but not JPEG's rings around strokes (at most 43 of 255 at quality 75).
INK_SHARE = 3 / 16
NOISE_LEFT = 2.5


class ImageForm(Protocol):
    """The settings of the normalisation, in pixels, as in `trainer_module.config.image.ImageConfig`."""

    @property
    def max_height(self) -> int: ...
    @property
    def max_width(self) -> int: ...
    @property
    def border(self) -> int: ...
    @property
    def glyph_size(self) -> int: ...


def normalise(encoded: bytes, config: ImageForm) -> np.ndarray:
    """Decodes and normalises one image like `trainer_module.image_graph.normalise_image`.

    The pixels are the same except for rounding by few grey levels. For JPEG files they can differ by some more grey
    levels, because TensorFlow decodes those with a faster, less exact transform.

    Args:
        encoded: a PNG, JPEG, BMP or GIF; of a GIF, the first frame is used.
        config: the limits, the border and the glyph size.

    Returns:
        (height, width) uint8; for a blank image, one white pixel with a border.

    Raises:
        PIL.UnidentifiedImageError: the bytes are not an image. Pillow's decoders raise other exceptions for damaged
            images.
    """
    ink, least = _ink(encoded)
    ink = _resize(_crop(ink, least), config)
    # Crop again, because scaling can make a faint edge too light to be ink.
    grey = np.rint(WHITE - WHITE * _crop(ink, least))
    return np.pad(grey, config.border, constant_values=WHITE).astype(np.uint8)


def rescale(image: np.ndarray, scale: float, config: ImageForm) -> np.ndarray:
    """Scales a normalised image, (height, width) uint8, with its border; at most to the limits of `config`."""
    height, width = image.shape
    ink = (WHITE - image.astype(np.float32)) / WHITE
    scaled = _scaled(ink, min(scale, config.max_height / height, config.max_width / width))
    return np.rint(WHITE - WHITE * scaled).astype(np.uint8)


def ink_of(encoded: bytes) -> np.ndarray:
    """Returns the ink of an image, cropped but not scaled, float32 (height, width): 1 is ink, 0 is paper."""
    return _crop(*_ink(encoded))


def _ink(encoded: bytes) -> tuple[np.ndarray, float]:
    """Returns the ink of an image, not cropped, and the ink threshold; see `_stretch`."""
    return _stretch(_flatten(_reframe(_darkness(_decode(encoded)))))


def _decode(encoded: bytes) -> np.ndarray:
    """Decodes an image to uint8 (1 to 4 channels, height, width); the last of 2 or 4 channels is alpha."""
    with Image.open(io.BytesIO(encoded)) as image:
        # Without an alpha channel, only images with a palette can have transparent pixels.
        clear = image.mode in ("LA", "PA", "RGBA") or (image.mode == "P" and "transparency" in image.info)
        is_deep = image.mode.startswith("I")  # 16 bits
        mode = "L" if is_deep or image.mode in ("1", "L") else "RGBA" if clear else "RGB"
        decoded = np.empty((len(mode), image.height, image.width), np.uint8)
        for rows in bands(image.height, image.width):
            band = image.crop((0, rows.start, image.width, rows.stop))
            if is_deep:
                decoded[0, rows] = np.asarray(band, np.int32) >> 8
                continue
            for channel, pixels in zip(decoded, band.convert(mode).split(), strict=True):
                channel[rows] = np.asarray(pixels)
    return decoded


def _darkness(image: np.ndarray) -> np.ndarray:
    """Returns how much darker than the paper each pixel is, or lighter if the paper is dark, int16 (height, width).

    The channel with the largest difference counts. Paper is about 0, and lighter parts of it are below 0.

    Args:
        image: uint8 (channels, height, width), see `_decode`.
    """
    colours = _opaque(image)
    grey = colours[0] if len(colours) == 1 else _luma(colours)
    frame = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    low, high = int(grey.min()), int(grey.max())
    limit = low + DARK_PAPER * (high - low)
    is_dark = max(_median(grey), _median(frame)) < limit
    # The colour of the paper is the median over the pixels on the paper's side of the middle level.
    on_side = grey <= (low + high) // 2 if is_dark else grey >= (low + high + 1) // 2
    paper = np.array([_median(channel, on_side) for channel in colours], np.int16)[:, np.newaxis, np.newaxis]
    darkness = np.empty(grey.shape, np.int16)
    for rows in bands(*grey.shape):
        band = colours[:, rows].astype(np.int16)
        darkness[rows] = (band - paper if is_dark else paper - band).max(axis=0)
    return darkness


def _opaque(image: np.ndarray) -> np.ndarray:
    """Removes the alpha channel: composites the image on white or black, whichever gives more contrast."""
    if len(image) % 2:
        return image
    # Ignore alpha if it is 0 everywhere: BMP files of 32 bits leave the fourth byte of a pixel unused.
    if not image[-1].any():
        return image[:-1]
    return max((_composited(image, WHITE), _composited(image, 0)), key=_contrast)


def _composited(image: np.ndarray, on: int) -> np.ndarray:
    """Composites an image on a grey level, uint8 (channels without alpha, height, width)."""
    colours = np.empty_like(image[:-1])
    for rows in bands(*image.shape[1:]):
        band = image[:, rows].astype(np.uint16)
        colours[:, rows] = (band[:-1] * band[-1] + on * (WHITE - band[-1]) + 127) // 255
    return colours


def _luma(colours: np.ndarray) -> np.ndarray:
    """Returns the grey levels of an image, uint8 (height, width)."""
    grey = np.empty(colours.shape[1:], np.uint8)
    for rows in bands(*grey.shape):
        red, green, blue = colours[:, rows].astype(np.int32)
        grey[rows] = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + 32768) >> 16
    return grey


def _contrast(colours: np.ndarray) -> int:
    """Returns the largest range of levels among the channels."""
    return max(int(channel.max()) - int(channel.min()) for channel in colours)


def _median(levels: np.ndarray, among: np.ndarray | None = None) -> int:
    """Returns the median of grey levels, uint8, or of those `among` selects; the lower one if there are two."""
    pixels = Image.fromarray(levels.reshape(1, -1))
    mask = None if among is None else Image.fromarray(among.reshape(1, -1).view(np.uint8))
    return _quantile(np.array(pixels.histogram(mask)), 0.5)


def _quantile(histogram: np.ndarray, share: float) -> int:
    """Returns the lowest level such that at least this share of all pixels is at or below it."""
    counts = np.cumsum(histogram)
    return int((counts < np.float32(share) * np.float32(counts[-1])).sum())


def _reframe(darkness: np.ndarray) -> np.ndarray:
    """Crops a clean image to its ink with a margin of FRAME pixels; returns other images unchanged."""
    is_paper = np.abs(darkness) <= CLEAN_LEVELS
    # Levels are whole numbers, so the limit can be one too.
    is_ink = darkness > int(np.float32(FAINT_SHARE) * np.float32(max(int(darkness.max()), LEAST_CONTRAST)))
    paper, ink, both = (int(np.count_nonzero(of)) for of in (is_paper, is_ink, is_paper | is_ink))
    if np.float32(paper) / np.float32(darkness.size) < np.float32(CLEAN_SHARE) or darkness.size - both > ink:
        return darkness
    return np.pad(_crop_to(darkness, is_ink), FRAME)


def _flatten(darkness: np.ndarray) -> np.ndarray:
    """Subtracts the local darkness of the paper from each pixel, to remove uneven light; float32 (height, width)."""
    height, width = darkness.shape
    block = BLOCK * max(-(-height // EVEN_HEIGHT), -(-width // EVEN_WIDTH), 1)
    tile = block * TILE
    rows, columns = -(-height // tile), -(-width // tile)
    filled = np.pad(darkness, ((0, rows * tile - height), (0, columns * tile - width)), "edge")
    sums = filled.reshape(rows * TILE, block, -1).sum(axis=1, dtype=np.int32)
    sums = sums.reshape(rows * TILE, columns * TILE, block).sum(axis=2)
    means = sums.astype(np.float32) / np.float32(block * block)
    del filled
    paper = means.reshape(rows, TILE, columns, TILE).min(axis=(1, 3))
    # A morphological opening: a tile full of ink takes the paper of its neighbours.
    paper = _over_neighbours(_over_neighbours(paper, np.minimum), np.maximum)
    local = _between(height, rows, tile) @ paper @ _between(width, columns, tile).T
    return np.subtract(darkness, local, out=local)


def _over_neighbours(grid: np.ndarray, pick: np.ufunc) -> np.ndarray:
    """Returns the minimum or maximum of each value and its eight neighbours."""
    for _ in range(2):
        picked = grid.copy()
        pick(picked[1:], grid[:-1], out=picked[1:])
        pick(picked[:-1], grid[1:], out=picked[:-1])
        grid = picked.T
    return grid


def _between(length: int, tiles: int, tile: int) -> np.ndarray:
    """Returns the weights of linear interpolation between the centres of tiles, float32 (length, tiles)."""
    position = np.clip((np.arange(length, dtype=np.float32) + 0.5) / tile - 0.5, 0, tiles - 1)
    return np.maximum(1 - np.abs(position[:, np.newaxis] - np.arange(tiles, dtype=np.float32)), 0).astype(np.float32)


def _stretch(darkness: np.ndarray) -> tuple[np.ndarray, float]:
    """Scales darkness in place, so that ink is 1 and paper is 0; returns it with the threshold of ink."""
    # Histogram of the levels from -64 on.
    histogram = np.zeros(320, np.int64)
    for rows in bands(*darkness.shape):
        levels = np.clip(np.rint(darkness[rows]), -64, 255).astype(np.int16) + 64
        histogram += np.bincount(levels.ravel(), minlength=320)
    count = darkness.size
    rank = min(max(int(DARKEST_SHARE * count), min(LEAST_DARKEST, count)), MOST_DARKEST)
    darkest = int((np.cumsum(histogram[::-1])[::-1] >= rank).sum()) - 1 - 64
    half = 64 + max(darkest, 0) // 2
    ink = _quantile(np.where(np.arange(320) >= half, histogram, 0), INK_QUANTILE) - 64
    paper = np.where(np.arange(320) < half, histogram, 0)
    low, middle, high = (_quantile(paper, share) - 64 for share in (0.16, 0.5, 0.6))
    # Estimate as for a normal distribution, also from levels above the median, because lighter noise is clipped at
    # white.
    mean, deviation = float(middle), float(max(np.float32(middle - low), np.float32(high - middle) / np.float32(0.253)))
    if not paper.any():
        mean, deviation = 0.0, 0.0
    if darkest - mean < max(LEAST_CONTRAST, LEAST_SIGNAL * deviation):
        return np.zeros_like(darkness), INK_SHARE
    off = mean + min(NOISE_OFF * deviation, MOST_OFF * (max(ink, 1) - mean))
    darkness -= np.float32(off)
    darkness /= np.float32(ink - off)
    np.clip(darkness, 0, 1, out=darkness)
    return darkness, float(INK_SHARE + max(NOISE_LEFT * deviation - (off - mean), 0) / (ink - off))


def _crop(ink: np.ndarray, least: float) -> np.ndarray:
    """Crops an image to the rows and columns with ink; a blank image becomes one white pixel."""
    return _crop_to(ink, ink > least)


def _crop_to(image: np.ndarray, is_ink: np.ndarray) -> np.ndarray:
    """Crops an image to the rows and columns where `is_ink` is true; one pixel of paper if there are none."""
    if not is_ink.any():
        return np.zeros((1, 1), image.dtype)
    rows, columns = np.flatnonzero(is_ink.any(axis=1)), np.flatnonzero(is_ink.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _resize(ink: np.ndarray, config: ImageForm) -> np.ndarray:
    """Scales an image to the glyph size of `config`, or smaller if it would exceed the limits."""
    height, width = ink.shape
    scale = glyph_scale(*measures(ink), config.glyph_size) if config.glyph_size else 1.0
    scale = min(scale, (config.max_height - 2 * config.border) / height, (config.max_width - 2 * config.border) / width)
    return _scaled(ink, scale)


def _scaled(ink: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return ink
    rows, columns = (_cubic(side, max(round(side * scale), 1)) for side in ink.shape)
    return np.clip(rows @ ink @ columns.T, 0, 1)


def _cubic(source: int, target: int) -> np.ndarray:
    """Returns the weights of source pixels in target pixels, float32 (target, source): cubic convolution (Keys 1981).

    When scaling down, the kernel is widened, so that no pixel is skipped.
    """
    step = np.float32(source) / np.float32(target)
    stretch = max(step, np.float32(1))
    middle = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * step - np.float32(0.5)
    # The kernel is 0 from a distance of 2 * stretch on, so only these source pixels count for each target pixel.
    first = np.floor(middle - 2 * stretch).astype(np.int64)
    pixels = np.clip(first[:, np.newaxis] + np.arange(int(4 * stretch) + 3), 0, source - 1)
    distance = np.abs(middle[:, np.newaxis] - pixels.astype(np.float32)) / stretch
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.zeros((target, source), np.float32)
    np.put_along_axis(weights, pixels, np.where(distance <= 1, near, np.where(distance < 2, far, 0)), axis=1)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights
