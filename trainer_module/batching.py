"""Groups examples of similar size into batches, so that little computation is spent on padding.

This module uses NumPy and Pillow only, so the same batches feed every Keras backend. The composition of the batches
depends on the seed and the epoch only, so an interrupted training continues with exactly the same batches.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from im2latex.images import WHITE
from trainer_module.config.image import STRIDE
from trainer_module.examples import Example, sizes_of
from trainer_module.features import END, PAD, START

# Cost of an example's cells in training relative to that of its decoder steps: convolutions and row encoder together
# take 5 to 6 times as long as the decoder (docs/development/benchmarks.md, "Speed").
COST_OF_CELLS = 5
# Maximum random amounts by which `plan` enlarges the rows, columns and decoder steps of an example when it orders the
# examples, so that each epoch has different batches. Rows are not changed, because an additional row costs the most.
JITTER = np.array((0, 2, 6))
# Significant bits of the columns of cells and of the decoder steps of a batch, see `rounded`: with 4 bits, all numbers
# up to 16, every second one up to 32, every fourth one up to 64, and so on. In bfloat16, each new shape of a batch
# takes memory (docs/development/benchmarks.md, "Memory and batch sizes").
BITS = (4, 3)


class Share(NamedTuple):
    """The part of every batch that one of several hosts reads: its examples host, host + hosts, host + 2 hosts, ..."""

    host: int
    hosts: int


ALL = Share(0, 1)


class Batch(NamedTuple):
    """A batch in the order that Keras expects: inputs, targets, and the weights of the targets."""

    inputs: dict[str, np.ndarray]  # as `FormulaModel.call` takes them
    targets: np.ndarray  # the token at each step, int32, (batch, steps)
    weights: np.ndarray  # 1 for tokens, 0 for padding, float32, (batch, steps)


def plan(
    examples: Sequence[Example], batch_size: int, seed: int, epoch: int, short_first: bool = False
) -> list[np.ndarray]:
    """Divides the examples of an epoch into batches of similar size and length, using 200 bytes per example.

    Args:
        examples: the examples of the epoch.
        batch_size: number of examples in a batch; one batch may have fewer.
        seed, epoch: random seed of the batches and their order.
        short_first: in the first epoch, go from short formulas to long ones ("SortaGrad", Amodei et al. 2016).

    Returns:
        For each batch, the indices of its examples. Each example is in exactly one batch.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(examples))
    exact = _extents(examples)
    extents = _rounded_extents(exact)
    keys = random.random(extents.shape)
    keys *= JITTER
    keys += extents
    planned = _cut(order, extents, keys, batch_size)
    if short_first and epoch == 0:
        return sorted(planned, key=lambda batch: exact[batch, 2].max())
    return [planned[i] for i in random.permutation(len(planned))]


def _extents(examples: Sequence[Example]) -> np.ndarray:
    """Returns rows and columns of cells, and decoder steps, of each example, int32, (examples, 3)."""
    extents = sizes_of(examples)
    extents[:, :2] += STRIDE - 1
    extents[:, :2] //= STRIDE
    extents[:, 2] += 1
    return extents


def _rounded_extents(extents: np.ndarray) -> np.ndarray:
    """Rounds the columns and decoder steps of extents, (n, 3), up to numbers of few significant bits.

    Rows stay: a model with an embedding of rows has none beyond the tallest image, and there are few rows.
    """
    rounded_up = extents.copy()
    for axis, bits in enumerate(BITS, start=1):
        last = extents[:, axis] - 1
        shift = np.maximum(0, np.frexp(last)[1] - bits)  # frexp: the number of bits
        rounded_up[:, axis] = ((last >> shift) + 1) << shift
    return rounded_up


def rounded(batch: Batch) -> Batch:
    """Pads the columns and decoder steps of a batch, so that the batches of a training have few shapes.

    `plan` groups examples by the rounded sizes, so that this adds little.
    """
    return _padded(batch, *_rounded_extents(_extents_of(batch))[0].tolist())


