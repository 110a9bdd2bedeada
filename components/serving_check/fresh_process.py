"""Runs the probes in fresh processes and judges their results."""

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

# As long as TFX's InfraValidator gives a server. TensorFlow's own import and a cold disk are part of it.
LOADING_SECONDS = 300.0
# TensorFlow prepares a graph when it first runs it.
FIRST_ANSWER_SECONDS = 60.0
# Half of the images may take longer than the bound, so the bound cannot be what ends the process.
PATIENCE = 10
# Of so many images one, or one of all, may be read differently in a batch or by ONNX Runtime: rounding decides where
# two tokens are equally likely.
TIES = 16
# TensorFlow's messages can be pages, characters.
MESSAGE_LENGTH = 300
# What native code logs that is no error: information, warnings, and the stack after one that ended the process.
NO_ERROR = re.compile(r"[IW]\d{4} |WARNING: |\*\*\* |\s*@ ")


@dataclass(frozen=True)
class CheckResult:
    """What a check came to; a measurement is None where the check did not get to it."""

    reason: str = ""  # why the model is refused; "" for a blessed one
    seconds_to_load: float | None = None
    seconds_per_image: float | None = None  # median, each image alone
    seconds_per_image_p99: float | None = None
    peak_memory: int | None = None  # bytes, of the whole process

    @property
    def blessed(self) -> bool:
        """Whether the model may be served."""
        return not self.reason


@dataclass(frozen=True)
class Ended:
    """How the probe's process ended: its exit status, negative for a signal, and what it wrote."""

    status: int
    output: str
    errors: str


def check_serving(model: str, images: Sequence[bytes], max_seconds: float) -> CheckResult:
    """Lets a SavedModel answer images in a fresh process, and its ONNX file, if it has one, in another.

    A model that cannot be loaded, or whose process fails, dies or hangs, is refused; nothing of it is raised. So is one
    whose ONNX file reads more than one of `TIES` images differently.

    Args:
        model: folder of the SavedModel.
        images: encoded, at least one.
        max_seconds: the bound on the median time to answer one image.
    """
    limits = (LOADING_SECONDS, FIRST_ANSWER_SECONDS + PATIENCE * max_seconds * 2 * len(images))
    ended = _run("components.serving_check.probe", model, images, *map(str, limits))
    if ended.errors:
        logging.info("The process that tried the model wrote:\n%s", ended.errors)
    result = judge(ended, len(images), max_seconds, limits)
    onnx = Path(model) / ONNX
    if result.blessed and onnx.is_file():
        _, _, *alone, _, _ = map(json.loads, ended.output.splitlines())
        latex = [answer["latex"][0] for answer in alone]
        result = dataclasses.replace(result, reason=check_onnx(onnx, images, latex, sum(limits)))
    return result


