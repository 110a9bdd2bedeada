"""Image normalisation as a TensorFlow graph, for Transform and the served model.

It does the same as `im2latex.images.normalise`, which explains each step; the functions have the same names. The graph
uses only ordinary ops, so that loaders of TensorFlow 1 can read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from im2latex import images
from im2latex.glyph_size import LEAST_SCALE, MOST_SCALE, PYRAMID_LEVELS, STEPS, estimator
from im2latex.images import WHITE
from trainer_module import features
from trainer_module.config.image import ImageConfig


def normalise_image(encoded: tf.Tensor, config: ImageConfig) -> tf.Tensor:
    """Decodes and normalises one image: black ink on white, cropped, in the size that the model reads.

    A transparent image is composited on white or black, whichever gives more contrast; if alpha is 0 everywhere, it is
    ignored. Ink of any colour on paper of any colour becomes black on white, and uneven light and noise of the paper
    are removed. The image is cropped to the ink, scaled to the glyph size of `config` (cubic interpolation), scaled
    down if it would exceed the limits with its border, and gets a white border. A blank image becomes a single white
    pixel with a border.

    Args:
        encoded: () string, a PNG, JPEG, BMP or GIF; of a GIF, the first frame is used.
        config: the limits, the border and the glyph size.

    Returns:
        (height, width, 1) uint8.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not an image in one of these formats.
    """
    ink, least = _stretch(_flatten(_reframe(_darkness(tf.io.decode_image(encoded, expand_animations=False)))))
    ink = _resize(_crop(ink, least), config)
    grey = tf.round(WHITE - WHITE * _crop(ink, least))
    border = [[config.border, config.border]] * 2
    image = tf.cast(tf.pad(grey, border, constant_values=WHITE), tf.uint8)[:, :, tf.newaxis]
    return tf.ensure_shape(image, [None, None, 1])


def normalise_batch(images: tf.Tensor, config: ImageConfig, compression: int = -1) -> dict[str, tf.Tensor]:
    """Decodes and normalises images, each as `normalise_image` does.

    Args:
        images: (batch,) string.
        config: as in `normalise_image`.
        compression: PNG compression level, 0 to 9; -1 for the default.

    Returns:
        `image` (batch,) string, 8-bit grey PNG; `height` and `width` (batch,) int64, pixels.
    """

    def normalise(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        pixels = normalise_image(encoded, config)
        size = tf.shape(pixels, out_type=tf.int64)
        return tf.io.encode_png(pixels, compression=compression), size[0], size[1]

    specs = tuple(tf.TensorSpec([], dtype) for dtype in (tf.string, tf.int64, tf.int64))
    encoded, heights, widths = tf.map_fn(normalise, images, fn_output_signature=specs)
    return {features.IMAGE: encoded, features.HEIGHT: heights, features.WIDTH: widths}


def rescale(image: tf.Tensor, scale: float, config: ImageConfig) -> tf.Tensor:
    """Scales a normalised image, (height, width, 1) uint8, with its border; at most to the limits of `config`."""
    limits = tf.constant([config.max_height, config.max_width], tf.float64)
    scale = tf.minimum(tf.cast(scale, tf.float64), tf.reduce_min(limits / tf.cast(tf.shape(image)[:2], tf.float64)))
    ink = (WHITE - tf.cast(image[:, :, 0], tf.float32)) / WHITE
    return tf.cast(tf.round(WHITE - WHITE * _scaled(ink, scale)), tf.uint8)[:, :, tf.newaxis]


def _darkness(image: tf.Tensor) -> tf.Tensor:
    """Returns the darkness of ink against paper, (height, width) float32.

    Args:
        image: uint8 (height, width, 1 to 4); the last of 2 or 4 channels is alpha.
    """
    image = tf.cast(tf.ensure_shape(image, [None, None, None]), tf.int32)
    channels = tf.shape(image)[2]

    def opaque() -> tf.Tensor:
        has_alpha = tf.equal(channels % 2, 0)
        alpha = image[:, :, -1:]
        alpha = tf.where(has_alpha & tf.reduce_any(alpha > 0), alpha, 255)
        colours = image[:, :, : tf.where(has_alpha, channels - 1, channels)]
        on_black = (colours * alpha + 127) // 255
        on_white = (colours * alpha + WHITE * (255 - alpha) + 127) // 255
        return tf.where(_contrast(on_white) >= _contrast(on_black), on_white, on_black)

    def grey_of(colours: tf.Tensor) -> tf.Tensor:
        return (tf.reduce_sum(colours * images.LUMA, axis=2) + 32768) // 65536

    # A separate branch for grey images, which are nearly all of a data set, saves half of the total time.
    colours = tf.cond(tf.equal(channels, 1), lambda: image, opaque)
    count = tf.shape(colours)[2]
    grey = tf.cond(tf.equal(count, 1), lambda: colours[:, :, 0], lambda: grey_of(colours))
    frame = tf.concat([grey[0], grey[-1], grey[:, 0], grey[:, -1]], axis=0)
    low, high = tf.reduce_min(grey), tf.reduce_max(grey)
    limit = tf.cast(low, tf.float64) + images.DARK_PAPER * tf.cast(high - low, tf.float64)
    is_dark = tf.cast(tf.maximum(_median(grey), _median(frame)), tf.float64) < limit
    on_side = tf.where(is_dark, 2 * grey <= low + high, 2 * grey >= low + high)
    levels = tf.boolean_mask(colours + 256 * tf.range(count), on_side)
    histograms = tf.reshape(tf.math.bincount(levels, minlength=256 * count, maxlength=256 * count), (count, 256))
    difference = tf.where(is_dark, 1, -1) * (colours - _quantile(histograms, 0.5))
    return tf.cast(tf.reduce_max(difference, axis=2), tf.float32)


def _contrast(colours: tf.Tensor) -> tf.Tensor:
    return tf.reduce_max(tf.reduce_max(colours, axis=(0, 1)) - tf.reduce_min(colours, axis=(0, 1)))


def _median(levels: tf.Tensor) -> tf.Tensor:
    return _quantile(tf.math.bincount(levels, minlength=256, maxlength=256), 0.5)


def _quantile(histogram: tf.Tensor, share: float) -> tf.Tensor:
    """Returns the level at which the histogram in the last axis reaches a share of its total."""
    counts = tf.cast(tf.cumsum(histogram, axis=-1), tf.float32)
    return tf.reduce_sum(tf.cast(counts < share * counts[..., -1:], tf.int32), axis=-1)


def _reframe(darkness: tf.Tensor) -> tf.Tensor:
    is_paper = tf.abs(darkness) <= images.CLEAN_LEVELS
    is_ink = darkness > images.FAINT_SHARE * tf.maximum(tf.reduce_max(darkness), float(images.LEAST_CONTRAST))
    faint = tf.reduce_sum(tf.cast(~(is_paper | is_ink), tf.int32))
    is_clean = tf.reduce_mean(tf.cast(is_paper, tf.float32)) >= images.CLEAN_SHARE
    is_clean &= faint <= tf.reduce_sum(tf.cast(is_ink, tf.int32))
    frame = [[images.FRAME, images.FRAME]] * 2
    return tf.cond(is_clean, lambda: tf.pad(_crop_to(darkness, is_ink), frame), lambda: darkness)


def _flatten(darkness: tf.Tensor) -> tf.Tensor:
    size = tf.shape(darkness)
    height, width = size[0], size[1]
    block = images.BLOCK * tf.maximum(-(-height // images.EVEN_HEIGHT), -(-width // images.EVEN_WIDTH))
    tile = block * images.TILE
    rows, columns = -(-height // tile), -(-width // tile)
    filled = tf.gather(darkness, tf.minimum(tf.range(rows * tile), height - 1))
    filled = tf.gather(filled, tf.minimum(tf.range(columns * tile), width - 1), axis=1)
    means = tf.reduce_mean(tf.reshape(filled, (rows * images.TILE, block, columns * images.TILE, block)), axis=(1, 3))
    paper = tf.reduce_min(tf.reshape(means, (rows, images.TILE, columns, images.TILE)), axis=(1, 3))
    paper = _over_neighbours(_over_neighbours(paper, tf.minimum), tf.maximum)
    across = tf.matmul(paper, _between(width, columns, tile), transpose_b=True)
    return darkness - tf.matmul(_between(height, rows, tile), across)


def _over_neighbours(grid: tf.Tensor, pick: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> tf.Tensor:
    for axis in (0, 1):
        side = tf.shape(grid)[axis]
        before = tf.gather(grid, tf.maximum(tf.range(side) - 1, 0), axis=axis)
        after = tf.gather(grid, tf.minimum(tf.range(side) + 1, side - 1), axis=axis)
        grid = pick(pick(before, grid), after)
    return grid


def _between(length: tf.Tensor, tiles: tf.Tensor, tile: tf.Tensor) -> tf.Tensor:
    position = (tf.cast(tf.range(length), tf.float32) + 0.5) / tf.cast(tile, tf.float32) - 0.5
    position = tf.clip_by_value(position, 0.0, tf.cast(tiles - 1, tf.float32))
    return tf.maximum(1 - tf.abs(position[:, tf.newaxis] - tf.cast(tf.range(tiles), tf.float32)), 0)


def _stretch(darkness: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    levels = tf.cast(tf.clip_by_value(tf.round(darkness), -64, 255), tf.int32) + 64
    histogram = tf.math.bincount(levels, minlength=320, maxlength=320)
    count = tf.size(darkness)
    rank = tf.maximum(
        tf.cast(images.DARKEST_SHARE * tf.cast(count, tf.float64), tf.int32), tf.minimum(images.LEAST_DARKEST, count)
    )
    rank = tf.minimum(rank, images.MOST_DARKEST)
    darkest = tf.reduce_sum(tf.cast(tf.cumsum(histogram, reverse=True) >= rank, tf.int32)) - 1 - 64
    half = 64 + tf.maximum(darkest, 0) // 2
    level = tf.range(320)
    ink = tf.cast(_quantile(tf.where(level >= half, histogram, 0), images.INK_QUANTILE) - 64, tf.float32)
    paper = tf.where(level < half, histogram, 0)
    low, middle, high = (tf.cast(_quantile(paper, share) - 64, tf.float32) for share in (0.16, 0.5, 0.6))
    mean, deviation = middle, tf.maximum(middle - low, (high - middle) / 0.253)
    is_paper = tf.reduce_any(paper > 0)
    mean, deviation = tf.where(is_paper, mean, 0.0), tf.where(is_paper, deviation, 0.0)
    contrast = tf.maximum(ink, 1.0) - mean
    off = mean + tf.minimum(images.NOISE_OFF * deviation, images.MOST_OFF * contrast)
    stretched = tf.clip_by_value((darkness - off) / (ink - off), 0.0, 1.0)
    least = images.INK_SHARE + tf.maximum(images.NOISE_LEFT * deviation - (off - mean), 0.0) / (ink - off)
    least_contrast = tf.maximum(float(images.LEAST_CONTRAST), images.LEAST_SIGNAL * deviation)
    is_blank = tf.cast(darkest, tf.float32) - mean < least_contrast
    return tf.where(is_blank, 0.0, stretched), tf.where(is_blank, images.INK_SHARE, least)


def _crop(ink: tf.Tensor, least: tf.Tensor) -> tf.Tensor:
    return _crop_to(ink, ink > least)


def _crop_to(image: tf.Tensor, is_ink: tf.Tensor) -> tf.Tensor:
    top, bottom = _span(tf.reduce_any(is_ink, axis=1))
    left, right = _span(tf.reduce_any(is_ink, axis=0))
    return tf.where(tf.reduce_any(is_ink), image[top:bottom, left:right], 0.0)


def _span(has_ink: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first true index of a bool (length,) and the index after the last one; 0 and 1 if all are false."""
    indices = tf.concat([tf.where(has_ink)[:, 0], tf.zeros([tf.cast(~tf.reduce_any(has_ink), tf.int32)], tf.int64)], 0)
    return indices[0], indices[-1] + 1


