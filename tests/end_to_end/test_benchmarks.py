"""Smoke tests: every benchmark runs with its smallest size, on synthetic formulas. The figures are not checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf

from tests.benchmarks import __main__ as bench
from tests.benchmarks import sample, size
from tests.benchmarks.cases import CASES, measure
from tests.benchmarks.measuring import Size
from tests.components.serving_check.models import save_reader
from trainer_module.config.model import ModelConfig

pytestmark = pytest.mark.one_stack

SMALLEST = Size(ModelConfig(filters=(4, 4, 8, 8, 8, 8), decoder_units=16, embedding_units=8), most=8, repeats=0)
OF_REAL_FORMULAS = {"training_mixed_sizes", "feeding", "decoding_greedy", "decoding_beam", "lookups"}
UNITS = {
    "GFLOP/s", "images/s", "answers/s", "answers", "cells", "pixels", "images", "formulas", "millionths", "ms", "s",
    "MiB", "%",
}  # fmt: skip
# Those that may be 0.
ZERO = {"%", "answers", "cells", "millionths"}


@pytest.fixture(autouse=True)
def eagerly() -> Iterator[None]:
    """Runs TensorFlow eagerly: so little is computed that tracing graphs would take most of the time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(autouse=True)
def no_real_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "SAMPLES", tmp_path / "missing")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a pushed model."""
    home = tmp_path_factory.mktemp("workspace")
    save_reader(home / "serving" / "im2latex" / "7")
    return home


def test_the_command_knows_every_case() -> None:
    assert set(bench.NAMES) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_every_case_runs_at_its_smallest(
    name: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IM2LATEX_HOME", str(workspace))
    figures = measure(name, SMALLEST)
    assert len(figures) > 1
    for label, figure in figures.items():
        assert figure.unit in UNITS, label
        assert math.isfinite(figure.value) and figure.value >= 0, label
        assert figure.value > 0 or figure.unit in ZERO, label
        assert figure.of_limit is None or figure.of_limit > 0, label
    assert all(figures[label].value == 0 for label in figures if label.endswith(", errors"))
    is_synthetic = "is missing; using synthetic formulas" in capsys.readouterr().out
    assert is_synthetic == (name in OF_REAL_FORMULAS)
    bench._table({label: list(figure) for label, figure in figures.items()})


def test_the_size_benchmark_runs_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "size.json"
    arguments = ["--examples", "40", "--work", str(tmp_path / "work"), "--to", "ImportExampleGen", "--json", str(out)]
    size.main(arguments)
    figures = json.loads(out.read_text())["figures"]["40"]
    assert set(figures) == {"ImportExampleGen", "the rest", "all"}
    assert figures["all"]["seconds"] > figures["ImportExampleGen"]["seconds"] > 0
    assert figures["all"]["memory"] > 100
    row = re.search(r"^ImportExampleGen +[\d.]+ +[\d.]+ +[\d,]+.*$", capsys.readouterr().out, re.MULTILINE)
    assert row

    with monkeypatch.context() as patch:
        patch.setattr(size, "measured", None)  # what was measured is not measured again
        size.main([*arguments, "--continue"])
    assert row[0] in capsys.readouterr().out
