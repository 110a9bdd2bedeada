"""Runs a pushed model: encoded images to formulas, with the SavedModel alone."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from im2latex.errors import ImageError, UserError
from im2latex.reading import Beam, Decoding, Hypothesis, of_like_size
from trainer_module import features


class ImageReader:
    """Reads images with a SavedModel.

    Args:
        folder: folder of the SavedModel.

    Raises:
        UserError: the model cannot be loaded, or has no signature `predict_images`.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            # A reference to the model, because its signatures do not keep it alive.
            self._loaded = tf.saved_model.load(str(folder))
            self._signatures = dict(self._loaded.signatures)
            self._signatures["predict_images"]
            description = Path(folder) / features.DESCRIPTION
            described = json.loads(description.read_text("utf-8")) if description.is_file() else {}
            self._decoding = Decoding(**described.get("decoding", {}))
        except (OSError, KeyError, TypeError, ValueError, tf.errors.OpError) as error:
            raise UserError(
                f"{folder} is not a model that reads images ({type(error).__name__}: {error}); "
                "name the folder of a version, or `reader`"
            ) from None

    @property
    def has_alternatives(self) -> bool:
        """Whether the model supports beam search; older models do not."""
        return "predict_alternatives" in self._signatures

    def read(self, images: Sequence[bytes], beam: Beam | None = None) -> list[list[Hypothesis]]:
        """Reads images in one batch.

        Args:
            images: PNG, JPEG, BMP or GIF bytes.
            beam: how to search; None returns one hypothesis from the model's default search.

        Returns:
            For each image its hypotheses, best first: `beam.width` of them, or one without `beam`.

        Raises:
            ImageError: an image cannot be decoded.
        """
        batch = tf.constant(images, tf.string, (len(images),))
        try:
            if beam is None:
                outputs = self._signatures["predict_images"](images=batch)
                outputs = {name: value[:, tf.newaxis] for name, value in outputs.items()}
                outputs["score"] = outputs["log_probability"]
            else:
                width, length_penalty = self._decoding.search(beam)
                search = self._signatures["predict_alternatives"]
                outputs = search(
                    images=batch, width=tf.constant(width), length_penalty=tf.constant(length_penalty, tf.float32)
                )
                outputs = {name: of[:, : beam.width] for name, of in outputs.items()}
        except tf.errors.InvalidArgumentError:
            raise ImageError("the image is damaged: it cannot be decoded") from None
        if "probability" not in outputs:  # a model of before there was a calibration, or of another project
            outputs["probability"] = tf.exp(outputs["log_probability"])
            outputs["token_probability"] = tf.zeros((*outputs["latex"].shape, 0))
        columns = [outputs[name].numpy().tolist() for name in Hypothesis._fields]
        return [[_hypothesis(*one) for one in zip(*row, strict=True)] for row in zip(*columns, strict=True)]

    def read_each(self, images: Sequence[bytes], beam: Beam | None = None) -> list[list[Hypothesis] | ImageError]:
        """Reads images as `read` does, but returns an ImageError for each image that cannot be decoded."""
        try:
            return list(self.read(images, beam))
        except ImageError as error:
            if len(images) == 1:
                return [error]
            # TensorFlow does not say which image of a batch is damaged.
            half = len(images) // 2
            return self.read_each(images[:half], beam) + self.read_each(images[half:], beam)


def _hypothesis(
    latex: bytes, log_probability: float, score: float, probability: float, of_tokens: Sequence[float]
) -> Hypothesis:
    text = latex.decode()
    return Hypothesis(text, log_probability, score, probability, tuple(of_tokens[: len(text.split())]))


class Predictions(NamedTuple):
    """A model's predictions for a list of images."""

    latex: list[str]
    log_probability: np.ndarray  # float32, (examples,)
    probability: np.ndarray  # calibrated, float32, (examples,)
    seconds: float  # for all images


def read_images(
    reader: ImageReader, images: Sequence[bytes], progress: Callable[[int], None] | None = None
) -> Predictions:
    """Reads images with a pushed model, in batches of similar size.

    Args:
        reader: the model.
        images: PNG, JPEG, BMP or GIF bytes.
        progress: called with the number of images read since the last call.

    Raises:
        ImageError: an image cannot be decoded.
    """
    started = time.perf_counter()
    latex, log_probability, probability = [""] * len(images), *np.zeros((2, len(images)), np.float32)
    for chosen in of_like_size([Image.open(io.BytesIO(image)).size for image in images]):
        for i, (reading,) in zip(chosen, reader.read([images[i] for i in chosen]), strict=True):
            latex[i], log_probability[i], probability[i] = reading.latex, reading.log_probability, reading.probability
        if progress is not None:
            progress(len(chosen))
    return Predictions(latex, log_probability, probability, time.perf_counter() - started)
