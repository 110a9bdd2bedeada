from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import load_config

pytestmark = pytest.mark.integration

HEAVY = ("tensorflow", "keras", "tfx", "apache_beam", "ml_metadata")


def im2latex(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        capture_output=True, text=True, timeout=120, env={**os.environ, "NO_COLOR": "1", **environment},
    )  # fmt: skip


def test_help_takes_less_than_a_second_and_imports_nothing_heavy() -> None:
    im2latex("--help")  # compiles changed modules
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = im2latex("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert answer.returncode == 0
    # CPU time, because wall time depends on the load of the machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    loaded = subprocess.run(
        [sys.executable, "-c", "import pipeline.cli, pipeline.running.launch, sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert not set(HEAVY) & set(loaded)


def test_config_show_prints_toml_that_reads_back_to_the_same_configuration(tmp_path: Path) -> None:
    shown = im2latex("config", "show", "--preset", "small", "--set", "training.epochs=3", "--toml")
    assert shown.returncode == 0, shown.stderr
    file = tmp_path / "shown.toml"
    file.write_text(shown.stdout, encoding="utf-8")
    assert load_config(path=file) == load_config("small", settings=["training.epochs=3"])


def test_version_prints_the_versions_of_the_main_packages() -> None:
    answer = im2latex("--version")
    assert answer.returncode == 0
    names = [part.partition(" ")[0] for part in answer.stdout.split(", ")]
    assert names == ["im2latex", "tfx", "tensorflow", "keras", "Python"]


def test_config_show_prints_the_help_of_each_knob() -> None:
    shown = im2latex("config", "show", "--set", "training.epochs=3", COLUMNS="160")
    assert re.search(r"training\.epochs\s+3\s+passes over the training examples", shown.stdout), shown.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "--set", "training.epoch=3"), "did you mean training.epochs"),
        (("run", "--to", "Trainr"), "did you mean Trainer?"),
        (("run", "--from", "Resolver"), "there is no component 'Resolver'"),
        (("run", "--set", "data.source=nowhere"), "nowhere; `im2latex data import` makes one"),
        (("run", "--set", "training.start_from=nowhere"), "training.start_from: there is no file or folder nowhere;"),
        (("config", "show", "--config", "nowhere.toml"), "nowhere.toml: No such file or directory; check the path"),
        (("data", "check", "nowhere"), "nowhere does not exist; give the folder of a data set"),
        (
            ("config", "show", "--preset", "huge"),
            "there are image2latex-tf2, paper, paper-coarse-to-fine, quickstart, reader, small",
        ),
    ],
)
def test_an_error_is_one_sentence_and_status_1(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    answer = im2latex(*arguments, IM2LATEX_HOME=str(tmp_path))
    assert answer.returncode == 1
    assert sentence in answer.stderr
    assert answer.stderr.startswith("im2latex: ") and answer.stderr.count("\n") == 1
    assert answer.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("evaluate",), "missing option '--data'; see `im2latex evaluate --help`"),
        (("data", "draw"), "missing argument 'FORMULAS'; see `im2latex data draw --help`"),
        (("frobnicate",), "no such command 'frobnicate'; see `im2latex --help`"),
        (("run", "--form", "x"), "no such option: --form (Possible options: --from, --to); see `im2latex run --help`"),
        (
            ("export", "--out", "x", "--format", "y"),
            "invalid value for '--format': 'y' is not one of 'savedmodel', 'weights', 'onnx', 'web'; "
            "see `im2latex export --help`",
        ),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_status_2(arguments: tuple[str, ...], sentence: str) -> None:
    answer = im2latex(*arguments)
    assert (answer.returncode, answer.stdout, answer.stderr) == (2, "", f"im2latex: {sentence}\n")


def test_a_group_without_a_command_prints_its_help_and_status_2() -> None:
    answer = im2latex("data")
    assert answer.returncode == 2
    assert "Make, import and check data sets" in answer.stdout + answer.stderr
    assert "see `im2latex data --help`" not in answer.stderr
