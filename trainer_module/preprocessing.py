"""Preprocessing in Transform: normalises images and converts formulas to token ids.

The served model contains the same TensorFlow graph, so clients can send images of any format, size,
border, colour and background unchanged.
"""

from __future__ import annotations

import json
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from trainer_module import features
from trainer_module.config.image import ImageConfig
from trainer_module.config.vocabulary import VocabularyConfig
from trainer_module.image_graph import normalise_batch


def preprocessing_fn(inputs: dict[str, tf.Tensor], custom_config: dict[str, Any]) -> dict[str, Any]:
    """Transforms a batch of records. TFX's Transform loads this function by its dotted path.

    Args:
        inputs: `image` (batch,) string, an encoded image; `latex` (batch,) string, tokens
            separated by spaces; other features are ignored.
        custom_config: `config` is JSON with the sections `image` (ImageConfig) and
            `vocabulary` (VocabularyConfig).

    Returns:
        `image` (batch,) string, the normalised image as 8-bit grey PNG; `height` and `width`
        (batch,) int64, its size in pixels; `tokens` sparse (batch, longest) int64, ids without
        start and end. Ids are in the order of the vocabulary: most frequent token first, equally
        frequent tokens in descending order of their bytes.

    Raises:
        tf.errors.InvalidArgumentError: an image cannot be decoded; raised when the graph runs.
    """
    config = json.loads(custom_config["config"])
    image = ImageConfig(**config["image"])
    vocabulary = VocabularyConfig(**config["vocabulary"])

    ids = tft.compute_and_apply_vocabulary(
        tf.strings.split(inputs[features.LATEX]),
        default_value=features.UNKNOWN - features.SPECIALS,
        frequency_threshold=vocabulary.min_count,
        vocab_filename=features.VOCABULARY,
    )
    return {
        **normalise_batch(inputs[features.IMAGE], image, compression=7),
        features.TOKENS: (ids + features.SPECIALS).to_sparse(),
    }
