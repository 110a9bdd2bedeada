from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd

from pipeline.lineage.graph import LineageGraph, read_store
from pipeline.lineage.problems import check
from pipeline.lineage.run_summary import CLUSTER, RunSummary, current_run, is_elsewhere, summarise
from pipeline.lineage.store import read
from pipeline.workspace import Workspace
from tests.components.report.history import FAILED, History
from tests.pipeline.lineage.conftest import FIRST, SECOND, THIRD, VERSIONS, store_properties


def summaries(workspace: Workspace) -> dict[str, RunSummary]:
    graph = read(workspace, read_store)
    current = current_run(list(graph.runs), workspace)
    return {run: summarise(graph, run, current, workspace) for run in graph.runs}


def test_a_run_is_summarised(workspace: Workspace) -> None:
    by_run = summaries(workspace)
    first, second, third = by_run[FIRST], by_run[SECOND], by_run[THIRD]
    assert (first.state, first.component, first.ran, first.cached) == ("done", "", 5, 0)
    assert (first.scores, first.blessed, first.pushed) == ({"bleu": 0.8, "exact_match": 0.5}, True, VERSIONS[FIRST])
    assert (second.ran, second.cached, second.scores["bleu"]) == (4, 1, 0.81)
    assert (third.state, third.component, third.cached) == ("failed", "Trainer", 1)
    assert (third.scores, third.blessed, third.pushed) == ({}, None, "")
    assert 0 <= first.seconds < 100 and first.began < second.began


def test_a_run_whose_files_are_gone_has_no_scores(own_workspace: Workspace) -> None:
    shutil.rmtree(own_workspace.pipeline_root)
    first = summaries(own_workspace)[FIRST]
    assert (first.state, first.scores, first.blessed) == ("done", {}, True)


def test_a_model_with_one_of_two_blessings_is_not_blessed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    past = History(workspace.metadata)
    good, bad = past.artifact("ModelBlessing", "/a", blessed=1), past.artifact("InfraBlessing", "/b", blessed=0)
    not_pushed = past.artifact("PushedModel", "/c", pushed=0)
    past.execution(FIRST, "Evaluator", outputs={"blessing": good})
    past.execution(FIRST, "ServingCheck", outputs={"blessing": bad})
    past.execution(FIRST, "Pusher", outputs={"pushed_model": not_pushed})
    first = summaries(workspace)[FIRST]
    assert (first.blessed, first.pushed) == (False, "")


@pytest.fixture
def interrupted(tmp_path: Path) -> Workspace:
    """Two runs with an unfinished training."""
    workspace = Workspace(tmp_path)
    past = History(workspace.metadata)
    for run in (FIRST, SECOND):
        past.execution(run, "ImportExampleGen")
        past.execution(run, "Trainer", mlmd.Execution.RUNNING)
    return workspace


def test_an_unfinished_run_is_killed_unless_it_is_in_progress(interrupted: Workspace) -> None:
    assert {run: s.state for run, s in summaries(interrupted).items()} == {FIRST: "killed", SECOND: "killed"}
    with interrupted.lock():
        by_run = summaries(interrupted)
    assert {run: s.state for run, s in by_run.items()} == {FIRST: "killed", SECOND: "running"}
    assert by_run[SECOND].component == "Trainer"


def test_a_run_without_executions_was_killed(interrupted: Workspace) -> None:
    History(interrupted.metadata).context("pipeline_run", THIRD)
    third = summaries(interrupted)[THIRD]
    assert (third.state, third.component, third.seconds) == ("killed", "", 0.0)


def test_a_cancelled_component_has_failed(interrupted: Workspace) -> None:
    History(interrupted.metadata).execution(THIRD, "Trainer", mlmd.Execution.CANCELED)
    assert summaries(interrupted)[THIRD].state == "failed" and FAILED != mlmd.Execution.CANCELED


def test_only_in_a_shared_database_can_a_run_be_in_progress_elsewhere(interrupted: Workspace) -> None:
    store_properties(interrupted, FIRST, {"host": "another", "workspace": str(interrupted.home)})
    graph = read(interrupted, read_store)
    assert not is_elsewhere(graph, FIRST, interrupted)
    interrupted.keep_connection("mysql://me@host/db")
    assert is_elsewhere(graph, FIRST, interrupted)
    # The second has no host and workspace, so it counts as local.
    assert not is_elsewhere(graph, SECOND, interrupted)
    assert not is_elsewhere(LineageGraph(), FIRST, interrupted)


def test_a_database_that_is_named_for_a_command_is_a_shared_one_too(
    interrupted: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IM2LATEX_HOME", str(interrupted.home))
    store_properties(interrupted, FIRST, {"host": "another", "workspace": str(interrupted.home)})
    graph = read(interrupted, read_store)
    asked = Workspace.from_environment("mysql://me@host/db")
    assert asked.home == interrupted.home
    assert summarise(graph, FIRST, "", asked).state == "running"
    assert [finding.run for finding in check(graph, asked)] == [SECOND]
    interrupted.keep_connection("mysql://me@host/db")
    assert not is_elsewhere(graph, FIRST, Workspace.from_environment(""))


def test_a_run_of_a_cluster_is_elsewhere_and_never_the_one_that_goes_on_here(interrupted: Workspace) -> None:
    clustered = "e1f763f1-2d48-4c4d-8c36-d42ae5234680"
    History(interrupted.metadata).execution(clustered, "Trainer", mlmd.Execution.RUNNING)
    store_properties(interrupted, clustered, {"host": CLUSTER, "workspace": "/mnt/im2latex"})
    with interrupted.lock():
        states = {run: summary.state for run, summary in summaries(interrupted).items()}
    assert states == {FIRST: "killed", SECOND: "running", clustered: "running"}
    assert is_elsewhere(read(interrupted, read_store), clustered, interrupted)
    assert [finding.run for finding in check(read(interrupted, read_store), interrupted)] == [FIRST, SECOND]
