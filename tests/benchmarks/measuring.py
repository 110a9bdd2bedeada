"""Helpers of `make bench`: figures, times, the limits of the machine, and examples."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from data.dataset.record import SPLITS
from data.dataset.tfrecords import read_records
from data.defaults import MAX_TOKENS
from tests.benchmarks.sample import make_sample
from trainer_module import features
from trainer_module.batching import Batch
from trainer_module.config.image import STRIDE, ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.config.training import TrainingConfig
from trainer_module.examples import Example
from trainer_module.image_graph import normalise_image
from trainer_module.model import FormulaModel
from trainer_module.optimizer import make_optimizer
from trainer_module.trainer import as_dataset
from trainer_module.training import DTYPES, Perplexity, TokenCrossEntropy

FLOP = 2  # a multiplication and an addition
VOCABULARY = 504  # tokens of Image2Latex-TF2


class Figure(NamedTuple):
    """A measured value."""

    value: float
    unit: str
    of_limit: float | None = None  # share of the machine's own limit, 0 to 1


class Size(NamedTuple):
    """How much work a case does; the defaults are those of the published figures."""

    model: ModelConfig = ModelConfig()  # Image2Latex-TF2's
    most: int = sys.maxsize  # maximum of whatever a case counts: examples, pixels of a side, steps, runs, requests
    repeats: int = 9  # number of timed calls, after a warm-up call

    def of(self, count: int) -> int:
        """Returns `count`, but at most `most`."""
        return min(count, self.most)


FULL = Size()


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Returns the median wall-clock seconds of `repeats` calls after a warm-up call; of that call if `repeats` is 0."""
    measured = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        function()
        measured.append(time.perf_counter() - started)
    return statistics.median(measured[1:] or measured)


def fit(model: FormulaModel, taken: list[Batch]) -> float:
    """Returns the seconds of training on all batches but the first, which includes the start of the epoch."""
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter()))
    model.fit(as_dataset(lambda: iter(taken)), callbacks=[clock], verbose=0)
    return ends[-1] - ends[0]


def waiting(model: FormulaModel, dataset: tf.data.Dataset) -> float:
    """The share of a training's time, 0 to 1, in which it waits for its next batch; the first batch does not count."""
    learn = tf.function(model.train_step, input_signature=[dataset.element_spec])
    iterator = iter(dataset)
    float(learn(next(iterator))["loss"])
    waited, started = 0.0, time.perf_counter()
    while True:
        asked = time.perf_counter()
        batch = next(iterator, None)
        waited += time.perf_counter() - asked
        if batch is None:
            return waited / (time.perf_counter() - started)
        float(learn(batch)["loss"])  # until it is computed


def beside_limit(function: Callable[[], float], size: Size, dtype: tf.DType = tf.float32) -> tuple[float, float]:
    """Returns the median seconds of a function, and the median of the operations that convolutions do in that time.

    Other machines on the same host may use some of its processors. So each call is compared with the rates of
    convolutions measured directly before and after it.
    """
    spent, possible = [], []
    limits = [convolution_limit(size, dtype)]
    for _ in range(max(1, min(3, size.repeats))):
        spent.append(function())
        limits.append(convolution_limit(size, dtype))
        possible.append(spent[-1] * statistics.mean(limits[-2:]))
    return statistics.median(spent), statistics.median(possible)


def convolution_limit(size: Size, dtype: tf.DType = tf.float32) -> float:
    """Returns the best rate of the model's three largest convolutions, in operations per second."""
    rates = []
    for rows, columns, before, after in ((16, 80, 256, 256), (16, 40, 256, 512), (8, 40, 512, 512)):
        shape = (8, size.of(rows), size.of(columns), before)
        image = tf.cast(tf.random.normal(shape), dtype)
        kernel = tf.cast(tf.random.normal((3, 3, before, after)), dtype)
        convolve = tf.function(functools.partial(tf.nn.conv2d, strides=1, padding="SAME"))
        spent = seconds(functools.partial(convolve, image, kernel), size.repeats)
        rates.append(FLOP * 9 * after * math.prod(shape) / spent)
    return max(rates)