def _extents_of(batch: Batch) -> np.ndarray:
    """Returns rows and columns of cells, and decoder steps, of a batch, int, (1, 3)."""
    _, height, width, _ = batch.inputs["image"].shape
    return np.array([[height // STRIDE, width // STRIDE, batch.weights.shape[1]]])


def _padded(batch: Batch, rows: int, columns: int, steps: int) -> Batch:
    """Pads a batch to so many rows and columns of cells, and decoder steps."""

    def filled(part: np.ndarray, value: int, *sides: int) -> np.ndarray:
        amounts = [(0, side - have) for side, have in zip(sides, part.shape[1:], strict=False)]
        amounts += [(0, 0)] * (part.ndim - 1 - len(sides))
        return np.pad(part, [(0, 0), *amounts], constant_values=value) if np.any(amounts) else part

    inputs = {
        "image": filled(batch.inputs["image"], WHITE, rows * STRIDE, columns * STRIDE),
        "size": batch.inputs["size"],
        "tokens": filled(batch.inputs["tokens"], PAD, steps),
    }
    return Batch(inputs, filled(batch.targets, PAD, steps), filled(batch.weights, 0, steps))


class _Work:
    """Estimates the cost of examples, relative to the cost of the average example's decoder steps.

    Args:
        extents: extents of all examples, (examples, 3), see `_extents`.
        cells: cost of the average example's cells, relative to that of its decoder steps.
    """

    def __init__(self, extents: np.ndarray, cells: float = 1) -> None:
        self.of_cell = cells / (extents[:, 0] * extents[:, 1]).mean(dtype=np.float64)
        self.of_step = 1 / extents[:, 2].mean()

    def __call__(self, extents: np.ndarray) -> np.ndarray:
        """Returns the cost of examples, (n,), from their extents, (n, 3)."""
        return extents[:, 0] * extents[:, 1] * self.of_cell + extents[:, 2] * self.of_step

    def cut(self, extents: np.ndarray, keys: Iterable[np.ndarray], multiple: int = 1) -> tuple[float, np.ndarray, int]:
        """Finds the division of examples into two parts that saves the most work.

        All examples of a part are padded to its largest extents. The examples are ordered along one of the axes and
        divided at one position.

        Args:
            extents: extents of more than `multiple` examples, (n, 3).
            keys: sort keys for each axis, (n,).
            multiple: the number of examples in the first part is a multiple of this.

        Returns:
            The work saved, the order of the examples, and the number of examples in the first part.
        """
        count = np.arange(multiple, len(extents), multiple)
        whole = len(extents) * self(extents.max(axis=0, keepdims=True))[0]
        best_cut: tuple[float, np.ndarray, int] | None = None
        for key in keys:
            order = np.argsort(key, kind="stable")
            # Largest extents of every `multiple` examples, and from these of all before and all behind a place.
            largest = np.maximum.reduceat(extents[order], np.arange(0, len(extents), multiple))
            first = np.maximum.accumulate(largest)[:-1]
            second = np.maximum.accumulate(largest[::-1])[::-1][1:]
            saved = whole - count * self(first) - (len(extents) - count) * self(second)
            best = int(saved.argmax())
            if saved[best] < 1e-9 * whole:  # nothing but rounding; even halves need the fewest further divisions
                best = len(count) // 2
            if best_cut is None or saved[best] > best_cut[0]:
                best_cut = float(saved[best]), order, int(count[best])
        assert best_cut is not None
        return best_cut


def _cut(part: np.ndarray, extents: np.ndarray, keys: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Divides a part in two where that saves the most padding, and continues with both parts down to single batches."""
    work, parts, planned = _Work(extents, COST_OF_CELLS), [part], []
    while parts:
        part = parts.pop()
        if len(part) <= batch_size:
            planned.append(part)
        else:
            _, order, position = work.cut(extents[part], (key[part] for key in keys.T), batch_size)
            parts += [part[order[:position]], part[order[position:]]]
    return planned


class Buckets:
    """Pads batches to one of a few shapes, for backends such as JAX that compile once per shape.

    Args:
        examples: all examples that batches will contain, of training and validation together.
        count: maximum number of shapes.
    """

    def __init__(self, examples: Sequence[Example], count: int) -> None:
        extents = _extents(examples)
        self._work = _Work(extents)
        splits = [self._split(extents)]
        while len(splits) < count:
            splits.sort(key=lambda split: split[0])
            if splits[-1][0] <= 0:
                break
            _, *halves = splits.pop()
            splits += [self._split(half) for half in halves]
        shapes = np.unique([np.concatenate(halves).max(axis=0) for _, *halves in splits], axis=0)
        # Rows and columns of cells, and decoder steps, of each shape, int32, (shapes, 3), cheapest first.
        self.shapes = shapes[np.argsort(self._work(shapes), kind="stable")]

    def cut(
        self, examples: Sequence[Example], batch_size: int, seed: int, epoch: int, short_first: bool = False
    ) -> list[np.ndarray]:
        """Divides an epoch into batches of examples with the same shape; arguments and result as in `plan`."""
        random = np.random.default_rng((seed, epoch))
        extents = _extents(examples)
        of = self._least(extents)
        planned: list[np.ndarray] = []
        for shape in np.unique(of):
            members = random.permutation(np.flatnonzero(of == shape))
            planned += np.split(members, range(batch_size, len(members), batch_size))
        if short_first and epoch == 0:
            return sorted(planned, key=lambda batch: extents[batch, 2].max())
        return [planned[i] for i in random.permutation(len(planned))]

    def fill(self, batch: Batch, batch_size: int) -> Batch:
        """Pads a batch to the cheapest shape that fits, and to `batch_size` with its own examples, at zero weight.

        For a batch from `cut`, this is the shape of its examples.
        """
        batch = _padded(batch, *self.shapes[self._least(_extents_of(batch))[0]].tolist())
        count = len(batch.weights)
        repeated = np.arange(batch_size) % count
        inputs = {name: part[repeated] for name, part in batch.inputs.items()}
        weights = batch.weights[repeated]
        weights[count:] = 0
        return Batch(inputs, batch.targets[repeated], weights)

    def _least(self, extents: np.ndarray) -> np.ndarray:
        """Returns the indices of the cheapest shapes that fit, int, (n,), for extents, (n, 3)."""
        holds = (extents[:, np.newaxis] <= self.shapes).all(axis=2)
        assert holds.any(axis=1).all(), "there is an example that the buckets were not made for"
        return holds.argmax(axis=1)

    def _split(self, part: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Divides extents in two where that saves the most work.

        Returns:
            The work saved, and both parts; the second part is empty if no division saves work.
        """
        if len(part) > 1:
            saved, order, position = self._work.cut(part, part.T)
            if saved > 0:
                return saved, part[order[:position]], part[order[position:]]
        return 0.0, part, part[:0]


def collate(
    examples: Sequence[Example], images: Sequence[Image.Image] | None = None, extents: Sequence[int] = (1, 1, 1)
) -> Batch:
    """Pads examples into one batch: images with white on the right and below, tokens at the end.

    Args:
        examples: the examples of the batch.
        images: grey images to use instead of the examples' own ones, at most as large.
        extents: minimum rows and columns of cells, and decoder steps, of the batch.

    Raises:
        PIL.UnidentifiedImageError: an image cannot be decoded.
    """
    rows = max(extents[0], -(-max(example.height for example in examples) // STRIDE))
    columns = max(extents[1], -(-max(example.width for example in examples) // STRIDE))
    steps = max(extents[2], max(len(example.tokens) for example in examples) + 1)
    pixels = np.full((len(examples), rows * STRIDE, columns * STRIDE, 1), WHITE, np.uint8)
    sizes = np.zeros((len(examples), 2), np.int32)
    before = np.full((len(examples), steps), PAD, np.int32)
    targets = np.full((len(examples), steps), PAD, np.int32)
    weights = np.zeros((len(examples), steps), np.float32)
    for i, example in enumerate(examples):
        image = decoded(example) if images is None else images[i]
        sizes[i] = image.height, image.width
        pixels[i, : image.height, : image.width, 0] = image
        length = len(example.tokens)
        before[i, 0], before[i, 1 : length + 1] = START, example.tokens
        targets[i, :length], targets[i, length] = example.tokens, END
        weights[i, : length + 1] = 1
    return Batch({"image": pixels, "size": sizes, "tokens": before}, targets, weights)


def decoded(example: Example) -> Image.Image:
    """Decodes an example's image, grey."""
    with Image.open(io.BytesIO(example.image)) as image:
        return image.convert("L")


class Padding(NamedTuple):
    """Shares of padding in planned batches, 0 to 1, of pixels and of decoder steps."""

    pixels: float
    steps: float


def padding(examples: Sequence[Example], planned: Sequence[np.ndarray]) -> Padding:
    """Computes the share of padding in the planned batches, `rounded`, of pixels and of decoder steps."""
    extents, (heights, widths, lengths) = _rounded_extents(_extents(examples)), sizes_of(examples).T
    largest = np.array([[len(batch), *extents[batch].max(axis=0)] for batch in planned], np.int64)
    used = np.concatenate(planned)
    pixels = (largest[:, 0] * largest[:, 1] * largest[:, 2]).sum() * STRIDE**2
    steps = (largest[:, 0] * largest[:, 3]).sum()
    filled = np.dot(heights[used].astype(np.int64), widths[used])
    return Padding(1 - float(filled / pixels), 1 - float((lengths[used] + 1).sum() / steps))
