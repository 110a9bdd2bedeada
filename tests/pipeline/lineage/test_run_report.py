from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import pytest

from components.evaluator.summary import CANDIDATE
from components.metadata import ABSENT, CACHED, FAILED, RAN
from im2latex.errors import UserError
from pipeline.config import load_config, to_toml
from pipeline.config.sections import COMPONENTS
from pipeline.lineage.run_report import read_run, write_report
from pipeline.lineage.store import read
from pipeline.workspace import Workspace
from tests.components.report import history
from tests.components.report.conftest import records, write_data, write_evaluation, write_examples
from tests.components.report.history import History

FIRST, SECOND, THIRD = (f"2020-01-0{day}T10:00:05.123456" for day in (1, 2, 3))
LOG = """I1 started
Traceback (most recent call last):
  File "a.py", line 1, in run
    raise UserError(
im2latex.errors.UserError: the first one was caught
W2 went on
Traceback (most recent call last):
  File "b.py", line 1, in train
    raise UserError(
im2latex.errors.UserError: the training diverged; lower it

"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Three runs: one with a refused model, one that failed in training, one that another command started."""
    monkeypatch.setenv("IM2LATEX_HOME", str(tmp_path / "home"))
    workspace = Workspace.from_environment()
    workspace.logs.mkdir(parents=True)
    test = records(6, 3, "test")
    splits = {"train": records(8, 4, "train"), "eval": test[:2], "test": test}
    write_data(tmp_path / "data", splits)
    write_examples(tmp_path / "examples", splits)
    write_evaluation(tmp_path / "evaluation", test, {CANDIDATE: ["x"] * 6}, ["bleu >= 0.5"])
    past = History(workspace.metadata, "formulas")
    examples = past.artifact("Examples", tmp_path / "examples")
    evaluation = past.artifact("ModelEvaluation", tmp_path / "evaluation")
    blessing = past.artifact("ModelBlessing", tmp_path, blessed=0)
    past.execution(FIRST, "ImportExampleGen", outputs={"examples": examples}, input_base=str(tmp_path / "data"))
    outputs = {"evaluation": evaluation, "blessing": blessing}
    past.execution(FIRST, "Evaluator", outputs=outputs, inputs=[examples], split="test")
    past.execution(SECOND, "ImportExampleGen", history.CACHED, {"examples": examples})
    past.execution(SECOND, "Trainer", history.FAILED, inputs=[examples])
    settings = json.dumps([["training.epochs", 7, "passes"]])
    past.execution(THIRD, "Reporter", history.FAILED, settings=settings)
    (workspace.logs / "run-20200101-100000.log").write_text("fine\n", "utf-8")
    (workspace.logs / "run-20200102-100000.log").write_text(LOG, "utf-8")
    config = load_config("small", settings=["training.epochs=3"])
    # A knob that was removed.
    (workspace.logs / "run-20200102-100000.toml").write_text(to_toml(config) + "\n[old]\nknob = 1\n", "utf-8")
    return workspace


def run(workspace: Workspace, run_id: str):
    return read(workspace, lambda store: read_run(store, run_id, workspace))


def test_the_report_of_the_last_run_is_the_default(workspace: Workspace) -> None:
    file = write_report(None, None, show=False)
    assert file == workspace.home / "reports" / "2020-01-03T10-00-05.123456.html"
    page = file.read_text("utf-8")
    assert "Reporter failed" in page and "training.epochs" in page


def test_a_run_is_named_by_the_beginning_of_its_id(workspace: Workspace, tmp_path: Path) -> None:
    file = write_report("2020-01-01", tmp_path / "here.html", show=False)
    page = file.read_text("utf-8")
    assert file == tmp_path / "here.html"
    assert "<title>Not blessed · formulas</title>" in page and f"run {FIRST}" in page
    assert "is below 0.5" in page
    assert "There is no model: the run did not reach it." in page


@pytest.mark.parametrize(
    ("run_id", "sentence"),
    [
        ("2019", f"no runs in .* begin with '2019'; the last ones are {FIRST}, {SECOND}, {THIRD}"),
        ("2020", f"3 runs in .* begin with '2020'; the last ones are {FIRST}, {SECOND}, {THIRD}"),
    ],
)
def test_an_unknown_or_ambiguous_run_is_refused_with_a_list(workspace: Workspace, run_id: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        write_report(run_id, None, show=False)


def test_a_workspace_without_runs_says_what_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IM2LATEX_HOME", str(tmp_path))
    with pytest.raises(UserError, match="there are no runs in .*; `im2latex run` makes one"):
        write_report(None, None, show=False)
    History(tmp_path / "metadata.sqlite")
    with pytest.raises(UserError, match="there are no runs in .*; `im2latex run` makes one"):
        write_report(None, None, show=False)


def test_a_run_that_failed_is_read_with_its_log_and_its_configuration(workspace: Workspace) -> None:
    reported = run(workspace, SECOND)
    assert reported.pipeline == "formulas" and reported.failed == "Trainer"
    assert reported.failure == "the training diverged; lower it"
    assert reported.log == str(workspace.logs / "run-20200102-100000.log")
    states = {step.component: step.state for step in reported.steps or ()}
    assert states == {name: ABSENT for name in COMPONENTS} | {"ImportExampleGen": CACHED, "Trainer": FAILED}
    assert reported.data is not None and Path(reported.data).name == "data"  # the input of the original execution
    settings = {setting.knob: setting for setting in reported.settings or ()}
    assert settings["training.epochs"].value == 3
    assert settings["training.epochs"].help == "passes over the training examples"
    assert (settings["old.knob"].value, settings["old.knob"].help) == (1, "")


def test_a_successful_run_has_no_log_in_its_report(workspace: Workspace) -> None:
    reported = run(workspace, FIRST)
    assert (reported.log, reported.failure, reported.failed) == ("", "", "")
    assert [step.state for step in reported.steps or ()][:2] == [RAN, RAN]
    assert reported.split == "test" and reported.settings is None  # there is no configuration next to that log


def test_a_run_of_another_command_does_not_get_the_log_of_an_earlier_run(workspace: Workspace) -> None:
    reported = run(workspace, THIRD)
    assert (reported.log, reported.failure) == ("", "")
    assert [(setting.knob, setting.value) for setting in reported.settings or ()] == [("training.epochs", 7)]


def test_reading_changes_nothing_in_the_store(workspace: Workspace) -> None:
    before = workspace.metadata.read_bytes()
    write_report(None, None, show=False)
    assert workspace.metadata.read_bytes() == before


def test_open_shows_the_report_in_the_browser(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    file = write_report("2020-01-02", None, show=True)
    assert opened == [file.as_uri()]


def test_logs_are_those_of_local_runs(workspace: Workspace) -> None:
    clustered = "e1f763f1-2d48-4c4d-8c36-d42ae5234680"
    past = History(workspace.metadata, "formulas")
    past.execution(clustered, "Trainer", history.FAILED)
    past.execution("2020-01-05T10:00:05.123456", "Trainer", history.FAILED)
    (workspace.logs / "run-20200105-100000.log").write_text(LOG, "utf-8")
    assert run(workspace, clustered).log == ""
    assert run(workspace, "2020-01-05T10:00:05.123456").log.endswith("run-20200105-100000.log")
