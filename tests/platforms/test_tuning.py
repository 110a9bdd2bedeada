"""The command `im2latex run` with tuning, on a reduced quickstart."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.report.curves import read_epochs
from pipeline.config.sections import COMPONENTS, TUNER, WITH_TUNER
from tests.project import SETTINGS, Project
from trainer_module.features import DESCRIPTION

# The learning rate is constant, so that the log has the Trainer's.
CONSTANT = SETTINGS.replace("[training]", '[training]\nwarmup_steps = 0\nschedule = "constant"')
TUNING = f"""{CONSTANT}
[tuning]
trials = 3
epochs = 1
examples = 16
width = [0.5, 2.0]
"""


def artifact(project: Project, component: str, key: str) -> Path:
    (folder,) = (project.home / "pipeline_root" / component / key).iterdir()
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, list[str]]:
    """A run that was killed after the first trial, and the lines of its trials."""
    project = Project.of(tmp_path_factory.mktemp("project"), TUNING)
    running = subprocess.Popen(
        project.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**project.environment(), "PYTHONUNBUFFERED": "1"}, start_new_session=True,
    )  # fmt: skip
    assert running.stdout is not None
    trials = []
    for line in running.stdout:
        if line.startswith("Trial "):
            trials.append(line.rstrip())
            break
    else:
        pytest.fail("the run ended before its first trial")
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    return project, trials


@pytest.fixture(scope="module")
def tuned(killed: tuple[Project, list[str]]) -> tuple[Project, str]:
    """The same run to its end, and its output."""
    project, _ = killed
    done = project.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return project, done.stdout


def test_a_killed_search_continues_with_the_trials_that_it_has_finished(
    killed: tuple[Project, list[str]], tuned: tuple[Project, str]
) -> None:
    trials = re.findall(r"^Trial .*$", tuned[1], re.MULTILINE)
    assert [trial[:12] for trial in trials] == ["Trial 1 of 3", "Trial 2 of 3", "Trial 3 of 3"]
    assert trials[:1] == killed[1]  # with the seconds of the killed run
    assert list((tuned[0].home / "checkpoints").iterdir()) == []


def test_the_trainer_uses_the_best_hyperparameters(tuned: tuple[Project, str]) -> None:
    project, output = tuned
    best, *_ = json.loads((artifact(project, TUNER, "tuner_results") / "tuner_results.json").read_text("utf-8"))
    (version,) = project.versions()
    described = json.loads((project.home / "serving" / "im2latex" / version / DESCRIPTION).read_text("utf-8"))
    assert best["width"] in (0.5, 2.0)
    assert described["model"]["filters"] == [round(best["width"] * filters) for filters in (4, 8, 8, 8, 8, 8)]
    assert described["model"]["decoder_units"] == 16 * best["width"]
    assert described["model"]["dropout"] == best["dropout"]
    (epoch,) = read_epochs(artifact(project, "Trainer", "model_run") / "logs")
    assert epoch.learning_rate == pytest.approx(best["learning_rate"], rel=1e-6)
    words = f"learning rate {best['learning_rate']:.3g}, width {best['width']:.3g}, dropout {best['dropout']:.3g}"
    line = f"best of 3 trials: {words}: perplexity {best['score']:.4f}"
    assert re.search(rf"^Tuner +\d.*  {re.escape(line)}$", output, re.MULTILINE), output
    assert re.search(rf"^tuning +{re.escape(line)} *$", output, re.MULTILINE), output  # in the summary


def test_every_component_ran_and_the_report_has_the_trials(tuned: tuple[Project, str]) -> None:
    project, _ = tuned
    complete = [name for name, state in project.executions() if state == "COMPLETE"]
    assert sorted(set(complete)) == sorted(WITH_TUNER)
    report = (artifact(project, "Reporter", "report") / "report.html").read_text(encoding="utf-8")
    assert "<caption>Trials</caption>" in report and '<th scope="row">Tuner</th>' in report


def test_the_lineage_of_the_model_names_the_hyperparameters(tuned: tuple[Project, str]) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "lineage"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, env=tuned[0].environment())
    assert shown.returncode == 0, shown.stderr
    words = r"best of 3 trials: learning rate [\d.e-]+, width [\d.]+, dropout [\d.]+: perplexity"
    assert re.search(words, shown.stdout), shown.stdout


def test_a_second_run_takes_the_search_from_the_cache_and_one_without_has_no_tuner(tuned: tuple[Project, str]) -> None:
    project, before = tuned[0], len(tuned[0].executions())
    again = project.run()
    assert again.returncode == 0, again.stderr
    assert dict(project.executions()[before:]) == dict.fromkeys(WITH_TUNER, "CACHED")
    assert "best of 3 trials" in again.stdout and "Trial 1" not in again.stdout
    before = len(project.executions())
    without = project.run("--set", "tuning.trials=0", "--to", "Transform")
    assert without.returncode == 0, without.stderr
    assert {name for name, _ in project.executions()[before:]} == set(COMPONENTS[:5])
