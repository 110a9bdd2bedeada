from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.serving_check.fresh_process import Ended, judge
from components.serving_check.probe import answer, load
from tests.components.serving_check import models


def test_a_missing_signature_is_reported_with_the_existing_ones(tmp_path: Path) -> None:
    model = models.save(tmp_path / "model", models.sure, "serving_default")
    with pytest.raises(SystemExit, match="^there is no signature predict_images among serving_default$"):
        load(str(model))


def test_outputs_of_another_type_or_rank_are_reported(tmp_path: Path) -> None:
    model = models.save(tmp_path / "model", models.other_types)
    with pytest.raises(SystemExit, match=r"log_probability as float32 of rank 1, and gives .*\('float32', 2\)"):
        load(str(model))


def test_a_batch_is_answered_with_its_duration(tmp_path: Path) -> None:
    signature, seconds = load(str(models.save(tmp_path / "model", models.sure)))
    got = answer(signature, [b"one", b"two"])
    assert got.pop("seconds") > 0
    assert got == {"latex": ["x", "x"], "log_probability": [-1.0, -1.0]}
    assert seconds > 0


def test_a_text_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    signature, _ = load(str(models.save(tmp_path / "model", models.latin_1)))
    with pytest.raises(UnicodeDecodeError):
        answer(signature, [b"image"])


def test_a_probability_that_is_nan_is_refused(tmp_path: Path) -> None:
    signature, _ = load(str(models.save(tmp_path / "model", models.not_a_number)))
    got: Any = answer(signature, [b"image"])
    output = [{"seconds_to_load": 1.0}, got, got, got, {"peak_memory": 1}]
    ended = Ended(0, "".join(json.dumps(event) + "\n" for event in output), "")
    assert "3 of 3 answers" in judge(ended, 1, 1.0, (1.0, 1.0)).reason
    assert judge(ended, 1, 1.0, (1.0, 1.0)).reason.endswith("such as nan")
