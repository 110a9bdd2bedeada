"""What `make bench` measures: each case runs in a process of its own and returns its figures.

Model operations are counted as multiplications and additions, backward as twice forward. The limit that
stands beside a rate is the best rate that a convolution or a matrix product of the model's sizes reached
in the same process, in the same numbers.
"""

from __future__ import annotations

import csv
import functools
import itertools
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from ml_metadata import MetadataStore

from data.im2latex import import_dataset
from data.records import read_records
from data.synthetic import draw_png, formulas, synthesize
from pipeline.config import load_config
from pipeline.lineage.store import connection
from pipeline.workspace import Workspace
from tests.pipeline.lineage.history import PIPELINE, build
from trainer_module import features
from trainer_module.batching import Batch, Example, batches, collate, padding, plan
from trainer_module.config import STRIDE, ImageConfig, ModelConfig, TrainingConfig
from trainer_module.decoding import search
from trainer_module.image_graph import normalise_image
from trainer_module.model import FormulaModel
from trainer_module.trainer import as_dataset
from trainer_module.training import DTYPES, Perplexity, TokenCrossEntropy, make_optimizer

SAMPLES = Path(os.environ.get("IM2LATEX_SAMPLES", Path(__file__).parents[3] / "shared")) / "im2latex-100k"

FLOP = 2  # a multiplication and an addition
VOCABULARY = 504  # tokens of the seed


class Figure(NamedTuple):
    """A measured value."""

    value: float
    unit: str
    of_limit: float | None = None  # share of the machine's own limit, 0 to 1


def machine() -> dict[str, Figure]:
    """The best rates of convolutions and matrix products."""
    figures: dict[str, Figure] = {}
    for name, dtype in (("float32", tf.float32), ("bfloat16", tf.bfloat16)):
        figures[f"convolution, {name}"] = Figure(convolution_limit(dtype) / 1e9, "GFLOP/s")
        left, right = tf.cast(tf.random.normal((2048, 512)), dtype), tf.cast(tf.random.normal((512, 2048)), dtype)
        rate = FLOP * 2048 * 512 * 2048 / seconds(functools.partial(tf.function(tf.matmul), left, right))
        figures[f"matrix product, {name}"] = Figure(rate / 1e9, "GFLOP/s")
    return figures


def training_float32() -> dict[str, Figure]:
    """The seed's model on 8 images of 64 x 320 pixels and 60 tokens."""
    return _training("float32")


def training_bfloat16() -> dict[str, Figure]:
    """The same, computing in bfloat16."""
    return _training("bfloat16")


def _training(precision: str) -> dict[str, Figure]:
    batch = _batch(8, 64, 320, 60)
    model, first = _trained_once(ModelConfig(), TrainingConfig(batch_size=8), batch, precision)
    steps = 8
    spent, possible = beside_limit(functools.partial(_fit, model, [batch] * (steps + 1)), tf.as_dtype(precision))
    operations = learning_flop(ModelConfig(), 64 * 320 * 8 * steps, 60 * 8 * steps)
    return {
        f"first step, {precision}": Figure(first, "s"),
        f"seed model, {precision}": Figure(steps * 8 / spent, "images/s", operations / possible),
    }