def _resize(ink: tf.Tensor, config: ImageConfig) -> tf.Tensor:
    size = tf.cast(tf.shape(ink), tf.float64)
    limits = tf.constant([config.max_height - 2 * config.border, config.max_width - 2 * config.border], tf.float64)
    scale = _glyph_scale(ink, config.glyph_size) if config.glyph_size else tf.constant(1.0, tf.float64)
    scale = tf.minimum(scale, tf.reduce_min(limits / size))
    return _scaled(ink, scale)


def _scaled(ink: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    size = tf.cast(tf.shape(ink), tf.float64)
    target = tf.cast(tf.maximum(tf.round(size * scale), 1.0), tf.int32)

    def resized() -> tf.Tensor:
        rows, columns = (_cubic(tf.shape(ink)[axis], target[axis]) for axis in (0, 1))
        return tf.clip_by_value(tf.matmul(tf.matmul(rows, ink), columns, transpose_b=True), 0.0, 1.0)

    return tf.cond(tf.equal(scale, 1.0), lambda: ink, resized)


def _cubic(source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    step = tf.cast(source, tf.float32) / tf.cast(target, tf.float32)
    middle = (tf.cast(tf.range(target), tf.float32) + 0.5) * step - 0.5
    distance = tf.abs(middle[:, tf.newaxis] - tf.cast(tf.range(source), tf.float32)) / tf.maximum(step, 1.0)
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = tf.where(distance <= 1, near, tf.where(distance < 2, far, 0.0))
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)


def _glyph_scale(ink: tf.Tensor, size: int) -> tf.Tensor:
    """Computes `glyph_size.glyph_scale` of `glyph_size.measures`, () float64."""
    network = estimator()
    sums, area = [], tf.reduce_sum(ink)
    for level in range(PYRAMID_LEVELS):
        padded = tf.pad(ink, [[1, 1], [1, 1]])
        across = tf.reduce_sum(tf.abs(padded[:, 1:] - padded[:, :-1]))
        down = tf.reduce_sum(tf.abs(padded[1:] - padded[:-1]))
        sums += [across * 2**level, down * 2**level, tf.reduce_sum(tf.square(ink)) * 4**level]
        sides = tf.shape(ink)
        ink = tf.pad(ink, [[0, sides[0] % 2], [0, sides[1] % 2]])
        halves = tf.shape(ink) // 2
        ink = tf.reduce_mean(tf.reshape(ink, (halves[0], 2, halves[1], 2)), axis=(1, 3))
    share = tf.stack(sums) / tf.maximum(area, 1e-6)
    stroke = math.log(2) - tf.math.log(tf.sqrt(share[0] * share[0] + share[1] * share[1]))
    inputs = (tf.math.log(tf.maximum(share, 1e-6)) - network.mean) / network.deviation
    hidden = tf.nn.relu(tf.linalg.matvec(network.hidden, inputs, transpose_a=True) + network.hidden_bias)
    hidden = tf.nn.relu(tf.linalg.matvec(network.second, hidden, transpose_a=True) + network.second_bias)
    em = stroke + tf.reduce_sum(hidden * network.output) + network.output_bias
    step = tf.cast(tf.round(STEPS * (math.log(size) - em) / math.log(2)), tf.float64)
    scale = tf.clip_by_value(tf.pow(tf.constant(2.0, tf.float64), step / STEPS), LEAST_SCALE, MOST_SCALE)
    return tf.where(area > 0, scale, 1.0)
