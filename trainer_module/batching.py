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
BATCHES_PER_SORT = 64


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


def plan(examples: Sequence[Example], batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Cuts an epoch into batches of examples of like size and length.

    Args:
        examples: what to cut.
        batch_size: examples in a batch; the last one may have fewer.
        seed, epoch: decide the order.

    Returns:
        The indices of each batch's examples. Each example is in one batch.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(examples))
    rows = np.array([-(-example.height // STRIDE) for example in examples])
    columns = np.array([-(-example.width // STRIDE) for example in examples])
    lengths = np.array([len(example.tokens) for example in examples])
    batches = []
    for start in range(0, len(order), BATCHES_PER_SORT * batch_size):
        part = order[start : start + BATCHES_PER_SORT * batch_size]
        part = part[np.lexsort((lengths[part], columns[part], rows[part]))]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


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


def batches(
    examples: Sequence[Example], batch_size: int, seed: int = 0, epoch: int = 0, start: int = 0
) -> Iterator[Batch]:
    """The batches of an epoch from the batch numbered `start` on."""
    for indices in plan(examples, batch_size, seed, epoch)[start:]:
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
    return Padding(
        1 - float((heights[used] * widths[used]).sum() / pixels), 1 - float(steps[used].sum() / padded)
    )
