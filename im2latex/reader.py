"""Reads formulas from pictures, with ONNX Runtime."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import numpy as np
from PIL import Image

from im2latex.calibration import Calibration
from im2latex.errors import ImageError, UserError
from im2latex.images import WHITE, normalise, rescale
from im2latex.models import readable_file
from im2latex.pictures import damaged, encode, prepare
from im2latex.reading import BLANK, STRIDE, Attention, Beam, Decoding, Hypothesis, Reading, of_like_size
from im2latex.statistics import from_document
from im2latex.weights import DESCRIPTION, opened_weights, weights_file

if TYPE_CHECKING:
    import onnxruntime

# A picture: the path of a file, the bytes of a file, a Pillow image, or an array, uint8 (height, width) or (height,
# width, 1 to 4 channels: grey or RGB, with or without alpha).
Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"

# Number of images in a batch. Batches of 4 are read up to twice as fast as batches of 32: the activations stay in the
# cache, less is padded, and fewer formulas wait for the longest one.
BATCH = 4
# Number of batches that are read at the same time: one computes while the other one waits for its threads.
CONCURRENT = 2
# Fine cells along each side of a coarse cell.
BLOCK = 4
PAD = 0
# The outputs of the graph that make a hypothesis, in the order of its fields.
_OF_HYPOTHESES = ("tokens", "log_probability", "score", "probability", "token_probability")


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
        described, self._session = _opened(file, threads)
        self._concurrent = 1 if threads == 1 else CONCURRENT
        try:
            self.vocabulary: list[str] = described["vocabulary"]
            self._form = ImageSettings(**described["image"])
            self._decoding = Decoding(**described.get("decoding", {}))
            self.statistics = from_document(described.get("statistics", {}))
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{file} is not a model of im2latex: it has no settings for the normalisation of images"
            ) from None
        self._inputs = {each.name for each in self._session.get_inputs()}
        if "views" not in self._inputs:  # older files cannot read a picture in several sizes together
            self._decoding = self._decoding._replace(rescales=())
        self._outputs = [output.name for output in self._session.get_outputs()]

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
        decoding = self._decoding
        readings = self._read_batches([[image] for image in images], decoding.first_search(beam), attention)
        if decoding.rereads:
            least = math.log(decoding.rescale_below)
            doubtful = [i for i, (best, *_) in enumerate(readings) if best.hypothesis.log_probability < least]
            sizes = [[images[i], *(rescale(images[i], by, self._form) for by in decoding.rescales)] for i in doubtful]
            again = self._read_batches(sizes, decoding.search(beam), attention)
            for i, candidates in zip(doubtful, again, strict=True):
                readings[i] = candidates
        return [
            Reading(tuple(one.hypothesis for one in candidates[: beam.width]), candidates[0].attention)
            for candidates in readings
        ]

    def _read_batches(
        self, pictures: Sequence[Sequence[np.ndarray]], search: Beam, attention: bool
    ) -> list[list[_Candidate]]:
        """Reads pictures in batches, each as one or more images of it; returns the candidates for each, best first."""
        sizes = [(image.shape[1], image.shape[0]) for image, *_ in pictures]
        batches = list(of_like_size(sizes, max(BATCH // len(pictures[0]), 1) if pictures else 1))

        def read(batch: np.ndarray) -> Iterator[tuple[int, list[_Candidate]]]:
            return zip(batch, self._read_batch([pictures[i] for i in batch], search, attention), strict=True)

        with ThreadPoolExecutor(self._concurrent) as pool:
            each = pool.map if len(batches) > 1 else map
            answers = dict(itertools.chain.from_iterable(each(read, batches)))
        return [answers[i] for i in range(len(pictures))]

    def _read_batch(
        self, pictures: Sequence[Sequence[np.ndarray]], search: Beam, attention: bool
    ) -> list[list[_Candidate]]:
        """Reads at least one picture, each as the same number of normalised images, uint8 (height, width)."""
        views, pixels = len(pictures[0]), list(itertools.chain(*pictures))
        sizes = np.array([image.shape for image in pixels], np.int64)
        batch = np.full((len(pixels), *(-(-sizes.max(axis=0) // STRIDE) * STRIDE)), WHITE, np.uint8)
        for image, into in zip(pixels, batch, strict=True):
            into[: image.shape[0], : image.shape[1]] = image
        inputs = {
            "image": batch,
            "size": sizes,
            "views": np.array(views, np.int64),
            "width": np.array(search.width, np.int64),
            "length_penalty": np.array(search.length_penalty, np.float32),
        }
        names = self._outputs if attention else [name for name in self._outputs if name in _OF_HYPOTHESES]
        inputs = {name: value for name, value in inputs.items() if name in self._inputs}
        outputs = dict(zip(names, self._session.run(names, inputs), strict=True))
        if "probability" not in outputs:  # file from an older version, without calibration
            outputs["probability"] = np.exp(outputs["log_probability"])
            outputs["token_probability"] = np.zeros((*outputs["probability"].shape, 0), np.float32)
        return [
            [
                _Candidate(
                    self._hypothesis(*(outputs[name][i, j] for name in _OF_HYPOTHESES)),
                    _trace_attention(outputs, i, j, batch.shape[1:], pixels[i]) if attention else None,
                )
                # If the search finds fewer hypotheses than its width, the others have log-probability -inf.
                for j in np.flatnonzero(outputs["log_probability"][i] > -np.inf)
            ]
            for i in range(0, len(pixels), views)  # the other rows of a picture are equal
        ]

    def _hypothesis(
        self, tokens: np.ndarray, log_probability: float, score: float, probability: float, of_tokens: np.ndarray
    ) -> Hypothesis:
        written = tokens[tokens != PAD].tolist()
        latex = " ".join(self.vocabulary[token] for token in written)
        token_probability = tuple(of_tokens[: len(written)].tolist())
        return Hypothesis(latex, float(log_probability), float(score), float(probability), token_probability)


class _Candidate(NamedTuple):
    """A hypothesis, and its attention if it was requested."""

    hypothesis: Hypothesis
    attention: Attention | None


def _trace_attention(
    output: Mapping[str, np.ndarray], i: int, j: int, sides: Sequence[int], image: np.ndarray
) -> Attention:
    """Collects the attention of a hypothesis by following it back through the beam.

    Args:
        output: the output of `im2latex.graph.onnx_model`.
        i: the image's index in the batch.
        j: the rank of the hypothesis, from 0.
        sides: height and width of the padded images of the batch.
        image: the image without padding.
    """
    fine = "fine" in output
    steps = int((output["tokens"][i, j] != PAD).sum())
    maps, at = [], int(output["order"][i, j])
    for parents, weights in zip(output["parents"][::-1, i], output["fine" if fine else "coarse"][::-1, i], strict=True):
        at = int(parents[at])
        maps.append(weights[at])
    weights = np.array(maps[::-1][:steps])
    rows, columns = (side // STRIDE for side in sides)
    cell = STRIDE if fine else STRIDE * BLOCK
    if "coarse" in output:
        rows, columns = -(-rows // BLOCK), -(-columns // BLOCK)
        if fine:  # the fine cells are ordered by block
            blocks = weights.reshape(steps, rows, columns, BLOCK, BLOCK).transpose(0, 1, 3, 2, 4)
            rows, columns = rows * BLOCK, columns * BLOCK
            weights = blocks.reshape(steps, rows, columns)
    weights = weights.reshape(steps, rows, columns)
    height, width = (-(-side // cell) for side in image.shape)
    return Attention(weights[:, :height, :width], cell, image)


def _is_npz(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(2) == b"PK"  # a ZIP


def _opened(file: Path, threads: int) -> tuple[dict[str, Any], onnxruntime.InferenceSession]:
    """Opens a model's file; returns the model's description and an ONNX Runtime session."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Spinning threads take half of the processor time without reading pictures any faster.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Would cache a memory layout for every batch size that it has seen, without a bound.
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # errors are raised anyway, so do not log them too
    content: str | bytes = str(file)
    if _is_npz(file):
        from im2latex.graph import onnx_model

        with opened_weights(file) as saved:
            text = str(saved[DESCRIPTION])
            weights = {name: saved[name] for name in saved if name != DESCRIPTION}
            described = json.loads(text)
            calibration = Calibration(**described.get("calibration", {}))
            content = onnx_model(described["model"], weights, described["max_tokens"], text, calibration)
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions have no common base class
        raise UserError(f"{file} is not a valid model ({type(error).__name__}); name another one") from None
    return json.loads(session.get_modelmeta().custom_metadata_map.get("im2latex", "{}")), session
