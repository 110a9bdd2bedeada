"""Runs the probes in fresh processes and checks their results."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from data.repository import python_path
from im2latex.models import ONNX

# The same limit as in TFX's InfraValidator. It includes TensorFlow's import and reads from a cold disk.
LOADING_SECONDS = 300.0
# The first call is slower: TensorFlow optimises the graph.
FIRST_ANSWER_SECONDS = 60.0
# The time limit of the process is this many times what the bound allows, because half of the images may exceed it.
PATIENCE = 10
# One image in this many, and at least one, may be read differently in a batch or by ONNX Runtime: rounding decides
# between two tokens that are equally likely.
TIES = 16
# Error messages are cut to this many characters, because TensorFlow's can fill pages.
MESSAGE_LENGTH = 300
# Log lines of native code that are not errors: information, warnings, and the stack trace of a crash.
NO_ERROR = re.compile(r"[IW]\d{4} |WARNING: |\*\*\* |\s*@ ")


@dataclass(frozen=True)
class CheckResult:
    """Result of a check; a measurement is None if the check ended before it."""

    reason: str = ""  # why the model is rejected; "" if it is blessed
    seconds_to_load: float | None = None
    seconds_per_image: float | None = None  # median, each image alone
    seconds_per_image_p99: float | None = None
    peak_memory: int | None = None  # bytes, of the whole process

    @property
    def blessed(self) -> bool:
        """Whether the model may be pushed."""
        return not self.reason


@dataclass(frozen=True)
class Ended:
    """A probe's process after its end."""

    status: int  # exit status; negative for a signal
    output: str  # stdout
    errors: str  # stderr


def check_serving(model: str, images: Sequence[bytes], max_seconds: float) -> CheckResult:
    """Runs a SavedModel on images in a fresh process, and its ONNX file, if it has one, in another.

    The model is rejected if it cannot be loaded, if its process fails, crashes or hangs, or if its ONNX file reads more
    than one of `TIES` images differently. None of these raises an exception.

    Args:
        model: folder of the SavedModel.
        images: encoded images, at least one.
        max_seconds: maximum median time for one image, seconds.
    """
    limits = (LOADING_SECONDS, FIRST_ANSWER_SECONDS + PATIENCE * max_seconds * 2 * len(images))
    ended = _run("components.serving_check.probe", model, images, *map(str, limits))
    if ended.errors:
        logging.info("The process that tested the model wrote:\n%s", ended.errors)
    result = judge(ended, len(images), max_seconds, limits)
    onnx = Path(model) / ONNX
    if result.blessed and onnx.is_file():
        _, _, *alone, _, _ = map(json.loads, ended.output.splitlines())
        latex = [answer["latex"][0] for answer in alone]
        result = dataclasses.replace(result, reason=check_onnx(onnx, images, latex, sum(limits)))
    return result


