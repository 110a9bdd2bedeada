from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.serving_check import fresh_process
from components.serving_check.fresh_process import CheckResult, Ended, check_onnx, check_serving, judge
from data.repository import REPOSITORY
from im2latex.models import ONNX
from tests.components.serving_check import models

LIMITS = (300.0, 70.0)


def lines(*events: Any) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


def answer(*latex: str, seconds: float = 0.1, log_probability: float = -1.0) -> dict[str, Any]:
    return {"latex": list(latex), "log_probability": [log_probability] * len(latex), "seconds": seconds}


def events(first: dict[str, Any], alone: list[dict[str, Any]], together: dict[str, Any]) -> str:
    """Returns the output of a probe that succeeds."""
    return lines({"seconds_to_load": 1.5}, first, *alone, together, {"peak_memory": 4096})


# Three images that are read correctly.
ALONE = [answer("x", seconds=0.1), answer("y", seconds=0.2), answer("z", seconds=0.9)]
GOOD = events(answer("x", seconds=30.0), ALONE, answer("x", "y", "z", seconds=20.0))


def verdict(output: str, status: int = 0, errors: str = "", max_seconds: float = 0.2) -> CheckResult:
    return judge(Ended(status, output, errors), 3, max_seconds, LIMITS)


def test_times_exclude_the_warm_up_and_the_batch() -> None:
    got = verdict(GOOD)
    assert got.blessed
    assert (got.seconds_to_load, got.seconds_per_image, got.peak_memory) == (1.5, 0.2, 4096)
    # Between the second and the third of three at 0.99 * 2 = 1.98.
    assert got.seconds_per_image_p99 == pytest.approx(0.2 + 0.98 * 0.7)


def test_a_median_above_the_bound_is_refused_with_the_measurements() -> None:
    got = verdict(GOOD, max_seconds=0.15)
    assert got.reason == "the model takes 0.2 s an image (median of 3), more than the 0.15 s allowed"
    assert not got.blessed
    assert got.seconds_per_image == 0.2


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (events(answer("x"), ALONE, answer("x", "z", "y")), "reads 2 of 3 images differently alone and in a batch"),
        (events(answer("x"), ALONE, answer("x")), "gives 1 values of latex to a batch of 3"),
        (events(answer("x"), [*ALONE[:2], answer()], answer("x", "y", "z")), "gives 0 values of latex to a batch of 1"),
        (
            events(answer("x"), [*ALONE[:2], answer("z", log_probability=0.5)], answer("x", "y", "z")),
            "1 of 7 answers of the model have a log-probability that is not finite, or above 0, such as 0.5",
        ),
        (events(answer("x", log_probability=-float("inf")), ALONE, answer("x", "y", "z")), "such as -inf"),
    ],
)
def test_an_invalid_answer_is_refused(output: str, reason: str) -> None:
    assert reason in verdict(output).reason


@pytest.mark.parametrize(
    ("told_lines", "stage"),
    [
        (0, "while loading"),
        (1, "at the first answer"),
        (2, "at image 1 of 3"),
        (4, "at image 3 of 3"),
        (5, "at all 3 images in one batch"),
        (6, "after the last answer"),
    ],
)
def test_a_crash_is_refused_with_the_stage(told_lines: int, stage: str) -> None:
    output = "".join(GOOD.splitlines(keepends=True)[:told_lines])
    errors, last = "a warning\nValueError: no luck\n\n", "ValueError: no luck"
    assert verdict(output, 1, errors).reason == f"the model failed {stage}: {last}"
    assert verdict(output, -11, errors).reason == f"the model's process was killed by SIGSEGV {stage}: {last}"
    assert verdict(output, 0).reason == f"the model ended its process {stage}"
    limit = 300 if stage == "while loading" else 70
    assert verdict(output, -14).reason == f"the model's process was stopped {stage}, after {limit} s"
    assert verdict(output, 1).seconds_to_load == (1.5 if told_lines else None)


def test_a_process_that_fails_after_all_answers_is_refused() -> None:
    assert verdict(GOOD, -6, "double free").reason == (
        "the model's process was killed by SIGABRT after the last answer: double free"
    )


@pytest.mark.parametrize("nonsense", ["hello", "", "[1]", '{"seconds_to_load": 1.5}', "{"])
def test_unexpected_output_is_refused_and_quoted(nonsense: str) -> None:
    before, after = GOOD.splitlines(keepends=True)[:3], GOOD.splitlines(keepends=True)[3:]
    got = verdict("".join([*before, nonsense + "\n", *after]))
    assert got.reason == f"the model's process printed {nonsense!r} at image 2 of 3"
    assert not verdict(GOOD + nonsense + "\n").blessed


