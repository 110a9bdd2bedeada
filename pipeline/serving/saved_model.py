"""Reads images with a SavedModel that has no ONNX file, such as one of another project, for `im2latex predict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from components.evaluator.reading import ImageReader
from im2latex.errors import ImageError, UserError
from im2latex.pictures import EncodedPicture, prepare
from im2latex.reading import Beam, Hypothesis, of_like_size


class SavedModelReader:
    """Reads images with TensorFlow, with the interface of `im2latex.Reader.read_each`.

    Args:
        folder: the SavedModel.
        searches: whether beam search will be used.

    Raises:
        UserError: the model cannot be loaded, or does not support a beam search that will be used.
    """

    def __init__(self, folder: Path, searches: bool) -> None:
        self._reader = ImageReader(folder)
        if searches and not self._reader.has_alternatives:
            raise UserError(
                f"{folder} has no signature predict_alternatives; leave out --alternatives, or train a new model"
            )

    def read_each(self, images: Sequence[bytes], beam: Beam | None = None) -> list[list[Hypothesis] | ImageError]:
        """Reads images in batches of similar size; returns an ImageError for each image that cannot be read."""
        answers: dict[int, list[Hypothesis] | ImageError] = {}
        pictures: dict[int, EncodedPicture] = {}
        for i, image in enumerate(images):
            try:
                pictures[i] = prepare(image)
            except ImageError as error:
                answers[i] = error
        indices = list(pictures)
        for chosen in of_like_size([(pictures[i].width, pictures[i].height) for i in indices]):
            batch = [indices[index] for index in chosen]
            answers |= zip(batch, self._reader.read_each([pictures[i].encoded for i in batch], beam), strict=True)
        return [answers[i] for i in range(len(images))]