def learning_flop(config: ModelConfig, pixels: float, tokens: float) -> float:
    """Returns the operations of convolutions and matrix products, forward and backward, for all pixels and tokens.

    The attention is left out: it depends on the pairs of cells and tokens, and is 1 % at 320 cells.
    """
    # Share of the pixels that each convolution computes, after the poolings before it.
    shares = (1, 1 / 4, 1 / 16, 1 / 16, 1 / 32, 1 / 64)
    channels, units = (1, *config.filters), config.decoder_units
    kernels = (9 * before * after for before, after in zip(channels, config.filters, strict=False))
    convolutions = sum(share * kernel for share, kernel in zip(shares, kernels, strict=True))
    # Both directions of the row encoder, then the keys of the attention.
    of_a_cell = 2 * (channels[-1] + units // 2) * 2 * units + units * units
    of_a_token = (config.embedding_units + units) * 4 * units + 2 * units * units + units * VOCABULARY
    forward = pixels * (convolutions + of_a_cell / STRIDE**2) + tokens * of_a_token
    return 3 * FLOP * forward


def real_examples(split: str, size: Size, count: int) -> list[Example]:
    """Returns at most `count` real formulas; without the sample, synthetic formulas of similar size."""
    count, image = size.of(count), ImageConfig(max_height=160, max_width=504)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        make_sample(data, count + 2, {**dict.fromkeys(SPLITS, 1), split: count}, size.of(MAX_TOKENS))
        records = ((record.image, record.latex) for record in read_records(data / split))
        return examples_of(list(itertools.islice(records, count)), image)


def examples_of(records: list[tuple[bytes, str]], image: ImageConfig) -> list[Example]:
    """Returns images and formulas as Trainer gets them, but with arbitrary token ids."""
    normalise = _normalisation(image)
    tokens = sorted({token for _, latex in records for token in latex.split()})
    ids = {token: features.SPECIALS + i % (VOCABULARY - features.SPECIALS) for i, token in enumerate(tokens)}
    examples = []
    for encoded, latex in records:
        png = normalise(tf.constant(encoded))
        height, width, _ = tf.io.decode_png(png).shape
        examples.append(Example(png.numpy(), height, width, np.array([ids[t] for t in latex.split()], np.int32)))
    return examples


@functools.cache
def _normalisation(image: ImageConfig) -> Callable[[tf.Tensor], tf.Tensor]:
    return tf.function(
        lambda encoded: tf.io.encode_png(normalise_image(encoded, image)),
        input_signature=[tf.TensorSpec((), tf.string)],
    )


def make_batch(count: int, height: int, width: int, steps: int) -> Batch:
    random = np.random.default_rng(0)
    tokens = random.integers(features.SPECIALS, VOCABULARY, (count, steps)).astype(np.int32)
    images = random.integers(0, 256, (count, height, width, 1), dtype=np.uint8)
    inputs = {"image": images, "size": np.full((count, 2), (height, width), np.int32), "tokens": tokens}
    return Batch(inputs, tokens, np.ones((count, steps), np.float32))


def trained_once(
    config: ModelConfig, training: TrainingConfig, batch: Batch, precision: str
) -> tuple[FormulaModel, float]:
    """Returns a model after its first training step, and the seconds of that step, including compilation."""
    keras.utils.set_random_seed(0)
    model = FormulaModel(config, VOCABULARY, dtype=DTYPES[precision])
    model.compile(make_optimizer(training, 10_000), TokenCrossEntropy(), weighted_metrics=[Perplexity()])
    started = time.perf_counter()
    model.fit(as_dataset(lambda: iter([batch])), verbose=0)
    return model, time.perf_counter() - started
