"""Computes a model's attention maps over images that it has read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from im2latex.images import normalise
from trainer_module import features
from trainer_module.attention import BLOCK
from trainer_module.batching import Example, collate
from trainer_module.config.image import STRIDE
from trainer_module.signatures import read_exported
from trainer_module.weights import model_of

# Pixels along each side of a cell.
CELLS = {"coarse": BLOCK * STRIDE, "fine": STRIDE}


class Looked(NamedTuple):
    """The attention maps of one prediction."""

    image: np.ndarray  # the model's input, padded with white to whole cells, uint8 (height, width)
    maps: dict[str, np.ndarray]  # by `coarse` and `fine`, if the model has them: float32 (tokens + 1, rows, columns)


def look(model: str, images: Sequence[bytes], predictions: Sequence[str]) -> list[Looked]:
    """Runs a model on images and its own predictions, and returns its attention at each step.

    Args:
        model: folder of a SavedModel that this pipeline exported.
        images: encoded images.
        predictions: the model's prediction for each image: tokens, separated by spaces.

    Returns:
        The maps of each image, with a step for each token and a last one for the end token.

    Raises:
        UserError: this pipeline did not export the model, or the model is damaged.
    """
    trained = read_exported(model)
    ids = {token: i for i, token in enumerate(trained.vocabulary)}
    examples = []
    for image, prediction in zip(images, predictions, strict=True):
        pixels = normalise(image, trained.image)
        tokens = np.array([ids.get(token, features.UNKNOWN) for token in prediction.split()], np.int32)
        examples.append(Example(_png(pixels), pixels.shape[0], pixels.shape[1], tokens))
    batch = collate(examples).inputs
    maps = model_of(trained).attention_maps(batch["image"], batch["size"], batch["tokens"])
    return [
        _cut(batch["image"][i, :, :, 0], example, {name: np.asarray(values)[i] for name, values in maps.items()})
        for i, example in enumerate(examples)
    ]


def _cut(image: np.ndarray, example: Example, maps: dict[str, np.ndarray]) -> Looked:
    """Removes the batch's padding from one example."""
    steps = len(example.tokens) + 1
    shapes = {name: (-(-example.height // CELLS[name]), -(-example.width // CELLS[name])) for name in maps}
    height, width = -(-example.height // STRIDE) * STRIDE, -(-example.width // STRIDE) * STRIDE
    return Looked(
        image[:height, :width],
        {name: values[:steps, : shapes[name][0], : shapes[name][1]] for name, values in maps.items()},
    )


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
