"""The records of tasks that do no work: in the SQLite file of a workspace, which ML Metadata treats as a database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ml_metadata import MetadataStore

from components.metadata import ADDRESS
from im2latex.errors import UserError
from kubeflow import recording
from kubeflow.closing import close_run
from kubeflow.entrypoint import RUN, NodeSpec
from kubeflow.recording import Recorder
from pipeline.config.sections import COMPONENTS
from pipeline.lineage.graph import read_runs, read_store
from pipeline.lineage.problems import check
from pipeline.lineage.run_summary import summarise
from pipeline.lineage.store import connection, run_ids
from pipeline.running.record import code
from pipeline.workspace import Workspace
from tests.kubeflow.recorded_runs import LEAVES, Runs, states

TRAINED = ("Trainer", "Baseline", "Evaluator", "ServingCheck", "Pusher", "Reporter")


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("IM2LATEX_HOME", str(tmp_path))
    return Workspace(tmp_path)


@pytest.fixture
def store(workspace: Workspace) -> MetadataStore:
    return MetadataStore(connection("", workspace))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(recording, "fingerprint_of", lambda folder: "f" * 64)
    return Runs()


def test_a_run_is_a_run_of_the_local_runners_kind(runs: Runs, store: MetadataStore, workspace: Workspace) -> None:
    runs.whole("one")
    assert states(store, "one") == dict.fromkeys(COMPONENTS, "ran")
    graph = read_store(store)
    (pusher,) = (execution for execution in graph.executions.values() if execution.component == "Pusher")
    assert (pusher.type, pusher.pipeline) == ("components.pusher.component.Pusher", "im2latex")
    taken = {key: graph.executions[graph.artifacts[i].made_by].component for key, (i,) in pusher.inputs.items()}
    assert taken == {"model": "Trainer", "model_blessing": "Evaluator", "infra_blessing": "ServingCheck"}
    made = graph.outputs("one")
    assert made["Trainer", "model"].uri == "s3://runs/im2latex/one/Trainer/model"
    assert made["Trainer", "model"].state == "live"
    assert not any(ADDRESS in artifact.properties for artifact in made.values())
    assert made["Evaluator", "blessing"].properties["current_model"] == "s3://runs/model"
    told = graph.runs["one"].properties
    (examples,) = (execution for execution in graph.executions.values() if execution.component == "ImportExampleGen")
    assert examples.properties["input_base"] == told["data"]
    assert (told["data"], told["host"], told["workspace"]) == ("s3://formulas/records", "kubeflow", "/mnt/im2latex")
    assert told["data_fingerprint"] == "f" * 64 and told["hardware"] and told["code_sha256"] == code()["code_sha256"]
    assert (summarise(graph, "one", "", workspace).state, run_ids(store)) == ("done", ["one"])
    assert [finding for finding in check(graph, workspace) if finding.kind in ("killed", "files gone")] == []


def test_what_comes_from_the_cache_is_recorded_by_those_that_take_it(runs: Runs, store: MetadataStore) -> None:
    runs.whole("one")
    for name in TRAINED[:2]:
        runs.do("two", name)
    # So far: the inputs of the trainer, and their inputs.
    cached = {"ImportExampleGen", "ImportSchemaGen", "Transform"}
    assert states(store, "two") == {name: "cached" if name in cached else "ran" for name in (*cached, *TRAINED[:2])}
    for name in TRAINED[2:]:
        runs.do("two", name)
    runs.end("two")
    assert states(store, "two") == {name: "ran" if name in TRAINED else "cached" for name in COMPONENTS}
    assert read_runs(store, ["two"]).runs["two"].properties["data_fingerprint"] == "f" * 64
    runs.whole("three", worked=())
    assert states(store, "three") == dict.fromkeys(COMPONENTS, "cached")
    both = [{key: a.id for key, a in read_runs(store, [run]).outputs(run).items()} for run in ("two", "three")]
    assert both[0] == both[1]


def test_an_attempt_continues_the_execution_of_the_previous_one(runs: Runs, store: MetadataStore) -> None:
    for name in COMPONENTS[:5]:
        runs.do("one", name)
    node = NodeSpec.of(runs.component("Trainer"), "im2latex")

    def attempt(ending: type[BaseException] | None) -> None:
        recorder = runs.recorder("one", node)
        with recorder.recorded(runs.inputs("Trainer"), runs.outputs("one", "Trainer"), {"run_fn": "f"}):
            if ending:
                raise ending

    for ending, state in ((KeyboardInterrupt, "running"), (ValueError, "failed"), (None, "ran"), (None, "ran")):
        if ending:
            with pytest.raises(ending):
                attempt(ending)
        else:
            attempt(None)
        assert states(store, "one")["Trainer"] == state
    trainer = read_runs(store, ["one"]).of_run["one"][-1]
    assert {key: len(ids) for key, ids in trainer.outputs.items()} == {"model": 1, "model_run": 1}
    assert len(store.get_artifacts_by_type("ModelRun")) == 1


def test_two_that_record_the_same_at_once_record_it_once(runs: Runs, store: MetadataStore) -> None:
    runs.whole("one")
    finishers = [runs.finisher("two") for _ in range(4)]
    leaves = [{key: [runs.given((name, key))] for name, key in LEAVES} for _ in finishers]
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(Recorder.record_cached, finishers, leaves)) == [None] * 4
    assert states(store, "two") == dict.fromkeys(COMPONENTS, "cached")


def test_executions_left_running_by_an_ended_run_are_cancelled(runs: Runs, store: MetadataStore) -> None:
    runs.do("one", "ImportSchemaGen")
    node = NodeSpec.of(runs.component("ImportExampleGen"), "im2latex")
    with pytest.raises(KeyboardInterrupt), runs.recorder("one", node).recorded({}, {}, {}):
        raise KeyboardInterrupt  # as a process that is killed, records nothing more
    assert close_run(store, "one") is None
    assert states(store, "one") == {"ImportSchemaGen": "ran", "ImportExampleGen": "failed"}
    runs.whole("two")
    assert close_run(store, "two") is True
    assert close_run(store, "of another database") is None


def test_a_database_that_does_not_answer_is_retried(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, store: MetadataStore
) -> None:
    real, answers = connection, iter([UserError("mysql://database does not answer")] * 2)

    def away(*arguments: Any) -> Any:
        for error in answers:
            raise error
        return real(*arguments)

    monkeypatch.setattr(recording, "connection", away)
    monkeypatch.setattr(recording, "FIRST_PAUSE", 0.01)
    runs.do("one", "ImportSchemaGen")
    assert states(store, "one") == {"ImportSchemaGen": "ran"}
    answers = iter([UserError("mysql://database does not answer")] * 100)
    monkeypatch.setattr(recording, "PATIENCE", 0.1)
    with pytest.raises(UserError, match="does not answer .the run's metadata cannot be recorded"):
        runs.do("one", "ImportSchemaGen")


def test_a_pod_without_the_id_of_its_run_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN, raising=False)
    with pytest.raises(UserError, match="IM2LATEX_RUN is not set"):
        Recorder("", NodeSpec("record-lineage", {}, "im2latex"))
