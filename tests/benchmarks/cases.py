"""The cases of `make bench`. Each runs in a separate process and returns its figures.

Operations of the model are multiplications and additions; a backward pass counts as two forward passes. The limit next
to a rate is the best rate that a convolution or a matrix product of the model's sizes reached in the same process, with
the same number format.
"""

from __future__ import annotations

import functools
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from data.dataset.tfrecords import read_records
from data.parallel import ProcessPool
from data.pictures.synthetic import synthesize
from pipeline.config import load_config
from tests.benchmarks.commands import lineage
from tests.benchmarks.equality import equality
from tests.benchmarks.measuring import (
    FLOP,
    FULL,
    VOCABULARY,
    Figure,
    Size,
    beside_limit,
    convolution_limit,
    examples_of,
    fit,
    learning_flop,
    make_batch,
    real_examples,
    seconds,
    trained_once,
    waiting,
)
from tests.benchmarks.predicting import predicting
from tests.benchmarks.serving import serving
from trainer_module import features
from trainer_module.augmentation import Augmentation
from trainer_module.batching import Batch, collate, padding, plan
from trainer_module.config.model import ModelConfig
from trainer_module.config.training import TrainingConfig
from trainer_module.decoding import search
from trainer_module.examples import Examples
from trainer_module.feeding import batches, feeders
from trainer_module.model import FormulaModel
from trainer_module.trainer import as_dataset


def machine(size: Size = FULL) -> dict[str, Figure]:
    """The best rates of convolutions and matrix products."""
    figures: dict[str, Figure] = {}
    for name, dtype in (("float32", tf.float32), ("bfloat16", tf.bfloat16)):
        figures[f"convolution, {name}"] = Figure(convolution_limit(size, dtype) / 1e9, "GFLOP/s")
        outer, inner = size.of(2048), size.of(512)
        left, right = (tf.cast(tf.random.normal(shape), dtype) for shape in ((outer, inner), (inner, outer)))
        spent = seconds(functools.partial(tf.function(tf.matmul), left, right), size.repeats)
        rate = FLOP * outer * inner * outer / spent
        figures[f"matrix product, {name}"] = Figure(rate / 1e9, "GFLOP/s")
    return figures


def training_float32(size: Size = FULL) -> dict[str, Figure]:
    """Image2Latex-TF2's model on 8 images of 64 x 320 pixels and 60 tokens."""
    return _training("float32", size)


def training_bfloat16(size: Size = FULL) -> dict[str, Figure]:
    """The same in bfloat16."""
    return _training("bfloat16", size)


def _training(precision: str, size: Size) -> dict[str, Figure]:
    images, height, width, tokens = size.of(8), size.of(64), size.of(320), size.of(60)
    batch = make_batch(images, height, width, tokens)
    model, first = trained_once(size.model, TrainingConfig(batch_size=images), batch, precision)
    steps = min(8, size.repeats + 1)
    learn = functools.partial(fit, model, [batch] * (steps + 1))
    spent, possible = beside_limit(learn, size, tf.as_dtype(precision))
    operations = learning_flop(size.model, height * width * images * steps, tokens * images * steps)
    return {
        f"first step, {precision}": Figure(first, "s"),
        f"Image2Latex-TF2, {precision}": Figure(steps * images / spent, "images/s", operations / possible),
    }


