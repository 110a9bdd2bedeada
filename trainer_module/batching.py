"""Batches of formulas of like size, so that little of what is computed is padding.

NumPy and Pillow alone: the same batches feed every Keras backend. Images are read, decoded and
changed when their batch is near, in processes beside the training; which examples form which batch
follows from the seed and the epoch alone, so a training that was killed goes on with the very batch
it would have had.
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from data.parallel import Pool, cores
from im2latex.images import WHITE
from trainer_module.augmentation import Augmentation
from trainer_module.config.image import STRIDE
from trainer_module.examples import Example, part_of, sizes_of
from trainer_module.features import END, PAD, START

Item = TypeVar("Item")

# What an example's cells cost in training where its steps cost 1: convolutions and row encoder together take 5 to 6
# times the seconds of the decoder (docs/development/benchmarks.md, "Speed").
COST_OF_CELLS = 5
MOST_FEEDERS = 8
# Rows and columns of cells, and decoder steps, that an example counts for at most more than it has when `plan` orders
# the examples, drawn anew in each epoch: so its batches differ. Rows stay as they are: one more costs the most.
JITTER = np.array((0, 2, 6))


class Batch(NamedTuple):
    """What a training step takes: inputs, targets, and the targets' weights, as Keras orders them."""

    inputs: dict[str, np.ndarray]  # as `FormulaModel.call` takes them
    targets: np.ndarray  # the token at each step, int32, (batch, steps)
    weights: np.ndarray  # 1 where there is a token and 0 where there is padding, float32, (batch, steps)


def plan(
    examples: Sequence[Example], batch_size: int, seed: int, epoch: int, short_first: bool = False
) -> list[np.ndarray]:
    """Cuts an epoch into batches of examples of like size and length.

    Args:
        examples: what to cut.
        batch_size: examples in a batch; the last one may have fewer.
        seed, epoch: decide the order.
        short_first: in the first epoch, go from short formulas to long ones ("SortaGrad", Amodei et al. 2016).

    Returns:
        The indices of each batch's examples. Each example is in one batch. To find them takes 100 bytes an example.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(examples))
    extents = _extents(examples)
    keys = random.random(extents.shape)
    keys *= JITTER
    keys += extents
    planned = _cut(order, extents, keys, batch_size)
    if short_first and epoch == 0:
        return sorted(planned, key=lambda batch: extents[batch, 2].max())
    return [planned[i] for i in random.permutation(len(planned))]


def _extents(examples: Sequence[Example]) -> np.ndarray:
    """Rows and columns of cells, and decoder steps, of each example, int32, (examples, 3)."""
    extents = sizes_of(examples)
    extents[:, :2] += STRIDE - 1
    extents[:, :2] //= STRIDE
    extents[:, 2] += 1
    return extents


class _Work:
    """What examples cost beside the mean one.

    Args:
        extents: of all examples, (examples, 3).
        cells: what the mean example's cells cost where its steps cost 1.
    """

    def __init__(self, extents: np.ndarray, cells: float = 1) -> None:
        self.of_cell = cells / (extents[:, 0] * extents[:, 1]).mean(dtype=np.float64)
        self.of_step = 1 / extents[:, 2].mean()

    def __call__(self, extents: np.ndarray) -> np.ndarray:
        """What an example of such extents, (n, 3), costs, (n,)."""
        return extents[:, 0] * extents[:, 1] * self.of_cell + extents[:, 2] * self.of_step

    def cut(self, extents: np.ndarray, keys: Iterable[np.ndarray], multiple: int = 1) -> tuple[float, np.ndarray, int]:
        """Cuts examples in two along the axis, and at the place, where that saves most of the work.

        Args:
            extents: of the examples, (n, 3), more than `multiple`; each of a half costs what its largest extents do.
            keys: what they are ordered by along each axis, of (n,).
            multiple: the first half has such a multiple of examples.

        Returns:
            The work that is saved, the order of the examples, and the length of the first half of it.
        """
        count = np.arange(multiple, len(extents), multiple)
        whole = len(extents) * self(extents.max(axis=0, keepdims=True))[0]
        found: tuple[float, np.ndarray, int] | None = None
        for key in keys:
            order = np.argsort(key, kind="stable")
            # Largest extents of every `multiple` examples, and from these of all before and all behind a place.
            largest = np.maximum.reduceat(extents[order], np.arange(0, len(extents), multiple))
            first = np.maximum.accumulate(largest)[:-1]
            second = np.maximum.accumulate(largest[::-1])[::-1][1:]
            saved = whole - count * self(first) - (len(extents) - count) * self(second)
            best = int(saved.argmax())
            if saved[best] < 1e-9 * whole:  # nothing, but for rounding: even halves are soonest cut to the end
                best = len(count) // 2
            if found is None or saved[best] > found[0]:
                found = float(saved[best]), order, int(count[best])
        assert found is not None
        return found


def _cut(part: np.ndarray, extents: np.ndarray, keys: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cuts a part in two where that saves most padding, and the halves again, until they are batches."""
    work, parts, planned = _Work(extents, COST_OF_CELLS), [part], []
    while parts:
        part = parts.pop()
        if len(part) <= batch_size:
            planned.append(part)
        else:
            _, order, place = work.cut(extents[part], (key[part] for key in keys.T), batch_size)
            parts += [part[order[:place]], part[order[place:]]]
    return planned


