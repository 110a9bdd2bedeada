"""Measures speed and memory: `make bench`, or `make bench ARGS="--preset small --json bench.json"`.

Every rate stands beside the machine's own limit, measured in the same run, because machines differ
and none is ever quite idle.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data.records import read_records
from data.synthetic import synthesize
from pipeline.config import load_config, tensorflow_environment

# Floating-point operations of a multiplication and an addition.
FLOP = 2


def seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """Median wall-clock seconds of a call, after one that is not counted."""
    function()
    measured = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        measured.append(time.perf_counter() - start)
    return statistics.median(measured)


def convolution_flop(filters: tuple[int, ...], pixels: float) -> float:
    """Operations of the six convolutions, forward, for an image of so many pixels."""
    # Share of the pixels that each convolution computes, behind the poolings before it.
    shares = (1, 1 / 4, 1 / 16, 1 / 16, 1 / 32, 1 / 64)
    channels = (1, *filters)
    kernels = (9 * before * after for before, after in zip(channels, filters, strict=False))
    return FLOP * pixels * sum(share * kernel for share, kernel in zip(shares, kernels, strict=True))


def main() -> None:
    """Measures one preset on its kind of examples."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--examples", type=int, default=1920, help="examples to train on")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    config = load_config(arguments.preset)
    for variable, value in tensorflow_environment(config).items():
        os.environ.setdefault(variable, value)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    import keras
    import numpy as np
    import tensorflow as tf

    from trainer_module import features
    from trainer_module.batching import Example, batches, padding, plan
    from trainer_module.decoding import search
    from trainer_module.model import FormulaModel
    from trainer_module.preprocessing import normalise_image
    from trainer_module.trainer import as_dataset
    from trainer_module.training import TokenCrossEntropy, make_optimizer

    figures: dict[str, dict[str, Any]] = {}

    def note(name: str, value: float, unit: str, of_limit: float | None = None) -> None:
        figures[name] = {"value": value, "unit": unit, "of_limit": of_limit}

    with tempfile.TemporaryDirectory() as folder:
        count = arguments.examples
        data = config.data
        start = time.perf_counter()
        synthesize(
            f"{folder}/data",
            count + 2,
            seed=data.seed,
            level=data.level,
            dpi=data.dpi,
            max_tokens=data.max_tokens,
            splits={"train": count, "eval": 1, "test": 1},
            workers=1,
        )
        note("synthetic images, one core", count / (time.perf_counter() - start), "images/s")
        records = list(read_records(Path(folder) / "data" / "train"))

    normalise = tf.function(lambda image: tf.io.encode_png(normalise_image(image, config.image)))
    normalised = [normalise(tf.constant(record.image)) for record in records]
    rate = seconds(lambda: [normalise(tf.constant(record.image)) for record in records[:256]]) / 256
    note("normalising an image", rate * 1e3, "ms")

    tokens = sorted({token for record in records for token in record.latex.split()})
    ids = {token: features.SPECIALS + i for i, token in enumerate(tokens)}
    examples = []
    for record, png in zip(records, normalised, strict=True):
        height, width, _ = tf.io.decode_png(png).shape
        ids_of_record = np.array([ids[token] for token in record.latex.split()], np.int32)
        examples.append(Example(png.numpy(), height, width, ids_of_record))
    planned = plan(examples, config.training.batch_size, 0, 1)
    wasted = padding(examples, planned)
    note("padding, pixels", 100 * wasted.pixels, "%")
    note("padding, token steps", 100 * wasted.steps, "%")

    # The limit: the best rate of a convolution as wide as the model's widest but one.
    channels = config.model.filters[-2]
    image, kernel = tf.random.normal((8, 16, 80, channels)), tf.random.normal((3, 3, channels, channels))
    convolve = tf.function(lambda: tf.reduce_sum(tf.nn.conv2d(image, kernel, 1, "SAME")))
    limit = FLOP * 9 * channels**2 * 8 * 16 * 80 / seconds(convolve, 20)
    note("convolution limit", limit / 1e9, "GFLOP/s")

    model = FormulaModel(config.model, features.SPECIALS + len(tokens), config.image.max_height // 8)
    model.compile(make_optimizer(config.training, 10_000), TokenCrossEntropy(config.training.label_smoothing))
    start = time.perf_counter()
    model.fit(as_dataset(lambda: batches(examples, planned[:1])), verbose=0)
    note("first training step", time.perf_counter() - start, "s")
    epoch = seconds(lambda: model.fit(as_dataset(lambda: batches(examples, planned)), verbose=0), 3)
    pixels = float(np.mean([example.height * example.width for example in examples]))
    # Backward takes twice the operations of forward.
    operations = 3 * convolution_flop(config.model.filters, pixels)
    note("training", len(examples) / epoch, "images/s", operations * len(examples) / epoch / limit)

    read = tf.function(lambda images, sizes: search(model, images, sizes, config.training.max_tokens).tokens)
    batch = next(batches(examples, planned)).inputs
    images, sizes = tf.constant(batch["image"]), tf.constant(batch["size"])
    note("decoding a batch", len(batch["image"]) / seconds(lambda: read(images, sizes)), "images/s")
    one = seconds(lambda: read(images[:1], sizes[:1]), 20)
    note("decoding one image", one * 1e3, "ms")
    note("peak memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MiB")

    table = Table("", "value", "unit", "of the limit", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, figure in figures.items():
        share = "" if figure["of_limit"] is None else f"{figure['of_limit']:.0%}"
        table.add_row(name, f"{figure['value']:,.1f}", figure["unit"], share)
    title = f"preset {arguments.preset}, Keras {keras.__version__}, TensorFlow {tf.__version__}, {os.cpu_count()} CPUs"
    Console(highlight=False).print(title, table, sep="\n")
    if arguments.json:
        arguments.json.write_text(json.dumps({"preset": arguments.preset, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
