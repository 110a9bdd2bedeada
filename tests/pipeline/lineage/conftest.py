from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from components.evaluator.gate import Verdict
from components.evaluator.summary import CANDIDATE, Evaluation
from pipeline.workspace import Workspace
from tests.components.report.history import CACHED, FAILED, History

FIRST, SECOND, THIRD = (f"2020-01-0{day}T10:00:05.123456" for day in (1, 2, 3))
KINDS = ("Artifact", "Execution")
VERSIONS = {FIRST: "1577872800", SECOND: "1577959200"}


@pytest.fixture(scope="session")
def three_runs(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_three_runs(tmp_path_factory.mktemp("three_runs"))


@pytest.fixture
def workspace(three_runs: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The workspace of `make_three_runs`, shared by all tests and read-only."""
    monkeypatch.setenv("IM2LATEX_HOME", str(three_runs.home))
    return three_runs


@pytest.fixture
def own_workspace(three_runs: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of that workspace for one test, which may change it; the addresses in the store are adapted."""
    before, after = str(three_runs.home.parent), str(tmp_path)
    shutil.copytree(before, after, dirs_exist_ok=True)
    copy = Workspace(tmp_path / "home")
    monkeypatch.setenv("IM2LATEX_HOME", str(copy.home))
    with sqlite3.connect(copy.metadata) as file:
        for table, column in (("Artifact", "uri"), *((f"{kind}Property", "string_value") for kind in KINDS)):
            file.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (before, after))
    file.close()
    return copy


def make_three_runs(folder: Path) -> Workspace:
    """Creates a workspace with three runs.

    The first executed all components. The second took the examples from the cache, trained a model, and compared it
    with the first's. The third failed in training.
    """
    workspace = Workspace(folder / "home")
    workspace.home.mkdir()
    (folder / "formulas").mkdir()
    past = History(workspace.metadata, "im2latex")
    examples = past.artifact("Examples", _folder(workspace, "examples"), input_fingerprint="split:train,num_files:1")
    data = str(folder / "formulas")
    past.execution(FIRST, "ImportExampleGen", outputs={"examples": examples}, input_base=data)
    pushed = _trained(past, workspace, FIRST, examples, 0)
    past.execution(SECOND, "ImportExampleGen", CACHED, {"examples": examples}, input_base=data)
    _trained(past, workspace, SECOND, examples, pushed)
    past.execution(THIRD, "ImportExampleGen", CACHED, {"examples": examples}, input_base=data)
    past.execution(THIRD, "Trainer", FAILED, inputs=[examples])
    return workspace


def _trained(past: History, workspace: Workspace, run: str, examples: int, before: int) -> int:
    """Adds the components after the examples to a run. Returns the id of the pushed model."""
    version = VERSIONS[run]
    destination = workspace.serving / "im2latex" / version
    destination.mkdir(parents=True)
    model = past.artifact("Model", _folder(workspace, f"model{version}"))
    past.execution(run, "Trainer", outputs={"model": model}, inputs=[examples])
    properties = {"serving_version": VERSIONS[FIRST] if before else "", **({"pushed_model": before} if before else {})}
    baseline = past.artifact("Model", _folder(workspace, f"baseline{version}"), **properties)
    serving = str(destination.parent)
    past.execution(run, "Baseline", outputs={"baseline": baseline}, inputs=[model], serving=serving)
    scores = _folder(workspace, f"evaluation{version}")
    kept = Verdict("bleu >= 0.75", True, 0.8, 0.75, "BLEU 0.8 is at least 0.75")
    slices = {"": {"examples": 300, CANDIDATE: {"bleu": 0.8 + bool(before) / 100, "exact_match": 0.5}}}
    Evaluation(300, "builtin", {CANDIDATE: {"seconds": 1.0}}, slices, [kept]).write(scores)
    blessing = past.artifact("ModelBlessing", _folder(workspace, f"blessing{version}"), blessed=1)
    evaluation = past.artifact("ModelEvaluation", scores)
    outputs = {"blessing": blessing, "evaluation": evaluation}
    past.execution(run, "Evaluator", outputs=outputs, inputs=[examples, model, baseline])
    files = _folder(workspace, f"pushed{version}")
    pushed = past.artifact("PushedModel", files, pushed=1, pushed_version=version, pushed_destination=str(destination))
    past.execution(run, "Pusher", outputs={"pushed_model": pushed}, inputs={"model": model, "model_blessing": blessing})
    return pushed


def _folder(workspace: Workspace, name: str) -> Path:
    folder = workspace.pipeline_root / name
    folder.mkdir(parents=True)
    return folder


def store_properties(workspace: Workspace, run: str, properties: dict[str, str | int]) -> None:
    """Stores the conditions of a run."""
    past = History(workspace.metadata, "im2latex")
    context = past.store.get_context_by_type_and_name("pipeline_run", run)
    for name, value in properties.items():
        if isinstance(value, str):
            context.custom_properties[name].string_value = value
        else:
            context.custom_properties[name].int_value = value
    past.store.put_contexts([context])


def with_configuration(**knobs: object) -> dict[str, str | int]:
    return {"config": json.dumps({name.replace("__", "."): value for name, value in knobs.items()})}
