"""Benchmark of `im2latex predict`: ONNX Runtime compared with TensorFlow and its SavedModel."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import im2latex
from components.evaluator.reading import ImageReader
from data.pictures.synthetic import draw_png, formulas
from im2latex.images import normalise
from im2latex.models import ONNX
from im2latex.reading import STRIDE
from pipeline.models.export import save_model
from tests.benchmarks.measuring import FULL, Figure, Size, convolution_limit, learning_flop, seconds
from trainer_module import reader

# Runs a command, and prints the peak memory of its process.
CODE = """
import re, sys
from {module} import main
try: main()
finally: print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""


def predicting(size: Size = FULL) -> dict[str, Figure]:
    """Measures the reader: the whole command, and pictures in a warm process."""
    trained = reader.load()
    drawn = [draw_png(one, em=14) for one in formulas(size.of(64), seed=8, level="standard", max_tokens=40)]
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as folder:
        image, model = Path(folder) / "formula.png", Path(folder) / "model"
        image.write_bytes(drawn[0])
        save_model(trained, model)
        (model / ONNX).unlink()  # without it, TensorFlow reads the model
        commands = {
            "ONNX Runtime": [CODE.format(module="im2latex.cli"), "--model", reader.NAME],
            "SavedModel": [CODE.format(module="pipeline.cli"), "--model", str(model)],
        }
        for name, (code, *options) in commands.items():
            peaks: list[int] = []
            command = [sys.executable, "-c", code, "predict", str(image), *options]
            spent = seconds(functools.partial(_call, command, peaks), min(3, size.repeats))
            figures[f"predict, {name}"] = Figure(spent, "s")
            figures[f"peak memory of it, {name}"] = Figure(max(peaks) / 1024, "MiB")
        read, saved = im2latex.Reader(), ImageReader(model)
        runtimes: dict[str, Callable[[list[bytes]], Any]] = {"ONNX Runtime": read.predict, "SavedModel": saved.read}
        limit, operations = convolution_limit(size), _operations(drawn[0], read)
        for name, run in runtimes.items():
            alone = seconds(functools.partial(run, drawn[:1]), size.repeats)
            figures[f"one picture, {name}"] = Figure(1e3 * alone, "ms", operations / (alone * limit))
            batch = drawn[:32]
            together = seconds(functools.partial(run, batch), min(3, size.repeats))
            figures[f"batch of {len(batch)}, {name}"] = Figure(len(batch) / together, "images/s")
    return figures


def _call(command: list[str], peaks: list[int]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, done.stderr
    peaks.append(int(done.stderr.splitlines()[-1]))


def _operations(image: bytes, read: im2latex.Reader) -> float:
    """Returns the operations of the model for one picture."""
    trained = reader.load()
    height, width = (-(-side // STRIDE) * STRIDE for side in normalise(image, trained.image).shape)
    tokens = len(read.predict(image).latex.split()) + 1
    # Training also has a backward pass, at twice the cost.
    return learning_flop(trained.model, height * width, tokens) / 3
