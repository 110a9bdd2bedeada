from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd

from im2latex.errors import UserError
from pipeline.lineage.graph import read_store
from pipeline.lineage.problems import (
    GONE,
    KILLED,
    REPAIR,
    SOURCE,
    UNBLESSED,
    UNKNOWN,
    Finding,
    check,
    repair,
    repair_killed,
)
from pipeline.lineage.store import read, write
from pipeline.workspace import Workspace
from tests.components.report.history import History
from tests.pipeline.lineage.conftest import FIRST, SECOND, VERSIONS

FOURTH = "2020-01-04T10:00:05.123456"
MODEL, PUSHED = 2, 6
BLESSED_BY = ("model", "infra")


def findings(workspace: Workspace) -> list[Finding]:
    return check(read(workspace, read_store), workspace)


def test_a_store_of_finished_runs_has_no_problems(workspace: Workspace) -> None:
    assert findings(workspace) == []


def test_missing_files_are_reported_with_their_run(own_workspace: Workspace) -> None:
    folder = own_workspace.pipeline_root / f"model{VERSIONS[FIRST]}"
    folder.rmdir()
    assert findings(own_workspace) == [Finding(GONE, f"the files of Model 2, {folder}, are missing", FIRST, 2, MODEL)]


def test_artifacts_deleted_on_purpose_are_not_reported(own_workspace: Workspace) -> None:
    (own_workspace.pipeline_root / f"model{VERSIONS[FIRST]}").rmdir()
    past = History(own_workspace.metadata, "im2latex")
    (model,) = past.store.get_artifacts_by_id([MODEL])
    model.state = mlmd.Artifact.DELETED
    past.store.put_artifacts([model])
    past.artifact("Model", "gs://bucket/model")
    assert findings(own_workspace) == []


def test_missing_data_is_reported_once(own_workspace: Workspace) -> None:
    data = own_workspace.home.parent / "formulas"
    data.rmdir()
    (finding,) = findings(own_workspace)
    assert (finding.kind, finding.run) == (SOURCE, FIRST) and str(data) in finding.what


def test_killed_executions_are_found_and_can_be_marked(own_workspace: Workspace) -> None:
    past = History(own_workspace.metadata, "im2latex")
    left = past.execution(FOURTH, "Trainer", mlmd.Execution.RUNNING, run_fn="f")
    with own_workspace.lock():  # the run is in progress
        assert findings(own_workspace) == []
    (finding,) = findings(own_workspace)
    assert (finding.kind, finding.run, finding.execution) == (KILLED, FOURTH, left)
    write(own_workspace, lambda store: repair(store, [left], own_workspace))
    assert findings(own_workspace) == []
    (changed,) = past.store.get_executions_by_id([left])
    assert changed.last_known_state == mlmd.Execution.CANCELED
    assert changed.custom_properties["run_fn"].string_value == "f"


def test_only_unfinished_outputs_of_killed_executions_are_deleted(own_workspace: Workspace) -> None:
    past = History(own_workspace.metadata, "im2latex")
    left = past.execution(FOURTH, "Trainer", mlmd.Execution.RUNNING)
    root = own_workspace.pipeline_root
    begun = [f"Trainer/model/{left}", f"Trainer/.system/executor_execution/{left}"]
    begun.append("Trainer/.system/stateful_working_dir/5f1c")
    others = [f"Trainer/model/{left}0", f"Evaluator/evaluation/{left}", "Trainer/.system/executor_execution/1"]
    for path in (*begun, *others):
        (root / path).mkdir(parents=True)
        (root / path / "file").touch()
    assert repair_killed("", own_workspace) == 1
    assert [path for path in (*begun, *others) if (root / path).exists()] == others
    assert repair_killed("", own_workspace) == 0


def test_an_unrecorded_push_of_a_killed_run_is_recorded(own_workspace: Workspace) -> None:
    past = History(own_workspace.metadata, "im2latex")
    trained = own_workspace.pipeline_root / "Trainer" / "model" / "77"
    version = own_workspace.serving / "im2latex" / "1600000000"
    for folder in (trained / "Format-Serving", version):
        (folder / "variables").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"graph")
        (folder / "variables" / "variables.index").write_bytes(b"weights")
    blessings = {f"{key}_blessing": past.artifact("Blessing", own_workspace.home, blessed=1) for key in BLESSED_BY}
    inputs = {"model": past.artifact("Model", trained), **blessings}
    left = past.execution(FOURTH, "Pusher", mlmd.Execution.RUNNING, inputs=inputs)
    (finding,) = findings(own_workspace)
    assert (finding.kind, finding.execution) == (KILLED, left) and str(version) in finding.what

    assert repair_killed("", own_workspace) == 1
    assert findings(own_workspace) == []
    graph = read(own_workspace, read_store)
    (pushed,) = graph.executions[left].output_ids()
    assert (graph.executions[left].state, graph.artifacts[pushed].pushed) == ("ran", True)
    assert graph.artifacts[pushed].properties["pushed_destination"] == str(version)
    assert (Path(graph.artifacts[pushed].uri) / "variables" / "variables.index").read_bytes() == b"weights"