def training_mixed_sizes(size: Size = FULL) -> dict[str, Figure]:
    """Image2Latex-TF2's model on the sizes and lengths of real formulas, in batches of 20."""
    # As many examples as possible: the more there are, the more similar are the examples of a batch.
    examples = real_examples("train", size, 30_000)
    config = TrainingConfig(batch_size=min(20, len(examples) // 4))
    planned = plan(examples, config.batch_size, 0, 1)
    wasted = padding(examples, planned)
    planned = planned[:: max(1, len(planned) // 9)]
    model, _ = trained_once(size.model, config, next(batches(examples, planned)), "float32")
    model.fit(as_dataset(lambda: batches(examples, planned[:2])), verbose=0)
    spent, possible = beside_limit(functools.partial(fit, model, list(batches(examples, planned))), size)
    used = np.concatenate(planned[1:])
    pixels = sum(examples[i].height * examples[i].width for i in used)
    tokens = sum(len(examples[i].tokens) + 1 for i in used)
    operations = learning_flop(size.model, pixels, tokens)
    return {
        "padding, pixels": Figure(100 * wasted.pixels, "%"),
        "padding, token steps": Figure(100 * wasted.steps, "%"),
        "Image2Latex-TF2, real sizes": Figure(len(used) / spent, "images/s", operations / possible),
        "mean size of these images": Figure(pixels / len(used), "pixels"),
    }


def decoding_greedy(size: Size = FULL) -> dict[str, Figure]:
    """Image2Latex-TF2's model decodes 512 real images, for as many steps as their formulas have tokens."""
    return _decoding(1, "greedy", size)


def decoding_beam(size: Size = FULL) -> dict[str, Figure]:
    """The same with a beam search of five hypotheses."""
    return _decoding(5, "beam of 5", size)


def _decoding(width: int, name: str, size: Size) -> dict[str, Figure]:
    examples = real_examples("eval", size, 512)
    model = FormulaModel(size.model, VOCABULARY)
    # An untrained model would end at random. So the end token gets no weight, and the formula's length ends decoding.
    kernel = model.decoder.logits_kernel.numpy()
    kernel[:, features.END] = 0
    model.decoder.logits_kernel.assign(kernel)

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None, None, 1), tf.uint8),
            tf.TensorSpec((None, 2), tf.int32),
            tf.TensorSpec((), tf.int32),
        ]
    )
    def read(images: tf.Tensor, sizes: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
        return search(model, images, sizes, steps, width).tokens

    def timed(batch: Batch) -> float:
        started = time.perf_counter()
        read(batch.inputs["image"], batch.inputs["size"], batch.targets.shape[1] - 1)
        return time.perf_counter() - started

    timed(next(batches(examples, [np.arange(2)])))
    planned = plan(examples, 32, 0, 1)
    whole = sum(timed(batch) for batch in batches(examples, planned))
    alone = sorted(timed(collate([example])) for example in examples[:128])
    return {
        f"{name}, batches of 32": Figure(len(examples) / whole, "images/s"),
        f"{name}, one image, median": Figure(1e3 * statistics.median(alone), "ms"),
        f"{name}, one image, 99th percentile": Figure(1e3 * alone[int(0.99 * len(alone))], "ms"),
    }


def lookups(size: Size = FULL) -> dict[str, Figure]:
    """Mean number of cells that each attention looks at in a step, on real images (Deng et al. 2017, table 2)."""
    examples = real_examples("eval", size, 128)
    planned = plan(examples, 32, 0, 1)
    figures: dict[str, Figure] = {}
    for kind in ("standard", "coarse_only", "hierarchical", "sparsemax", "hard"):
        # A narrow model: except for sparsemax, the number of cells depends only on the sizes.
        model = FormulaModel(ModelConfig(filters=(8,) * 6, decoder_units=16, attention=kind), VOCABULARY)
        counts = [
            np.stack(model.lookups(*(batch.inputs[name] for name in ("image", "size", "tokens"))))[:, batch.weights > 0]
            for batch in batches(examples, planned)
        ]
        coarse, fine = np.concatenate(counts, axis=1).mean(axis=1)
        name = "sparsemax, untrained" if kind == "sparsemax" else kind.replace("_", " ")
        figures |= {
            f"{name}: coarse lookups": Figure(coarse, "cells"),
            f"{name}: fine lookups": Figure(fine, "cells"),
        }
    return figures


def quickstart(size: Size = FULL) -> dict[str, Figure]:
    """Drawing, normalising and learning in the quickstart."""
    config, count = load_config("quickstart"), size.of(1920)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        synthesize(
            f"{folder}/data", count + 2, seed=1, level=config.data.level, dpi=config.data.dpi,
            max_tokens=config.data.max_tokens, splits={"train": count, "eval": 1, "test": 1}, workers=1,
        )  # fmt: skip
        drawing = count / (time.perf_counter() - started)
        records = [(record.image, record.latex) for record in read_records(Path(folder) / "data" / "train")]
    started = time.perf_counter()
    examples = examples_of(records, config.image)
    normalising = (time.perf_counter() - started) / count
    batch_size = config.training.batch_size
    planned = plan(examples, batch_size, 0, 1)
    model, first = trained_once(config.model, config.training, next(batches(examples, planned)), "float32")
    rate = count / seconds(
        lambda: model.fit(as_dataset(lambda: batches(examples, planned)), verbose=0), min(3, size.repeats)
    )
    return {
        "drawing, one core": Figure(drawing, "images/s"),
        "normalising an image": Figure(1e3 * normalising, "ms"),
        "first step, quickstart": Figure(first, "s"),
        "quickstart model": Figure(rate, "images/s"),
    }


def feeding(size: Size = FULL) -> dict[str, Figure]:
    """The share of an epoch in which a training of the preset `small` waits for its next batch.

    Worker processes read, decode, augment and pad the images, as in Trainer.
    """
    config, examples = load_config("small"), real_examples("train", size, 2_000)
    planned = plan(examples, min(config.training.batch_size, len(examples) // 4), 0, 1)
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as folder, ProcessPool(feeders(), with_main=False) as pool:
        stored = Examples.write(examples, Path(folder))
        model, _ = trained_once(config.model, config.training, next(batches(stored, planned)), "float32")
        for name, augmentation in (("", None), (", half of the images augmented", Augmentation(0.5, (0, 1)))):
            waited = waiting(model, as_dataset(functools.partial(batches, stored, planned, augmentation, pool)))
            figures[f"waiting for data{name}"] = Figure(100 * waited, "%")
    return figures


CASES: dict[str, Callable[[Size], dict[str, Figure]]] = {
    case.__name__: case
    for case in (
        machine, training_float32, training_bfloat16, training_mixed_sizes, feeding, decoding_greedy,
        decoding_beam, lookups, quickstart, lineage, predicting, equality, serving,
    )
}  # fmt: skip


def measure(name: str, size: Size = FULL) -> dict[str, Figure]:
    """Runs a case. Returns its figures and the peak memory of its process."""
    figures = CASES[name](size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures | {f"peak memory, {name.replace('_', ' ')}": Figure(peak, "MiB")}
