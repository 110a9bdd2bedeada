"""Runs a model's graph (`im2latex.graph`) with ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from im2latex.calibration import Calibration
from im2latex.errors import UserError
from im2latex.images import WHITE
from im2latex.reading import STRIDE, Attention, Beam, Hypothesis, Reading
from im2latex.weights import DESCRIPTION, opened_weights

if TYPE_CHECKING:
    import onnxruntime

# Fine cells along each side of a coarse cell.
BLOCK = 4
PAD = 0
# How the names of the outputs with cells end.
CELLS = "_cells"
# The outputs that make a hypothesis, in the order of its fields.
OF_HYPOTHESES = ("tokens", "log_probability", "score", "probability", "token_probability")
NO_PIXELS = np.zeros((0, 0, 0), np.uint8)
NO_CELLS = np.zeros((0, 0, 0, 0), np.float32)

# Arrays by the names of the graph's outputs.
Arrays: TypeAlias = dict[str, np.ndarray]


class Encoded(NamedTuple):
    """Encoded images.

    Attributes:
        images: the normalised images, uint8 (height, width).
        cells: the cells of each grid, float32 (images, units, rows, columns), padded to the largest image.
    """

    images: list[np.ndarray]
    cells: Arrays

    def select(self, indices: Sequence[int]) -> Encoded:
        """Returns the images with these indices."""
        cells = {name: values[indices] for name, values in self.cells.items()}
        return Encoded([self.images[i] for i in indices], cells)


class Runtime:
    """A model in ONNX Runtime. Several threads can use it at the same time.

    Args:
        file: an ONNX file or a file of weights.
        threads: number of threads per run, 0 for one per core.

    Attributes:
        described: the description of the model in the file; {} if it has none.
        vocabulary: the text of each token id.
        can_encode: whether images can be encoded and searched separately; files of older versions cannot.

    Raises:
        UserError: the file is not a valid model.
    """

    def __init__(self, file: Path, threads: int) -> None:
        self._session = _session(file, threads)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.described: dict[str, Any] = json.loads(metadata.get("im2latex", "{}"))
        self.vocabulary: list[str] = self.described.get("vocabulary", [])
        self._inputs = {each.name for each in self._session.get_inputs()}
        outputs = [output.name for output in self._session.get_outputs()]
        self._cells = [name for name in outputs if name.endswith(CELLS)]
        self._others = [name for name in outputs if not name.endswith(CELLS)]
        self.can_encode = bool(self._cells)

    def read(self, images: Sequence[np.ndarray], beam: Beam, attention: bool = False) -> tuple[list[Reading], Encoded]:
        """Reads normalised images, uint8 (height, width).

        Returns:
            The readings, with all hypotheses of the beam, and the encoded images for `search`.
        """
        pixels, sizes = _padded(images)
        outputs = self._run(pixels, sizes, [*self._cells, *self._names(attention)], beam)
        cells = {name: outputs[name] for name in self._cells}
        return self._readings(outputs, images, sizes), Encoded(list(images), cells)

    def encode(self, images: Sequence[np.ndarray]) -> Encoded:
        """Encodes normalised images, uint8 (height, width)."""
        return Encoded(list(images), self._run(*_padded(images), self._cells))

    def search(self, views: Sequence[Encoded], beam: Beam, attention: bool = False) -> list[Reading]:
        """Reads pictures that are encoded in several sizes, each in all of its sizes together.

        Args:
            views: the same pictures in each size.
            beam: the search.
            attention: whether to return the attention, which is that of the first size.
        """
        sizes = np.array(
            [image.shape for of_one in zip(*(view.images for view in views), strict=True) for image in of_one]
        )
        known = {name: _joined([view.cells[name] for view in views], _sides(name, sizes)) for name in self._cells}
        outputs = self._run(NO_PIXELS, sizes, self._names(attention), beam, known, len(views))
        return self._readings(outputs, views[0].images, sizes)

    def _names(self, attention: bool) -> Sequence[str]:
        return self._others if attention else [name for name in self._others if name in OF_HYPOTHESES]

    def _run(
        self,
        pixels: np.ndarray,
        sizes: np.ndarray,
        names: Sequence[str],
        beam: Beam | None = None,
        known: Arrays | None = None,
        views: int = 1,
    ) -> Arrays:
        """Runs the graph, see `im2latex.graph.onnx_model`; without a beam, it only encodes."""
        inputs = {
            "image": pixels,
            "size": sizes.astype(np.int64),
            "search": np.array(beam is not None),
            "views": np.array(views, np.int64),
            "width": np.array(beam.width if beam else 1, np.int64),
            "length_penalty": np.array(beam.length_penalty if beam else 0, np.float32),
        }
        for name in self._cells:
            inputs["known_" + name.removesuffix(CELLS)] = known[name] if known else NO_CELLS
        inputs = {name: value for name, value in inputs.items() if name in self._inputs}
        outputs = dict(zip(names, self._session.run(names, inputs), strict=True))
        if beam and "probability" not in outputs:  # file from an older version, without calibration
            outputs["probability"] = np.exp(outputs["log_probability"])
            outputs["token_probability"] = np.zeros((*outputs["probability"].shape, 0), np.float32)
        return outputs

    def _readings(self, outputs: Arrays, images: Sequence[np.ndarray], sizes: np.ndarray) -> list[Reading]:
        """Returns the reading of each image; the rows of its other sizes in the outputs are equal."""
        rows, has_attention = len(sizes), "order" in outputs
        return [
            Reading(self._hypotheses(outputs, row), _attention(outputs, row, image, sizes) if has_attention else None)
            for row, image in zip(range(0, rows, rows // len(images)), images, strict=True)
        ]

    def _hypotheses(self, outputs: Arrays, row: int) -> tuple[Hypothesis, ...]:
        hypotheses = []
        for each in zip(*(outputs[name][row] for name in OF_HYPOTHESES), strict=True):
            tokens, log_probability, score, probability, of_tokens = each
            if log_probability == -np.inf:  # the search has found fewer hypotheses than its width
                continue
            written = tokens[tokens != PAD].tolist()
            latex = " ".join(self.vocabulary[token] for token in written)
            of_written = tuple(of_tokens[: len(written)].tolist())
            hypotheses.append(Hypothesis(latex, float(log_probability), float(score), float(probability), of_written))
        return tuple(hypotheses)


def _padded(images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inputs `image` and `size` for images, uint8 (height, width)."""
    sizes = np.array([image.shape for image in images])
    pixels = np.full((len(images), *(-(-sizes.max(axis=0) // STRIDE) * STRIDE)), WHITE, np.uint8)
    for image, into in zip(images, pixels, strict=True):
        into[: image.shape[0], : image.shape[1]] = image
    return pixels, sizes


def _sides(name: str, sizes: np.ndarray) -> np.ndarray:
    """Returns rows and columns of a grid for images of these sizes."""
    sides = -(-sizes.max(axis=0) // STRIDE)
    return -(-sides // BLOCK) if name.startswith("coarse") else sides


def _joined(views: Sequence[np.ndarray], sides: np.ndarray) -> np.ndarray:
    """Joins the cells of the same pictures in several sizes; the sizes of a picture are consecutive."""
    rows, columns = sides
    joined = np.zeros((len(views[0]), len(views), views[0].shape[1], rows, columns), np.float32)
    for i, cells in enumerate(views):
        used = cells[:, :, :rows, :columns]
        joined[:, i, :, : used.shape[2], : used.shape[3]] = used
    return joined.reshape(-1, *joined.shape[2:])


def _attention(outputs: Arrays, row: int, image: np.ndarray, sizes: np.ndarray) -> Attention:
    """Collects the attention of the best hypothesis by following it back through the beam."""
    fine = "fine" in outputs
    steps = int((outputs["tokens"][row, 0] != PAD).sum())
    maps, at = [], int(outputs["order"][row, 0])
    of_steps = outputs["fine" if fine else "coarse"][::-1, row]
    for parents, weights in zip(outputs["parents"][::-1, row], of_steps, strict=True):
        at = int(parents[at])
        maps.append(weights[at])
    weights = np.array(maps[::-1][:steps])
    cell = STRIDE if fine else STRIDE * BLOCK
    rows, columns = _sides("coarse" if "coarse" in outputs else "fine", sizes)
    if fine and "coarse" in outputs:  # the fine cells are ordered by block
        blocks = weights.reshape(steps, rows, columns, BLOCK, BLOCK).transpose(0, 1, 3, 2, 4)
        rows, columns = rows * BLOCK, columns * BLOCK
        weights = blocks.reshape(steps, rows, columns)
    weights = weights.reshape(steps, rows, columns)
    height, width = (-(-side // cell) for side in image.shape)
    return Attention(weights[:, :height, :width], cell, image)


def _is_npz(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(2) == b"PK"  # a ZIP


def _session(file: Path, threads: int) -> onnxruntime.InferenceSession:
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
            vocabulary = described.get("vocabulary", ())
            content = onnx_model(described["model"], weights, described["max_tokens"], text, calibration, vocabulary)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions have no common base class
        raise UserError(f"{file} is not a valid model ({type(error).__name__}); name another one") from None