def check_onnx(model: Path, images: Sequence[bytes], expected: Sequence[str], seconds: float) -> str:
    """Runs a model's ONNX file on images in a fresh process.

    Args:
        model: the ONNX file.
        images: encoded images, at least one.
        expected: the SavedModel's prediction for each image.
        seconds: timeout of the process, seconds.

    Returns:
        Why the file is rejected; "" if it is not.
    """
    try:
        ended = _run("components.serving_check.onnx_probe", str(model), images, seconds=seconds)
    except subprocess.TimeoutExpired:
        return f"the ONNX file's process was stopped after {seconds:g} s"
    if ended.status:
        return f"the ONNX file fails: {_last_error(ended) or f'its process ended with {ended.status}'}"
    predictions = json.loads(ended.output)
    differing = sum(prediction != expectation for prediction, expectation in zip(predictions, expected, strict=True))
    if differing > max(1, len(images) // TIES):
        return f"the ONNX file reads {differing} of {len(images)} images differently from the SavedModel"
    return ""


def judge(ended: Ended, images: int, max_seconds: float, limits: tuple[float, float]) -> CheckResult:
    """Checks the probe's output.

    Args:
        ended: the probe's process.
        images: number of images that it was given.
        max_seconds: maximum median time for one image, seconds.
        limits: time limits for loading and for all answers, seconds.
    """
    # The keys of each expected line; see probe.py.
    answer = {"latex", "log_probability", "seconds"}
    expected = [{"seconds_to_load"}, *[answer] * (images + 2), {"peak_memory"}]
    events: list[dict[str, Any]] = []
    for line in ended.output.splitlines():
        event = _event(line)
        if len(events) == len(expected) or set(event) != expected[len(events)]:
            return CheckResult(f"the model's process printed {_short(line)!r} {_stage(len(events), images)}")
        events.append(event)
    to_load = events[0]["seconds_to_load"] if events else None
    if ended.status or len(events) < len(expected):
        return CheckResult(_failure(ended, _stage(len(events), images), limits[1 if events else 0]), to_load)
    _, _, *alone, batched, memory = events
    seconds = [event["seconds"] for event in alone]
    median = statistics.median(seconds)
    reason = _inconsistency(events[1:-1], alone, batched)
    if not reason and median > max_seconds:
        reason = (
            f"the model takes {median:.3g} s an image (median of {images}), more than the {max_seconds:g} s allowed"
        )
    return CheckResult(reason, to_load, median, float(np.percentile(seconds, 99)), memory["peak_memory"])


def _run(probe: str, model: str, images: Sequence[bytes], *arguments: str, seconds: float | None = None) -> Ended:
    """Runs a probe's module on a model and images.

    Raises:
        subprocess.TimeoutExpired: the probe takes longer than `seconds`.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.json"
        file.write_text(json.dumps([base64.b64encode(image).decode() for image in images]))
        done = subprocess.run(
            [sys.executable, "-m", probe, model, str(file), *arguments],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
        )
    return Ended(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def _environment() -> dict[str, str]:
    """Returns this process's environment without the variables that configure TensorFlow and Keras, as in a server.

    The probe runs on the CPU: it measures the slowest case, and the pipeline's process may hold all GPU memory.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "KERAS_", "XLA_"))}
    # Quiet, so that the last line of stderr is about the failure: TensorFlow's import logs harmless errors.
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    return variables | quiet | {"PYTHONPATH": python_path(), "CUDA_VISIBLE_DEVICES": "-1"}


def _event(line: str) -> dict[str, Any]:
    """Parses a line of the probe's output; returns {} if it is not a JSON object."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _stage(events: int, images: int) -> str:
    """Names what the probe was doing after it had printed `events` lines."""
    if events == 0:
        return "while loading"
    if events == 1:
        return "at the first answer"
    if events <= images + 1:
        return f"at image {events - 1} of {images}"
    return f"at all {images} images in one batch" if events == images + 2 else "after the last answer"


def _failure(ended: Ended, stage: str, limit: float) -> str:
    """Describes the failure of a process that ended early."""
    if ended.status == -signal.SIGALRM:
        return f"the model's process was stopped {stage}, after {limit:g} s"
    if ended.status < 0:
        text = f"the model's process was killed by {signal.Signals(-ended.status).name} {stage}"
    elif ended.status > 0:
        text = f"the model failed {stage}"
    else:
        text = f"the model ended its process {stage}"
    last = _last_error(ended)
    return f"{text}: {last}" if last else text


def _last_error(ended: Ended) -> str:
    """Returns the last line of stderr that is about an error; "" if there is none."""
    lines = [line for line in ended.errors.split("\n") if line.strip() and not NO_ERROR.match(line)]
    return _short(lines[-1]) if lines else ""


def _inconsistency(answers: Sequence[dict[str, Any]], alone: Sequence[dict[str, Any]], batched: dict[str, Any]) -> str:
    """Describes what is wrong with complete answers; "" if nothing is."""
    images = len(alone)
    for answer in answers:
        expected = images if answer is batched else 1
        for name in ("latex", "log_probability"):
            if len(answer[name]) != expected:
                return f"the model gives {len(answer[name])} values of {name} to a batch of {expected}"
    probabilities = [value for answer in answers for value in answer["log_probability"]]
    invalid = [value for value in probabilities if not -math.inf < value <= 0]  # also catches NaN
    if invalid:
        return (
            f"{len(invalid)} of {len(probabilities)} answers of the model have a log-probability that is not finite, "
            f"or above 0, such as {invalid[0]:g}"
        )
    pairs = zip(alone, batched["latex"], strict=True)
    differing = sum(answer["latex"] != [latex] for answer, latex in pairs)
    if differing > max(1, images // TIES):
        return f"the model reads {differing} of {images} images differently alone and in a batch"
    return ""


def _short(text: str) -> str:
    return textwrap.shorten(text, MESSAGE_LENGTH, placeholder=" …")
