"""What Transform does to a record: the image normalised, the formula as token ids.

The same TensorFlow graph runs in the served model, so an image of any format, size, border,
colour and background can be sent as it is. Ordinary ops only: version 1 loaders read it.
"""

from __future__ import annotations

import json
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from trainer_module import features
from trainer_module.config.image import ImageConfig
from trainer_module.config.vocabulary import VocabularyConfig
from trainer_module.images import INK_SHARE, LEAST_DARKNESS, LUMA, WHITE


def preprocessing_fn(inputs: dict[str, tf.Tensor], custom_config: dict[str, Any]) -> dict[str, Any]:
    """Transforms a batch of records; given to TFX's Transform by its dotted path.

    Args:
        inputs: `image` (batch,) string, an encoded image; `latex` (batch,) string, tokens
            separated by spaces; what else there is stays unused.
        custom_config: `config` is JSON with the sections `image` (ImageConfig) and
            `vocabulary` (VocabularyConfig).

    Returns:
        `image` (batch,) string, the normalised image as 8-bit grey PNG; `height` and `width`
        (batch,) int64, its size in pixels; `tokens` sparse (batch, longest) int64, ids without
        start and end. Ids follow the vocabulary: most frequent token first, of equally frequent
        ones the last in the order of their bytes first.

    Raises:
        tf.errors.InvalidArgumentError: when the graph meets bytes that are no image.
    """
    config = json.loads(custom_config["config"])
    image = ImageConfig(**config["image"])
    vocabulary = VocabularyConfig(**config["vocabulary"])

    def normalise(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        pixels = normalise_image(encoded, image)
        size = tf.shape(pixels, out_type=tf.int64)
        return tf.io.encode_png(pixels, compression=7), size[0], size[1]

    images, heights, widths = tf.map_fn(
        normalise,
        inputs[features.IMAGE],
        fn_output_signature=(tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.int64)),
    )
    ids = tft.compute_and_apply_vocabulary(
        tf.strings.split(inputs[features.LATEX]),
        default_value=features.UNKNOWN - features.SPECIALS,
        frequency_threshold=vocabulary.min_count,
        vocab_filename=features.VOCABULARY,
    )
    return {
        features.IMAGE: images,
        features.HEIGHT: heights,
        features.WIDTH: widths,
        features.TOKENS: (ids + features.SPECIALS).to_sparse(),
    }


def normalise_image(encoded: tf.Tensor, config: ImageConfig) -> tf.Tensor:
    """Decodes one image and brings it into the form the model reads: black ink on white, tightly framed.

    Alpha is composited on white (unless it is 0 everywhere: then the image is opaque) and colour
    made grey (BT.601). The background is the median of the outermost pixels: the image is
    inverted when that is dark, and brightened to make it white. The ink is cut out, scaled down
    (area) where it and its border would exceed the limits, and given a white border. It is never
    scaled up. A blank image becomes one white pixel with its border. With a border of at least
    one pixel, a normalised image stays as it is.

    Args:
        encoded: () string, a PNG, JPEG or BMP, or a GIF of which the first frame is read.
        config: the limits and the border.

    Returns:
        (height, width, 1) uint8.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are no such image.
    """
    grey = _whiten_background(_grey(tf.io.decode_image(encoded, expand_animations=False)))
    ink = _fit(_crop(grey), config.max_height - 2 * config.border, config.max_width - 2 * config.border)
    # Again, for scaling can make a faint edge too light to be ink.
    ink = _crop(ink)
    border = [[config.border, config.border]] * 2
    image = tf.cast(tf.pad(ink, border, constant_values=WHITE), tf.uint8)[:, :, tf.newaxis]
    return tf.ensure_shape(image, [None, None, 1])


def _grey(image: tf.Tensor) -> tf.Tensor:
    """(height, width, 1 to 4) uint8, the last of 2 or 4 channels alpha -> (height, width) int32 grey on white."""
    image = tf.cast(tf.ensure_shape(image, [None, None, None]), tf.int32)
    channels = tf.shape(image)[2]

    def composite_on_white() -> tf.Tensor:
        has_alpha = tf.equal(channels % 2, 0)
        alpha = image[:, :, -1:]
        # All zero is no transparency: BMP files of 32 bits leave the fourth byte of a pixel unused.
        alpha = tf.where(has_alpha & tf.reduce_any(alpha > 0), alpha, 255)
        colours = image[:, :, : tf.where(has_alpha, channels - 1, channels)]
        # Rounded to the nearest, as Pillow does.
        opaque = (colours * alpha + WHITE * (255 - alpha) + 127) // 255
        return (tf.reduce_sum(opaque * LUMA, axis=2) + 32768) // 65536

    # Nearly every image of a data set is plain grey: that way costs half the time of the whole.
    return tf.cond(tf.equal(channels, 1), lambda: image[:, :, 0], composite_on_white)


def _whiten_background(grey: tf.Tensor) -> tf.Tensor:
    """(height, width) int32 on any even background -> the same, dark on white."""
    frame = tf.sort(tf.concat([grey[0], grey[-1], grey[:, 0], grey[:, -1]], axis=0))
    background = frame[tf.size(frame) // 2]
    is_dark = background < 128
    level = tf.range(256)
    level = tf.where(is_dark, WHITE - level, level)
    background = tf.where(is_dark, WHITE - background, background)
    return tf.gather(tf.minimum((level * WHITE + background // 2) // background, WHITE), grey)


def _crop(grey: tf.Tensor) -> tf.Tensor:
    """(height, width) int32 -> the part from the first to the last row and column with ink; a white pixel if blank."""
    darkness = WHITE - grey
    darkest = tf.maximum(tf.reduce_max(darkness), LEAST_DARKNESS)
    is_ink = tf.cast(darkness, tf.float32) > INK_SHARE * tf.cast(darkest, tf.float32)
    top, bottom = _span(tf.reduce_any(is_ink, axis=1))
    left, right = _span(tf.reduce_any(is_ink, axis=0))
    # What little darkness a blank image has is noise.
    return tf.where(tf.reduce_any(is_ink), grey[top:bottom, left:right], WHITE)


def _span(has_ink: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(length,) bool -> the first true index and the one after the last true index; 0 and 1 if none is true."""
    places = tf.concat([tf.where(has_ink)[:, 0], tf.zeros([tf.cast(~tf.reduce_any(has_ink), tf.int32)], tf.int64)], 0)
    return places[0], places[-1] + 1


def _fit(grey: tf.Tensor, max_height: int, max_width: int) -> tf.Tensor:
    """(height, width) int32 -> scaled down evenly, by the mean over areas, until it fits; at least one pixel."""
    size = tf.cast(tf.shape(grey), tf.float64)
    scale = tf.minimum(tf.reduce_min(tf.constant([max_height, max_width], tf.float64) / size), 1.0)
    target = tf.cast(tf.maximum(tf.round(size * scale), 1.0), tf.int32)
    scaled = tf.image.resize(grey[:, :, tf.newaxis], target, method=tf.image.ResizeMethod.AREA)
    return tf.cast(tf.round(scaled[:, :, 0]), tf.int32)
