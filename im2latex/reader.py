"""Reads formulas from pictures, with ONNX Runtime."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias, overload

import numpy as np
from PIL import Image

from im2latex.errors import ImageError, UserError
from im2latex.images import WHITE, normalise, rescale
from im2latex.models import readable_file
from im2latex.pictures import damaged, encode, prepare
from im2latex.reading import BLANK, Beam, Decoding, Hypothesis, Reading, of_like_size
from im2latex.runtime import Runtime
from im2latex.statistics import from_document
from im2latex.weights import weights_file

# A picture: the path of a file, the bytes of a file, a Pillow image, or an array, uint8 (height, width) or (height,
# width, 1 to 4 channels: grey or RGB, with or without alpha).
Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"

# Number of images in a batch. Batches of 4 are read up to twice as fast as batches of 32: the activations stay in the
# cache, less is padded, and fewer formulas wait for the longest one.
BATCH = 4
# Number of batches that are read at the same time: one computes while the other one waits for its threads.
CONCURRENT = 2


class ImageSettings(NamedTuple):
    """Settings of the image normalisation, see `im2latex.images.ImageForm`."""

    max_height: int
    max_width: int
    border: int
    glyph_size: int


class Reader:
    """A model that reads formulas from pictures. Several threads can use one reader at the same time.

    Args:
        model: an ONNX file or a file of weights from `im2latex export`, or a folder that contains one, such as the
            folder of a pushed model. None uses the model that comes with im2latex.
        threads: number of threads per batch, 0 for one per core; with 1, batches are read one after the other.

    Attributes:
        vocabulary: the text of each token id.
        statistics: histograms of the training data (`im2latex.statistics`); {} for a model without them.

    Raises:
        UserError: the model is missing or damaged.
    """

    def __init__(self, model: str | os.PathLike[str] | None = None, threads: int = 0) -> None:
        file = weights_file() if model is None else readable_file(Path(model))
        self._runtime = Runtime(file, threads)
        self._concurrent = 1 if threads == 1 else CONCURRENT
        described = self._runtime.described
        try:
            self.vocabulary: list[str] = described["vocabulary"]
            self._form = ImageSettings(**described["image"])
            self._decoding = Decoding(**described.get("decoding", {}))
            self.statistics = from_document(described.get("statistics", {}))
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{file} is not a model of im2latex: it has no settings for the normalisation of images"
            ) from None
        if not self._runtime.can_encode:
            self._decoding = self._decoding._replace(rescales=())

    @overload
    def predict(  # type: ignore[overload-overlap]  # a text is a sequence of texts too
        self, pictures: Picture, *, alternatives: int = ..., length_penalty: float | None = ..., attention: bool = ...
    ) -> Reading: ...
    @overload
    def predict(
        self,
        pictures: Sequence[Picture],
        *,
        alternatives: int = ...,
        length_penalty: float | None = ...,
        attention: bool = ...,
    ) -> list[Reading]: ...
    def predict(
        self,
        pictures: Picture | Sequence[Picture],
        *,
        alternatives: int = 1,
        length_penalty: float | None = None,
        attention: bool = False,
    ) -> Reading | list[Reading]:
        r"""Reads one picture or several.

            >>> Reader().predict("formula.png").clean
            '\\int_{-\\infty}^\\infty e^{-x^2}dx=\\sqrt{\\pi}'

        Args:
            pictures: a picture (see `Picture`), or a sequence of them.
            alternatives: number of hypotheses for each picture.
            length_penalty: rank hypotheses of n tokens by log-probability / ((6 + n) / 6) to this power (Wu et al.
                2016, section 7), with a beam width of `alternatives`. None uses the model's own length penalty, and a
                beam at least as wide as the model's own.
            attention: whether to return the attention.

        Returns:
            The reading of the picture, or a list of readings for a sequence.

        Raises:
            ImageError: a picture cannot be read. Use `read_each` to continue with the others.
            OSError: a file cannot be opened.
        """
        if alternatives < 1:
            raise ValueError(f"alternatives is {alternatives}, and has to be at least 1")
        beam = Beam(alternatives, length_penalty)
        one = pictures if isinstance(pictures, str | bytes | os.PathLike | np.ndarray | Image.Image) else None
        several: Sequence[Picture] = [one] if one is not None else pictures  # type: ignore[assignment]
        readings = []
        for reading in self._read([encode(picture) for picture in several], beam, attention):
            if isinstance(reading, ImageError):
                raise reading
            readings.append(reading)
        return readings if one is None else readings[0]

    def read_each(self, images: Sequence[bytes], beam: Beam | None = None) -> list[list[Hypothesis] | ImageError]:
        """Reads encoded images. An image that cannot be decoded does not prevent reading the others.

        Args:
            images: the bytes of image files.
            beam: the beam search; None uses the model's own search and returns one hypothesis per image.

        Returns:
            For each image its hypotheses, best first, or the error.
        """
        readings = self._read(images, beam or Beam(1), attention=False)
        return [one if isinstance(one, ImageError) else list(one.alternatives) for one in readings]

    def _read(self, images: Sequence[bytes], beam: Beam, attention: bool) -> list[Reading | ImageError]:
        answers: dict[int, Reading | ImageError] = {}
        pixels: dict[int, np.ndarray] = {}
        for i, image in enumerate(images):
            try:
                normalised = self.normalise(image)
            except ImageError as error:
                answers[i] = error
                continue
            if normalised is None:
                answers[i] = Reading((BLANK,))
            else:
                pixels[i] = normalised
        answers |= zip(pixels, self.read_normalised(list(pixels.values()), beam, attention), strict=True)
        return [answers[i] for i in range(len(images))]

    def normalise(self, image: bytes, turn: bool = True) -> np.ndarray | None:
        """Decodes an image and normalises it for `read_normalised`: uint8 (height, width).

        Args:
            image: the bytes of a file.
            turn: whether to rotate a photo by its EXIF orientation.

        Returns:
            None if the image is blank.

        Raises:
            ImageError: the image cannot be read.
        """
        try:
            pixels = normalise(prepare(image, turn).encoded, self._form)
        except ImageError:
            raise
        except Exception as error:  # noqa: BLE001  Pillow's decoders raise nearly anything for damaged files
            raise damaged(error) from None
        return None if (pixels == WHITE).all() else pixels

    def search(self, beam: Beam) -> Beam:
        """Returns the beam that the model searches with; images with the same one can be read together."""
        search = self._decoding.search(beam)
        return search if self._decoding.first_search(beam) == search else beam

    def read_normalised(self, images: Sequence[np.ndarray], beam: Beam, attention: bool = False) -> list[Reading]:
        """Reads normalised images with ink, uint8 (height, width).

        If the model's settings say so, an image is read again if its reading is not probable enough, in its own and
        other sizes together: the probability of a token is its mean over the sizes.
        """
        sizes = [(image.shape[1], image.shape[0]) for image in images]
        batches = list(of_like_size(sizes, BATCH))

        def read(batch: np.ndarray) -> Iterator[tuple[int, Reading]]:
            return zip(batch, self._read_batch([images[i] for i in batch], beam, attention), strict=True)

        with ThreadPoolExecutor(self._concurrent) as pool:
            each = pool.map if len(batches) > 1 else map
            readings = dict(itertools.chain.from_iterable(each(read, batches)))
        return [replace(readings[i], alternatives=readings[i].alternatives[: beam.width]) for i in range(len(images))]

    def _read_batch(self, images: Sequence[np.ndarray], beam: Beam, attention: bool) -> list[Reading]:
        decoding, runtime = self._decoding, self._runtime
        readings, encoded = runtime.read(images, decoding.first_search(beam), attention)
        least = math.log(decoding.rescale_below) if decoding.rereads else -math.inf
        doubtful = [i for i, reading in enumerate(readings) if reading.alternatives[0].log_probability < least]
        if doubtful:
            views = [encoded.select(doubtful)]
            for scale in decoding.rescales:
                views.append(runtime.encode([rescale(images[i], scale, self._form) for i in doubtful]))
            for i, reading in zip(doubtful, runtime.search(views, decoding.search(beam), attention), strict=True):
                readings[i] = reading
        return readings