NATIVE = """WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1.2   17920 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not be used.
W0000 00:00:1.2   17920 gpu_device.cc:2433] TensorFlow was not built with CUDA kernel binaries
{}*** Check failure stack trace: ***
    @     0x7f85e3d1d314  absl::lts_20250814::log_internal::LogMessage::SendToLog()
    @     0x7f85e512a8bb  (unknown)
"""
FATAL = "F0000 00:00:1.3 17932 tensor.cc:1] Check failed: size > 0"


@pytest.mark.parametrize(("line", "last"), [(f"{FATAL}\n", f": {FATAL}"), ("", "")])
def test_the_reason_is_the_last_native_error_without_its_stack(line: str, last: str) -> None:
    reason = verdict("", -6, NATIVE.format(line)).reason
    assert reason == "the model's process was killed by SIGABRT while loading" + last


def test_a_long_message_is_cut() -> None:
    assert len(verdict("", 1, "word " * 1000).reason) < 400


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("kill -9 $$", "the model's process was killed by SIGKILL while loading"),
        ("exit 0", "the model ended its process while loading"),
        (r"printf 'caf\351 au lait'", "the model's process printed 'caf\ufffd au lait' while loading"),
        ("echo first >&2; echo last >&2; exit 3", "the model failed while loading: last"),
    ],
)
def test_every_outcome_of_a_process_gives_a_result(
    script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.replace_python(tmp_path, monkeypatch, script)
    assert check_serving("model", [b"image"], 1.0) == CheckResult(reason)


def test_the_process_does_not_inherit_variables_of_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    monkeypatch.setenv("HTTPS_PROXY", "kept")
    monkeypatch.setenv("PYTHONPATH", "/also")
    models.replace_python(tmp_path, monkeypatch, f'env > "{tmp_path}/variables"; exit 1')
    check_serving("model", [b"image"], 1.0)
    variables = dict(line.partition("=")[::2] for line in (tmp_path / "variables").read_text().splitlines())
    assert not {"TF_NUM_INTRAOP_THREADS", "TF_USE_LEGACY_KERAS"} & set(variables)
    assert variables["HTTPS_PROXY"] == "kept"
    assert variables["PYTHONPATH"] == f"{REPOSITORY}:/also"
    assert variables["CUDA_VISIBLE_DEVICES"] == "-1"


def test_the_time_limit_follows_from_the_images_and_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models.replace_python(tmp_path, monkeypatch, f'echo "$@" > "{tmp_path}/arguments"; exit 1')
    check_serving("model", [b"image"] * 20, 0.5)
    loading, answering = (tmp_path / "arguments").read_text().split()[-2:]
    assert float(loading) == 300
    assert float(answering) == 60 + 10 * 0.5 * 40  # each image alone, and all of them again


@pytest.mark.integration
def test_a_model_with_truncated_variables_is_refused(tmp_path: Path) -> None:
    model = models.save(tmp_path / "model", models.sure)
    (data,) = model.glob("variables/*.data-*")
    data.write_bytes(data.read_bytes()[:-1])
    got = check_serving(str(model), [b"image"], 1.0)
    assert re.match(r"the model failed while loading: \w+Error: .", got.reason), got.reason
    assert got.seconds_to_load is None


@pytest.mark.integration
def test_a_model_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_process, "FIRST_ANSWER_SECONDS", 0.0)
    got = check_serving(str(models.save(tmp_path / "model", models.hangs)), [b"image"], 0.05)
    assert got.reason == "the model's process was stopped at the first answer, after 1 s"
    assert got.seconds_to_load is not None


@pytest.mark.integration
def test_a_model_that_kills_its_process_is_refused(tmp_path: Path) -> None:
    got = check_serving(str(models.save(tmp_path / "model", models.dies)), [b"image"], 1.0)
    assert re.match("the model's process was killed by SIGABRT at the first answer: .*out of luck", got.reason)


@pytest.mark.integration
def test_an_onnx_file_that_differs_from_the_savedmodel_is_refused(tmp_path: Path) -> None:
    images = models.draw(4)
    models.save_reader(tmp_path / "model")
    assert check_serving(str(tmp_path / "model"), images, 10.0).blessed
    file = tmp_path / "model" / ONNX
    assert check_onnx(file, images, ["x", "y", "z", "x y"], 60.0) == (
        "the ONNX file reads 4 of 4 images differently from the SavedModel"
    )
    assert check_onnx(file, images, [""] * 4, 0.01) == "the ONNX file's process was stopped after 0.01 s"
    file.write_bytes(file.read_bytes()[:1000])
    got = check_serving(str(tmp_path / "model"), images, 10.0)
    assert got.reason.startswith("the ONNX file fails: ") and str(file) in got.reason
    assert got.seconds_per_image is not None