class Buckets:
    """Few shapes for many batches: what is compiled for fixed shapes, as JAX does, is compiled once for each.

    Args:
        examples: all that batches will be of, training and validation together.
        count: shapes, at most.
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
        # Rows and columns of cells, and decoder steps, of each shape, int32, (shapes, 3); the least work first.
        self.shapes = shapes[np.argsort(self._work(shapes), kind="stable")]

    def cut(
        self, examples: Sequence[Example], batch_size: int, seed: int, epoch: int, short_first: bool = False
    ) -> list[np.ndarray]:
        """Cuts an epoch into batches of examples of one shape; arguments and result as those of `plan`."""
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
        """The batch in the least shape that holds it, filled up with its own examples, at no weight.

        Of a batch that `cut` planned that is the shape of its examples: what holds all of them
        with less work would hold each of them.
        """
        image, weights = batch.inputs["image"], batch.weights
        extents = [[image.shape[1] // STRIDE, image.shape[2] // STRIDE, weights.shape[1]]]
        rows, columns, steps = self.shapes[self._least(np.array(extents))[0]].tolist()
        repeated = np.arange(batch_size) % len(weights)

        def filled(part: np.ndarray, value: int, *sides: int) -> np.ndarray:
            amounts = [(0, side - have) for side, have in zip(sides, part.shape[1:], strict=False)]
            amounts += [(0, 0)] * (part.ndim - 1 - len(sides))
            return np.pad(part[repeated], [(0, 0), *amounts], constant_values=value)

        weights = filled(weights, 0, steps)
        weights[len(batch.weights) :] = 0
        inputs = {
            "image": filled(image, WHITE, rows * STRIDE, columns * STRIDE),
            "size": filled(batch.inputs["size"], 0),
            "tokens": filled(batch.inputs["tokens"], PAD, steps),
        }
        return Batch(inputs, filled(batch.targets, PAD, steps), weights)

    def _least(self, extents: np.ndarray) -> np.ndarray:
        """The index of the first shape that holds such extents, (n, 3), int, (n,)."""
        holds = (extents[:, np.newaxis] <= self.shapes).all(axis=2)
        assert holds.any(axis=1).all(), "there is an example that the buckets were not made for"
        return holds.argmax(axis=1)

    def _split(self, part: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Cuts extents in two where that saves most work: how much, and the two; a half is empty if it saves none."""
        if len(part) > 1:
            saved, order, place = self._work.cut(part, part.T)
            if saved > 0:
                return saved, part[order[:place]], part[order[place:]]
        return 0.0, part, part[:0]


def collate(
    examples: Sequence[Example], images: Sequence[Image.Image] | None = None, extents: Sequence[int] = (1, 1, 1)
) -> Batch:
    """Pads examples into one batch: images with white on the right and below, tokens at the end.

    Args:
        examples: what to put together.
        images: in place of the examples' own images, grey, none larger than its example's.
        extents: rows and columns of cells, and decoder steps, that the batch has at least.

    Raises:
        PIL.UnidentifiedImageError: an image is none.
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
    """The example's image, grey."""
    with Image.open(io.BytesIO(example.image)) as image:
        return image.convert("L")


def batches(
    examples: Sequence[Example],
    planned: Sequence[np.ndarray],
    augmentation: Augmentation | None = None,
    pool: Pool | None = None,
) -> Iterator[Batch]:
    """The planned batches, one after another; with a pool, its processes make some ahead."""
    work = ((part_of(examples, indices), indices, augmentation) for indices in planned)
    yield from map(_made, work) if pool is None else pool.map(_made, work)


def feeders() -> int:
    """Processes that make batches, at most: each makes some hundreds of images a second, or thousands if unchanged."""
    return max(1, min(MOST_FEEDERS, cores() - 1))


def _made(work: tuple[Sequence[Example], np.ndarray, Augmentation | None]) -> Batch:
    chosen, indices, augmentation = work
    held = list(chosen)
    if augmentation is None:
        return collate(held)
    return collate(held, [augmentation(int(i), decoded(one)) for i, one in zip(indices, held, strict=True)])


def prefetched(iterator: Iterator[Item], size: int) -> Generator[Item]:
    """The same items, made by a thread before they are asked for, at most `size` waiting.

    An error comes out where its item would have; closing the generator stops the thread.
    """
    waiting: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(size)
    left = threading.Event()

    def work() -> None:
        try:
            for item in iterator:
                waiting.put((item, None))
                if left.is_set():
                    return
            waiting.put((None, StopIteration()))
        except BaseException as error:
            waiting.put((None, error))

    threading.Thread(target=work, name="prefetched", daemon=True).start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        left.set()
        while not waiting.empty():  # a thread that waits for room goes on, and sees that it is not needed
            waiting.get()


class Padding(NamedTuple):
    """The share of a plan that is padding, 0 to 1."""

    pixels: float
    steps: float


def padding(examples: Sequence[Example], planned: Sequence[np.ndarray]) -> Padding:
    """How much of the planned batches is padding, in pixels and in decoder steps."""
    extents, (heights, widths, lengths) = _extents(examples), sizes_of(examples).T
    largest = np.array([[len(batch), *extents[batch].max(axis=0)] for batch in planned], np.int64)
    used = np.concatenate(planned)
    pixels = (largest[:, 0] * largest[:, 1] * largest[:, 2]).sum() * STRIDE**2
    steps = (largest[:, 0] * largest[:, 3]).sum()
    filled = np.dot(heights[used].astype(np.int64), widths[used])
    return Padding(1 - float(filled / pixels), 1 - float((lengths[used] + 1).sum() / steps))
