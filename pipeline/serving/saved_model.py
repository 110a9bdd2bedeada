"""A SavedModel without an ONNX file, such as one of another project, for `im2latex predict`: TensorFlow reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from components.evaluator.reading import ImageReader
from im2latex.errors import ImageError, UserError
from im2latex.pictures import Picture, prepare
from im2latex.reading import Beam, Hypothesis, of_like_size


class SavedModelReader:
    """Reads images as `im2latex.Reader.read_each` does.

    Args:
        folder: of the SavedModel.
        searches: whether beams will be searched.

    Raises:
        UserError: it cannot be loaded, or it cannot search a beam and has to.
    """

    def __init__(self, folder: Path, searches: bool) -> None:
        self._reader = ImageReader(folder)
        if searches and not self._reader.has_alternatives:
            raise UserError(
                f"{folder} has no signature predict_alternatives; leave out --alternatives, or train a new model"
            )

    def read_each(self, images: Sequence[bytes], beam: Beam | None = None) -> list[list[Hypothesis] | ImageError]:
        """Reads images in batches of like size; what cannot be read has the reason in its place."""
        answers: dict[int, list[Hypothesis] | ImageError] = {}
        pictures: dict[int, Picture] = {}
        for i, image in enumerate(images):
            try:
                pictures[i] = prepare(image)
            except ImageError as error:
                answers[i] = error
        places = list(pictures)
        for chosen in of_like_size([(pictures[i].width, pictures[i].height) for i in places]):
            batch = [places[place] for place in chosen]
            answers |= zip(batch, self._reader.read_each([pictures[i].encoded for i in batch], beam), strict=True)
        return [answers[i] for i in range(len(images))]
