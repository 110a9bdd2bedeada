from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.baseline.choice import newest_other
from im2latex.errors import UserError
from pipeline.cli import app
from pipeline.lineage.find import serving_model
from pipeline.lineage.graph import ROLLBACK, Execution, LineageGraph, read_store
from pipeline.lineage.notes import notes
from pipeline.lineage.problems import check
from pipeline.lineage.store import read
from pipeline.serving.rollback import Rolled, Version, rollback
from pipeline.workspace import Workspace
from tests.components.serving_check.models import save, sure
from tests.pipeline.lineage.conftest import FIRST, SECOND, VERSIONS, make_three_runs

OLD, NEW = (int(VERSIONS[run]) for run in (FIRST, SECOND))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model", sure)


@pytest.fixture
def workspace(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Two versions, OLD and NEW, each pushed by a run that ML Metadata knows."""
    workspace = make_three_runs(tmp_path)
    for version in (OLD, NEW):
        shutil.copytree(model, workspace.serving / "im2latex" / str(version), dirs_exist_ok=True)
    monkeypatch.setenv("IM2LATEX_HOME", str(workspace.home))
    return workspace


def roll(workspace: Workspace, to: int | None = None, name: str | None = None) -> tuple[Rolled, list[str]]:
    text: list[str] = []
    return rollback(workspace, name, to, text.append), text


def rollbacks(graph: LineageGraph) -> list[Execution]:
    return [execution for execution in graph.executions.values() if execution.type == ROLLBACK]


def test_the_previous_version_serves_and_the_command_to_undo_is_printed(workspace: Workspace) -> None:
    rolled, text = roll(workspace)
    assert rolled.sentence() == (
        f"version {OLD} serves now; {NEW} was withdrawn; to undo this: `im2latex rollback --to {NEW}`"
    )
    assert text == []
    assert workspace.newest_model().name == str(OLD)
    # The baseline of the next run.
    assert newest_other(str(workspace.serving / "im2latex"), str(workspace.home)).version == str(OLD)
    rolled, _ = roll(workspace, NEW)
    assert rolled.sentence() == f"version {NEW} serves now; it had been withdrawn"
    assert [path.name for path in workspace.versions()] == [str(OLD), str(NEW)]


def test_it_is_recorded_and_lineage_shows_the_serving_version(workspace: Workspace) -> None:
    before = check(read(workspace, read_store), workspace)
    roll(workspace)
    graph = read(workspace, read_store)
    (recorded,) = rollbacks(graph)
    assert (recorded.state, recorded.component, recorded.run) == ("ran", ROLLBACK, "")
    assert {**recorded.properties, "by": ""} == {
        "model": "im2latex", "serves": str(OLD), "withdrawn": str(NEW), "by": ""
    }  # fmt: skip
    old, new = ([a for a in graph.artifacts.values() if a.pushed and str(v) in a.uri][0] for v in (OLD, NEW))
    assert recorded.inputs == {"serves": [old.id], "withdrawn": [new.id]}
    assert read(workspace, lambda store: serving_model(store, workspace)) == old.id
    assert [list(notes(artifact, graph))[0].rpartition("; ")[2] for artifact in (old, new)] == [
        "serves now", "withdrawn"
    ]  # fmt: skip
    assert check(graph, workspace) == before
    reported = CliRunner().invoke(app, ["lineage", str(NEW), "--down"]).output
    assert f"version {OLD} serves, {NEW} withdrawn" in reported and ROLLBACK in reported


def test_a_rollback_that_is_killed_shows_as_such(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pipeline.serving.rollback.activate", lambda folder, to: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        roll(workspace)
    (recorded,) = rollbacks(read(workspace, read_store))
    assert recorded.state == "failed"
    assert workspace.newest_model().name == str(NEW)


def test_without_an_older_version_it_fails_and_changes_nothing(workspace: Workspace) -> None:
    roll(workspace)
    with pytest.raises(UserError, match=f"there is no older version in .*; version {OLD} keeps serving"):
        roll(workspace)
    assert [path.name for path in workspace.versions()] == [str(OLD)]


def test_a_version_that_does_not_work_is_skipped(workspace: Workspace, model: Path) -> None:
    shutil.copytree(model, workspace.serving / "im2latex" / "7")
    (workspace.serving / "im2latex" / str(OLD) / "saved_model.pb").write_bytes(b"half a model")
    rolled, (text,) = roll(workspace)
    assert (rolled.serves, rolled.withdrawn) == (7, [OLD, NEW])
    assert text.startswith(f"version {OLD} is skipped: ")
    with pytest.raises(UserError, match="choose another version"):
        roll(workspace, OLD)
    assert workspace.newest_model().name == "7"


@pytest.mark.parametrize(
    ("to", "name", "message"),
    [
        (NEW, None, f"version {NEW} is already the one that serves"),
        (5, None, "there is no version 5 in "),
        (None, "other", "no model 'other' was pushed to .*; pushed were im2latex"),
    ],
)
def test_a_missing_version_is_refused(to: int | None, name: str | None, message: str, workspace: Workspace) -> None:
    with pytest.raises(UserError, match=message):
        roll(workspace, to, name)
    assert len(workspace.versions()) == 2


def test_it_does_not_wait_for_a_run_in_progress(workspace: Workspace) -> None:
    with workspace.lock():
        roll(workspace)
    assert workspace.newest_model().name == str(OLD)


def test_without_a_store_that_can_be_written_it_rolls_back_and_says_that_it_is_not_recorded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.lineage.store.LOCKED_SECONDS", 0.1)
    with sqlite3.connect(workspace.metadata) as file:
        file.execute("BEGIN EXCLUSIVE")
        rolled, (text,) = roll(workspace)
        file.rollback()
    file.close()
    assert rolled.serves == OLD and text.startswith("the rollback is not recorded: ") and "locked" in text
    assert rollbacks(read(workspace, read_store)) == []
    workspace.metadata.unlink()
    rolled, (text,) = roll(workspace, NEW)
    assert rolled.serves == NEW and text.startswith("the rollback is not recorded: there are no runs in ")


def test_versions_are_listed_with_their_properties(workspace: Workspace, model: Path) -> None:
    shutil.copytree(model, workspace.serving / "im2latex" / "7")
    roll(workspace)
    listed = CliRunner().invoke(app, ["rollback", "--list"])
    assert [line.split() for line in listed.output.splitlines()[1:]] == [
        ["7", "before"],
        [str(OLD), "serves", "0.800", FIRST],
        [str(NEW), "withdrawn", "0.810", SECOND],
    ]
    versions = json.loads(CliRunner().invoke(app, ["rollback", "--list", "--json"]).output)
    assert [Version(**version).state for version in versions] == ["before", "serves", "withdrawn"]


def test_the_command_prints_the_serving_version(workspace: Workspace) -> None:
    done = CliRunner().invoke(app, ["rollback", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "folder": str(workspace.serving / "im2latex"), "serves": OLD, "withdrawn": [NEW], "brought_back": False
    }  # fmt: skip