def test_an_unfinished_push_of_a_killed_run_is_not_recorded(own_workspace: Workspace) -> None:
    past = History(own_workspace.metadata, "im2latex")
    trained = own_workspace.pipeline_root / "Trainer" / "model" / "77" / "Format-Serving"
    trained.mkdir(parents=True)
    (trained / "saved_model.pb").write_bytes(b"graph")
    stranger = own_workspace.serving / "im2latex" / "1600000000"
    stranger.mkdir()
    inputs = {"model": past.artifact("Model", trained.parent)}
    past.execution(FOURTH, "Pusher", mlmd.Execution.RUNNING, inputs=inputs)
    assert {finding.kind for finding in findings(own_workspace)} == {KILLED, UNKNOWN}
    assert repair_killed("", own_workspace) == 1
    assert {finding.kind for finding in findings(own_workspace)} == {UNKNOWN}


def test_a_locked_store_is_refused_before_the_run(own_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.lineage.store.LOCKED_SECONDS", 0.2)
    code = """import sqlite3, sys
file = sqlite3.connect(sys.argv[1])
file.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()"""
    command = [sys.executable, "-c", code, str(own_workspace.metadata)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        with pytest.raises(UserError, match="is locked by another process; try again when that has ended"):
            repair_killed("", own_workspace)
        holder.communicate()
    assert repair_killed("", own_workspace) == 0


def test_the_first_run_repairs_nothing(tmp_path: Path) -> None:
    assert repair_killed("", Workspace(tmp_path)) == 0


@pytest.mark.parametrize(
    ("inputs", "lacks"),
    [
        ({}, "model blessing"),
        ({"model_blessing": 0}, "model blessing"),
        ({"model_blessing": 1, "infra_blessing": 0}, "infra blessing"),
        ({"model_blessing": 0, "infra_blessing": 0}, "model blessing and infra blessing"),
        ({"model_blessing": 1, "infra_blessing": 1}, None),
        ({"model_blessing": 1}, None),  # a pipeline without ServingCheck
    ],
)
def test_a_model_pushed_without_blessing_is_found(
    own_workspace: Workspace, inputs: dict[str, int], lacks: str | None
) -> None:
    past = History(own_workspace.metadata, "im2latex")
    folder = own_workspace.serving / "im2latex" / "1600000000"
    folder.mkdir()
    home = own_workspace.home
    blessings = {key: past.artifact("ModelBlessing", home, blessed=value) for key, value in inputs.items()}
    pushed = past.artifact("PushedModel", home, pushed=1, pushed_destination=str(folder))
    past.execution(FOURTH, "Pusher", outputs={"pushed_model": pushed}, inputs=blessings)
    expected = [(UNBLESSED, f"{folder} was pushed without {lacks}", FOURTH, pushed)] if lacks else []
    assert [(f.kind, f.what, f.run, f.artifact) for f in findings(own_workspace)] == expected


def test_a_version_that_no_recorded_run_pushed_is_found(own_workspace: Workspace) -> None:
    stranger = own_workspace.serving / "im2latex" / "9999999999"
    stranger.mkdir()
    past = History(own_workspace.metadata, "im2latex")
    baseline = past.artifact("Model", own_workspace.home, serving_version="12345")
    past.execution(FOURTH, "Baseline", outputs={"baseline": baseline}, serving=str(stranger.parent))
    one, other = findings(own_workspace)
    assert one == Finding(UNKNOWN, f"{stranger} was not pushed by a recorded run")
    assert (other.kind, other.run, other.artifact) == (UNKNOWN, FOURTH, baseline) and "version 12345" in other.what


def test_a_version_that_was_removed_is_not_reported(own_workspace: Workspace) -> None:
    shutil.rmtree(own_workspace.serving / "im2latex" / VERSIONS[SECOND])
    assert findings(own_workspace) == []


def test_files_of_another_machine_are_not_reported_in_a_shared_database(own_workspace: Workspace) -> None:
    (own_workspace.home.parent / "formulas").rmdir()
    shutil.rmtree(own_workspace.pipeline_root)
    graph = read(own_workspace, read_store)
    own_workspace.keep_connection("mysql://me@host/db")
    assert {finding.kind for finding in check(graph, own_workspace)} == {GONE, SOURCE}
    elsewhere = {name: replace(run, properties={"host": "another"}) for name, run in graph.runs.items()}
    assert check(replace(graph, runs=elsewhere), own_workspace) == []


def test_every_kind_of_problem_has_a_repair_hint() -> None:
    assert set(REPAIR) == {GONE, KILLED, SOURCE, UNBLESSED, UNKNOWN}
