"""Which model serves after real runs with a good model, then a worse one, then a better one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.evaluator.summary import BASELINE, CANDIDATE, read_evaluation
from components.serving_folder import versions
from tests.end_to_end.test_run import fields
from tests.project import Project

pytestmark = pytest.mark.one_stack

SETTINGS = """
preset = "quickstart"

[data]
train = 320
eval = 16
test = 32
level = "digits"
max_tokens = 6

[model]
filters = [8, 8, 16, 16, 32, 32]
decoder_units = 32
embedding_units = 8

[training]
epochs = 5
batch_size = 16
learning_rate = 0.01
warmup_steps = 10
max_tokens = 12

# Models of this size first learn to predict any number.
[evaluation]
gate = ["edit_similarity >= 0.1", "edit_similarity >= baseline", "edit_similarity >= 0 where picture=photo"]
robustness = 4
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.of(tmp_path_factory.mktemp("gate"), SETTINGS)


def latest(project: Project, component: str, output: str) -> Path:
    return max((project.home / "pipeline_root" / component / output).iterdir(), key=lambda path: int(path.name))


def test_a_worse_model_never_replaces_a_better_one(project: Project) -> None:
    good = project.run()
    assert good.returncode == 0, good.stderr
    (first,) = project.versions()
    assert fields(good.stdout)["kinds of pictures"].startswith("BLEU ")

    worse = project.run("--set", "training.learning_rate=1e-9")
    assert worse.returncode == 3, worse.stderr
    assert project.versions() == [first]
    evaluation = read_evaluation(latest(project, "Evaluator", "evaluation"))
    value, bound = (evaluation.slices[""][model]["edit_similarity"] for model in (CANDIDATE, BASELINE))
    assert value < bound and evaluation.models[BASELINE]["version"] == first
    assert [verdict.passed for verdict in evaluation.gate] == [False, False, True]
    assert evaluation.pictures["photo"]["examples"] == 4 and BASELINE in evaluation.pictures["photo"]
    refused = fields(worse.stdout)["blessed"]
    assert f"is below {bound:.3f}".rstrip("0") in refused and "of the model serving now" in refused

    # A model with another vocabulary is compared like any other, with a note.
    better = project.run("--set", "training.epochs=40", "--set", "vocabulary.min_count=40")
    assert better.returncode == 0, better.stderr
    line = next(line for line in better.stdout.splitlines() if line.startswith("Evaluator"))
    assert re.search(r"blessed; this model knows \d+ tokens, the one serving now \d+, not the same", line), line
    assert len(project.versions()) == 2 and project.versions()[0] == first
    evaluation = read_evaluation(latest(project, "Evaluator", "evaluation"))
    assert evaluation.slices[""][CANDIDATE]["edit_similarity"] > evaluation.slices[""][BASELINE]["edit_similarity"]
    assert evaluation.slices[""][BASELINE]["edit_similarity"] == bound
    # The new model serves, so it is the baseline for a third.
    assert fields(better.stdout)["pushed to"].endswith(project.versions()[1])


def test_a_withdrawn_version_is_not_pushed_again_until_it_is_restored(project: Project) -> None:
    first, second = project.versions()
    serving = project.home / "serving" / "im2latex"
    again = ("--set", "training.epochs=40", "--set", "vocabulary.min_count=40")

    def rollback(*arguments: str) -> str:
        command = [sys.executable, "-m", "pipeline.cli", "rollback", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=project.environment())
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert rollback().startswith(f"version {first} serves now; {second} was withdrawn; ")
    withheld = project.run(*again)
    assert withheld.returncode == 3, withheld.stderr
    assert fields(withheld.stdout)["pushed to"].startswith(f"not pushed: it is version {second}, which was withdrawn")
    assert versions(serving) == [int(first)]
    assert rollback("--to", second) == f"version {second} serves now; it had been withdrawn\n"
    pushed = project.run(*again)
    assert pushed.returncode == 0, pushed.stderr
    assert fields(pushed.stdout)["pushed to"] == str(serving / second)
    assert project.versions() == [first, second]


def test_a_damaged_serving_model_is_skipped_with_a_message(project: Project) -> None:
    first, second = project.versions()
    serving = project.home / "serving" / "im2latex"
    shutil.rmtree(serving / second / "variables")
    run = project.run(
        "--set", "training.epochs=40", "--set", "vocabulary.min_count=40", "--set", "serving.check_images=4"
    )
    assert run.returncode == 0, run.stderr
    line = next(line for line in run.stdout.splitlines() if line.startswith("Baseline"))
    assert f"version {first} is serving; version {second} cannot be used: " in line
    checked = json.loads((latest(project, "ServingCheck", "blessing") / "result.json").read_text())
    assert checked["blessed"] and checked["seconds_per_image"] > 0