def check_onnx(model: Path, images: Sequence[bytes], expected: Sequence[str], seconds: float) -> str:
    """Lets a model's ONNX file read images in a fresh process.

    Args:
        model: the file.
        images: encoded, at least one.
        expected: what its SavedModel reads.
        seconds: the process is stopped after so many.

    Returns:
        Why the file is refused, or "".
    """
    try:
        ended = _run("components.serving_check.onnx_probe", str(model), images, seconds=seconds)
    except subprocess.TimeoutExpired:
        return f"the ONNX file's process was stopped after {seconds:g} s"
    if ended.status:
        return f"the ONNX file fails: {_last_error(ended) or f'its process ended with {ended.status}'}"
    found = json.loads(ended.output)
    differing = sum(one != other for one, other in zip(found, expected, strict=True))
    if differing > max(1, len(images) // TIES):
        return f"the ONNX file reads {differing} of {len(images)} images differently from the SavedModel"
    return ""


def judge(ended: Ended, images: int, max_seconds: float, limits: tuple[float, float]) -> CheckResult:
    """The verdict on what the probe told.

    Args:
        ended: the probe's process.
        images: how many it was given.
        max_seconds: the bound on the median time to answer one image.
        limits: seconds it had for loading and for all answers.
    """
    # The names in each line that is due: see probe.py.
    answer = {"latex", "log_probability", "seconds"}
    due = [{"seconds_to_load"}, *[answer] * (images + 2), {"peak_memory"}]
    events: list[dict[str, Any]] = []
    for line in ended.output.splitlines():
        event = _event(line)
        if len(events) == len(due) or set(event) != due[len(events)]:
            return CheckResult(f"the model's process printed {_short(line)!r} {_stage(len(events), images)}")
        events.append(event)
    to_load = events[0]["seconds_to_load"] if events else None
    if ended.status or len(events) < len(due):
        return CheckResult(_failure(ended, _stage(len(events), images), limits[1 if events else 0]), to_load)
    _, _, *alone, together, memory = events
    seconds = [event["seconds"] for event in alone]
    median = statistics.median(seconds)
    reason = _inconsistency(events[1:-1], alone, together)
    if not reason and median > max_seconds:
        reason = (
            f"the model takes {median:.3g} s an image (median of {images}), more than the {max_seconds:g} s allowed"
        )
    return CheckResult(reason, to_load, median, float(np.percentile(seconds, 99)), memory["peak_memory"])


def _run(probe: str, model: str, images: Sequence[bytes], *arguments: str, seconds: float | None = None) -> Ended:
    """Runs the module of a probe on a model and images.

    Raises:
        subprocess.TimeoutExpired: it takes longer than `seconds`.
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
    """This process's variables, without those that steer TensorFlow and Keras here and not in a server.

    No GPU: what a model needs at least is measured, and the pipeline's own process may hold all of the GPU's memory.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "KERAS_", "XLA_"))}
    # Quiet, so that the last line of stderr is about the failure: TensorFlow's import logs errors where all is well.
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    return variables | quiet | {"PYTHONPATH": python_path(), "CUDA_VISIBLE_DEVICES": "-1"}


def _event(line: str) -> dict[str, Any]:
    """A line of the probe, or nothing for one that is not the probe's."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _stage(events: int, images: int) -> str:
    """What the probe was doing after it told so many events."""
    if events == 0:
        return "while loading"
    if events == 1:
        return "at the first answer"
    if events <= images + 1:
        return f"at image {events - 1} of {images}"
    return f"at all {images} images in one batch" if events == images + 2 else "after the last answer"


def _failure(ended: Ended, stage: str, limit: float) -> str:
    """The clause for a process that did not come to its end."""
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
    """The last line that a process wrote of an error, or ""."""
    lines = [line for line in ended.errors.split("\n") if line.strip() and not NO_ERROR.match(line)]
    return _short(lines[-1]) if lines else ""


def _inconsistency(answers: Sequence[dict[str, Any]], alone: Sequence[dict[str, Any]], together: dict[str, Any]) -> str:
    """What is wrong with complete answers, or ""."""
    images = len(alone)
    for answer in answers:
        expected = images if answer is together else 1
        for name in ("latex", "log_probability"):
            if len(answer[name]) != expected:
                return f"the model gives {len(answer[name])} values of {name} to a batch of {expected}"
    probabilities = [value for answer in answers for value in answer["log_probability"]]
    wrong = [value for value in probabilities if not -math.inf < value <= 0]  # not a number is neither
    if wrong:
        return (
            f"{len(wrong)} of {len(probabilities)} answers of the model have a log-probability that is not finite, "
            f"or above 0, such as {wrong[0]:g}"
        )
    pairs = zip(alone, together["latex"], strict=True)
    differing = sum(answer["latex"] != [latex] for answer, latex in pairs)
    if differing > max(1, images // TIES):
        return f"the model reads {differing} of {images} images differently alone and in a batch"
    return ""


def _short(text: str) -> str:
    return textwrap.shorten(text, MESSAGE_LENGTH, placeholder=" …")
