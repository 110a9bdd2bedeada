"""Batches of formulas of like size, so that little of what is computed is padding.

NumPy and Pillow alone: the same batches feed every Keras backend. The examples stay in
memory as the compact PNG that Transform wrote (about 1 KB each) and are decoded as they are
needed; which examples form which batch follows from the seed and the epoch alone, so a
training that was killed goes on with the very batch it would have had.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from trainer_module.config import STRIDE
from trainer_module.features import END, PAD, START

WHITE = 255

# Batches that are cut from one random part of the examples. More: less padding; fewer: more variety.
BATCHES_PER_PART = 256


class Example(NamedTuple):
    """A transformed example."""

    image: bytes  # PNG, 8-bit grey, normalised
    height: int  # pixels
    width: int  # pixels
    tokens: np.ndarray  # ids without start and end, int32, (length,)


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
        The indices of each batch's examples. Each example is in one batch.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(examples))
    # Rows and columns of cells, and decoder steps.
    extents = np.array(
        [(-(-e.height // STRIDE), -(-e.width // STRIDE), len(e.tokens) + 1) for e in examples], np.float64
    )
    planned: list[np.ndarray] = []
    for start in range(0, len(order), BATCHES_PER_PART * batch_size):
        planned += _cut(order[start : start + BATCHES_PER_PART * batch_size], extents, batch_size)
    if short_first and epoch == 0:
        return sorted(planned, key=lambda batch: extents[batch, 2].max())
    return [planned[i] for i in random.permutation(len(planned))]


def _cut(part: np.ndarray, extents: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Halves a part along the extent where that saves most padding, until the halves are batches."""
    if len(part) <= batch_size:
        return [part]
    middle = -(-len(part) // batch_size) // 2 * batch_size
    mean_cells, mean_steps = extents[part, 0] @ extents[part, 1] / len(part), extents[part, 2].mean()

    def padded(half: np.ndarray) -> float:
        rows, columns, steps = extents[half].max(axis=0)
        return len(half) * (rows * columns / mean_cells + steps / mean_steps)

    halves = []
    for axis in range(extents.shape[1]):
        ordered = part[np.argsort(extents[part, axis], kind="stable")]
        halves.append((ordered[:middle], ordered[middle:]))
    first, second = min(halves, key=lambda pair: padded(pair[0]) + padded(pair[1]))
    return _cut(first, extents, batch_size) + _cut(second, extents, batch_size)


def collate(examples: Sequence[Example]) -> Batch:
    """Pads examples into one batch: images with white on the right and below, tokens at the end.

    Raises:
        PIL.UnidentifiedImageError: an image is none.
    """
    height = -(-max(example.height for example in examples) // STRIDE) * STRIDE
    width = -(-max(example.width for example in examples) // STRIDE) * STRIDE
    steps = max(len(example.tokens) for example in examples) + 1
    images = np.full((len(examples), height, width, 1), WHITE, np.uint8)
    before = np.full((len(examples), steps), PAD, np.int32)
    targets = np.full((len(examples), steps), PAD, np.int32)
    weights = np.zeros((len(examples), steps), np.float32)
    for i, example in enumerate(examples):
        with Image.open(io.BytesIO(example.image)) as image:
            images[i, : example.height, : example.width, 0] = image
        length = len(example.tokens)
        before[i, 0], before[i, 1 : length + 1] = START, example.tokens
        targets[i, :length], targets[i, length] = example.tokens, END
        weights[i, : length + 1] = 1
    sizes = np.array([(example.height, example.width) for example in examples], np.int32)
    return Batch({"image": images, "size": sizes, "tokens": before}, targets, weights)


def batches(examples: Sequence[Example], planned: Sequence[np.ndarray]) -> Iterator[Batch]:
    """The planned batches, one after another."""
    for indices in planned:
        yield collate([examples[i] for i in indices])


class Padding(NamedTuple):
    """The share of a plan that is padding, 0 to 1."""

    pixels: float
    steps: float


def padding(examples: Sequence[Example], planned: Sequence[np.ndarray]) -> Padding:
    """How much of the planned batches is padding, in pixels and in decoder steps."""
    heights = np.array([example.height for example in examples])
    widths = np.array([example.width for example in examples])
    steps = np.array([len(example.tokens) + 1 for example in examples])
    pixels = sum(
        len(batch) * -(-heights[batch].max() // STRIDE) * -(-widths[batch].max() // STRIDE) * STRIDE**2
        for batch in planned
    )
    padded = sum(len(batch) * steps[batch].max() for batch in planned)
    used = np.concatenate(planned)
    return Padding(1 - float((heights[used] * widths[used]).sum() / pixels), 1 - float(steps[used].sum() / padded))