def training_mixed_sizes() -> dict[str, Figure]:
    """The seed's model on the sizes and lengths of real formulas, in batches of 20."""
    config = TrainingConfig(batch_size=20)
    # All that there are: the more examples, the more alike are those of a batch.
    examples = real_examples("train", 30_000, ImageConfig(max_height=160, max_width=504))
    planned = plan(examples, config.batch_size, 0, 1)
    wasted = padding(examples, planned)
    planned = planned[:: max(1, len(planned) // 9)]
    model, _ = _trained_once(ModelConfig(), config, next(batches(examples, planned)), "float32")
    model.fit(as_dataset(lambda: batches(examples, planned[:2])), verbose=0)
    spent, possible = beside_limit(functools.partial(_fit, model, list(batches(examples, planned))))
    used = np.concatenate(planned[1:])
    pixels = sum(examples[i].height * examples[i].width for i in used)
    tokens = sum(len(examples[i].tokens) + 1 for i in used)
    operations = learning_flop(ModelConfig(), pixels, tokens)
    return {
        "padding, pixels": Figure(100 * wasted.pixels, "%"),
        "padding, token steps": Figure(100 * wasted.steps, "%"),
        "seed model, real sizes": Figure(len(used) / spent, "images/s", operations / possible),
        "mean size of these images": Figure(pixels / len(used), "pixels"),
    }


def decoding_greedy() -> dict[str, Figure]:
    """The seed's model reads 512 real images, as long as their formulas are."""
    return _decoding(1, "greedy")


def decoding_beam() -> dict[str, Figure]:
    """The same by beam search with five hypotheses."""
    return _decoding(5, "beam of 5")


def _decoding(width: int, name: str) -> dict[str, Figure]:
    examples = real_examples("eval", 512, ImageConfig(max_height=160, max_width=504))
    model = FormulaModel(ModelConfig(), VOCABULARY)
    # It has learnt nothing: it would end anywhere. So it never ends, and is cut where the formula is.
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


def lookups() -> dict[str, Figure]:
    """Cells that each attention looks at in a step, in the mean over real images (Deng et al. 2017, table 2)."""
    examples = real_examples("eval", 128, ImageConfig(max_height=160, max_width=504))
    planned = plan(examples, 32, 0, 1)
    figures: dict[str, Figure] = {}
    for kind in ("standard", "coarse_only", "hierarchical", "sparsemax", "hard"):
        # Narrow: where an attention looks, sparsemax's apart, follows from the sizes alone.
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


def quickstart() -> dict[str, Figure]:
    """Drawing, normalising and learning in the quickstart."""
    config, count = load_config("quickstart"), 1920
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        synthesize(
            f"{folder}/data", count + 2, seed=1, level=config.data.level, dpi=config.data.dpi,
            max_tokens=config.data.max_tokens, splits={"train": count, "eval": 1, "test": 1}, workers=1,
        )  # fmt: skip
        drawing = count / (time.perf_counter() - started)
        records = [(record.image, record.latex) for record in read_records(Path(folder) / "data" / "train")]
    started = time.perf_counter()
    examples = _examples(records, config.image)
    normalising = (time.perf_counter() - started) / count
    batch_size = config.training.batch_size
    planned = plan(examples, batch_size, 0, 1)
    model, first = _trained_once(config.model, config.training, next(batches(examples, planned)), "float32")
    rate = count / seconds(lambda: model.fit(as_dataset(lambda: batches(examples, planned)), verbose=0), 3)
    return {
        "drawing, one core": Figure(drawing, "images/s"),
        "normalising an image": Figure(1e3 * normalising, "ms"),
        "first step, quickstart": Figure(first, "s"),
        "quickstart model": Figure(rate, "images/s"),
    }


def lineage() -> dict[str, Figure]:
    """`im2latex lineage` on a store of 1,000 runs, each of 11 executions and 14 artifacts; starting Python included."""
    figures: dict[str, Figure] = {}
    # What a process held at most, told by itself: what the system tells begins with the process that forked it.
    told = "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr)"
    code = f"import re, sys; from pipeline.cli import main\ntry: main()\nfinally: {told}"
    peaks: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        years = build(MetadataStore(connection("", workspace)), workspace.home, runs=1000, cached=False)
        (workspace.serving / PIPELINE / str(years.pushed[-1].version)).mkdir(parents=True)

        def call(command: str) -> None:
            arguments = [sys.executable, "-c", code, "lineage", *command.split()]
            environment = {**os.environ, "IM2LATEX_HOME": folder}
            done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
            # Nothing in that store has files, which `check` finds out.
            assert done.returncode == (4 if command == "check" else 0), done.stderr
            peaks.append(int(done.stderr))

        for command in ("", "runs", "runs --last 0", "check", "--help"):
            figures[f"lineage {command}".strip()] = Figure(seconds(functools.partial(call, command), 3), "s")
    return figures | {"peak memory of these": Figure(max(peaks) / 1024, "MiB")}


def serving() -> dict[str, Figure]:
    """`im2latex serve` on the model pushed last: hey asks for one formula, by so many clients at once."""
    if shutil.which("hey") is None or not Workspace.from_environment().versions():
        print("The service is not measured: that needs Debian's package hey, and a pushed model (`make run`)")
        return {}
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "formula.png"
        image.write_bytes(draw_png("\\int _ { 0 } ^ { \\infty } z ^ { 2 } d z", em=14))
        command = [sys.executable, "-m", "pipeline.cli", "serve", "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            assert service.stdout is not None
            address = service.stdout.readline().split()[0]
            _ask(address, image, 64, 1_000)  # warms up
            for clients, requests in ((1, 500), (8, 2_000), (64, 8_000)):
                figures |= _ask(address, image, clients, requests)
            memory = _resident(address)
            _ask(address, image, 64, 10_000)
            figures["memory before 10,000 requests"] = Figure(memory / 2**20, "MiB")
            figures["memory after them"] = Figure(_resident(address) / 2**20, "MiB")
            service.terminate()
    return figures


def _ask(address: str, image: Path, clients: int, requests: int) -> dict[str, Figure]:
    """What so many clients get, each asking again as soon as it has its answer."""
    command = ["hey", "-n", str(requests), "-c", str(clients), "-o", "csv", "-m", "POST", "-D", str(image)]
    started = time.perf_counter()
    done = subprocess.run([*command, f"{address}/predict"], capture_output=True, text=True, check=True)
    spent = time.perf_counter() - started
    answers = list(csv.DictReader(done.stdout.splitlines()))
    times = 1e3 * np.array([float(answer["response-time"]) for answer in answers])
    good = sum(answer["status-code"] == "200" for answer in answers)
    name = f"{clients} clients" if clients > 1 else "1 client"
    return {
        name: Figure(good / spent, "answers/s"),
        f"{name}, median": Figure(float(np.median(times)), "ms"),
        f"{name}, 99th percentile": Figure(float(np.percentile(times, 99)), "ms"),
        f"{name}, errors": Figure(requests - good, "answers"),
    }


def _resident(address: str) -> float:
    """The memory that the service holds, bytes, as it says itself."""
    with urllib.request.urlopen(f"{address}/metrics") as answer:
        (value,) = re.findall(r"^process_resident_memory_bytes (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(value)


CASES: dict[str, Callable[[], dict[str, Figure]]] = {
    case.__name__: case
    for case in (
        machine, training_float32, training_bfloat16, training_mixed_sizes, decoding_greedy, decoding_beam, lookups,
        quickstart, lineage, serving,
    )
}  # fmt: skip


def measure(name: str) -> dict[str, Figure]:
    """The figures of a case, and the most memory that its process held."""
    figures = CASES[name]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures | {f"peak memory, {name.replace('_', ' ')}": Figure(peak, "MiB")}


def seconds(function: Callable[[], Any], repeats: int = 9) -> float:
    """Median wall-clock seconds of a call, after one that is not counted."""
    function()
    measured = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        measured.append(time.perf_counter() - started)
    return statistics.median(measured)


def _fit(model: FormulaModel, taken: list[Batch]) -> float:
    """The seconds that training on all batches but the first takes: what starts an epoch is not counted."""
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter()))
    model.fit(as_dataset(lambda: iter(taken)), callbacks=[clock], verbose=0)
    return ends[-1] - ends[0]


def beside_limit(function: Callable[[], float], dtype: tf.DType = tf.float32) -> tuple[float, float]:
    """The median of the seconds that a function returns, and of the operations that convolutions do in that time.

    By turns, for other machines on the same host take their share of it at times: a call is held against the rates
    just before and just after it.
    """
    spent, possible = [], []
    limits = [convolution_limit(dtype)]
    for _ in range(3):
        spent.append(function())
        limits.append(convolution_limit(dtype))
        possible.append(spent[-1] * statistics.mean(limits[-2:]))
    return statistics.median(spent), statistics.median(possible)


def convolution_limit(dtype: tf.DType = tf.float32) -> float:
    """The best rate of the model's three largest convolutions, operations a second."""
    rates = []
    for rows, columns, before, after in ((16, 80, 256, 256), (16, 40, 256, 512), (8, 40, 512, 512)):
        image = tf.cast(tf.random.normal((8, rows, columns, before)), dtype)
        kernel = tf.cast(tf.random.normal((3, 3, before, after)), dtype)
        convolve = tf.function(functools.partial(tf.nn.conv2d, strides=1, padding="SAME"))
        spent = seconds(functools.partial(convolve, image, kernel))
        rates.append(FLOP * 9 * before * after * 8 * rows * columns / spent)
    return max(rates)


def learning_flop(config: ModelConfig, pixels: float, tokens: float) -> float:
    """Operations of convolutions and matrix products, forward and backward, for so many pixels and tokens in all.

    The attention is left out: it depends on which cells stand beside which tokens, and is 1 % at 320 cells.
    """
    # Share of the pixels that each convolution computes, behind the poolings before it.
    shares = (1, 1 / 4, 1 / 16, 1 / 16, 1 / 32, 1 / 64)
    channels, units = (1, *config.filters), config.decoder_units
    kernels = (9 * before * after for before, after in zip(channels, config.filters, strict=False))
    convolutions = sum(share * kernel for share, kernel in zip(shares, kernels, strict=True))
    # Both directions of the row encoder, then the keys of the attention.
    of_a_cell = 2 * (channels[-1] + units // 2) * 2 * units + units * units
    of_a_token = (config.embedding_units + units) * 4 * units + 2 * units * units + units * VOCABULARY
    forward = pixels * (convolutions + of_a_cell / STRIDE**2) + tokens * of_a_token
    return 3 * FLOP * forward


def real_examples(split: str, count: int, image: ImageConfig) -> list[Example]:
    """Real formulas where the sample is there, else synthetic ones of like size."""
    if not SAMPLES.exists():
        print(f"{SAMPLES} is missing: synthetic formulas instead of real ones")
        return _examples([(draw_png(latex), latex) for latex in formulas(count, seed=1, level="full")], image)
    with tempfile.TemporaryDirectory() as folder:
        import_dataset(SAMPLES, Path(folder) / "data")
        records = ((record.image, record.latex) for record in read_records(Path(folder) / "data" / split))
        return _examples(list(itertools.islice(records, count)), image)


def _examples(records: list[tuple[bytes, str]], image: ImageConfig) -> list[Example]:
    normalise = tf.function(
        lambda encoded: tf.io.encode_png(normalise_image(encoded, image)),
        input_signature=[tf.TensorSpec((), tf.string)],
    )
    tokens = sorted({token for _, latex in records for token in latex.split()})
    ids = {token: features.SPECIALS + i % (VOCABULARY - features.SPECIALS) for i, token in enumerate(tokens)}
    examples = []
    for encoded, latex in records:
        png = normalise(tf.constant(encoded))
        height, width, _ = tf.io.decode_png(png).shape
        examples.append(Example(png.numpy(), height, width, np.array([ids[t] for t in latex.split()], np.int32)))
    return examples


def _batch(count: int, height: int, width: int, steps: int) -> Batch:
    random = np.random.default_rng(0)
    tokens = random.integers(features.SPECIALS, VOCABULARY, (count, steps)).astype(np.int32)
    images = random.integers(0, 256, (count, height, width, 1), dtype=np.uint8)
    inputs = {"image": images, "size": np.full((count, 2), (height, width), np.int32), "tokens": tokens}
    return Batch(inputs, tokens, np.ones((count, steps), np.float32))


def _trained_once(
    config: ModelConfig, training: TrainingConfig, batch: Batch, precision: str
) -> tuple[FormulaModel, float]:
    """A model behind its first step, and the seconds which that took, compilation included."""
    keras.utils.set_random_seed(0)
    model = FormulaModel(config, VOCABULARY, dtype=DTYPES[precision])
    model.compile(make_optimizer(training, 10_000), TokenCrossEntropy(), weighted_metrics=[Perplexity()])
    started = time.perf_counter()
    model.fit(as_dataset(lambda: iter([batch])), verbose=0)
    return model, time.perf_counter() - started
