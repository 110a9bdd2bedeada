"""The records of tasks that do no work: in the SQLite file of a workspace, which ML Metadata treats as a database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ml_metadata import MetadataStore
from tfx.orchestration.portable.mlmd import context_lib

from components.metadata import ADDRESS
from im2latex.errors import UserError
from kubeflow import recording
from kubeflow.closing import close_run
from kubeflow.entrypoint import RUN, NodeSpec, run_driver
from kubeflow.recording import Recorder
from pipeline.config import load_config
from pipeline.config.sections import COMPONENTS
from pipeline.lineage.graph import read_runs, read_store
from pipeline.lineage.problems import check
from pipeline.lineage.run_summary import summarise
from pipeline.lineage.store import connection, run_ids
from pipeline.running.record import code, knobs_of
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
    artifacts = graph.outputs("one")
    assert artifacts["Trainer", "model"].uri == "s3://runs/im2latex/one/Trainer/model"
    assert artifacts["Trainer", "model"].state == "live"
    assert not any(ADDRESS in artifact.properties for artifact in artifacts.values())
    assert artifacts["Evaluator", "blessing"].properties["current_model"] == "s3://runs/model"
    reported = graph.runs["one"].properties
    (examples,) = (execution for execution in graph.executions.values() if execution.component == "ImportExampleGen")
    assert examples.properties["input_base"] == reported["data"]
    assert (reported["data"], reported["host"], reported["workspace"]) == (
        "s3://formulas/records",
        "kubeflow",
        "/mnt/im2latex",
    )
    assert (
        reported["data_fingerprint"] == "f" * 64
        and reported["hardware"]
        and reported["code_sha256"] == code()["code_sha256"]
    )
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


def test_a_driver_that_fails_leaves_its_component_failed(
    runs: Runs, store: MetadataStore, workspace: Workspace
) -> None:
    for name in COMPONENTS[:-2]:
        runs.do("one", name)
    assert COMPONENTS[-2] == "Pusher"
    recorder = runs.recorder("one", NodeSpec.of(runs.component("Pusher"), "im2latex"))
    with pytest.raises(ValueError), recorder.failure_recorded(runs.inputs("Pusher"), {"keep": 3}):
        raise ValueError
    failed = summarise(read_store(store), "one", "", workspace)
    assert (failed.state, failed.component) == ("failed", "Pusher")
    runs.do("one", "Pusher")
    runs.do("one", "Reporter")
    assert states(store, "one") == dict.fromkeys(COMPONENTS, "ran")
    (pusher,) = (one for one in read_runs(store, ["one"]).of_run["one"] if one.component == "Pusher")
    assert {key: len(ids) for key, ids in pusher.inputs.items()} == dict.fromkeys(runs.inputs("Pusher"), 1)


def test_records_that_are_missing_leave_the_import_failed(runs: Runs, store: MetadataStore, tmp_path: Path) -> None:
    component = runs.component("ImportExampleGen")
    parameters = {key: value for key, value in component.exec_properties.items() if value is not None}
    task = {"inputs": {"parameterValues": parameters | {"input_base": str(tmp_path / "none")}}}
    recorder = runs.recorder("one", NodeSpec.of(component, "im2latex"))
    with pytest.raises(UserError, match="there is no file"):
        run_driver(NodeSpec.of(component, "im2latex"), {"outputs": {}, **task}, recorder)
    assert states(store, "one") == {"ImportExampleGen": "failed"}


def test_a_failed_attempt_may_be_followed_by_the_cache(runs: Runs, store: MetadataStore) -> None:
    runs.whole("one")
    trainer = runs.recorder("two", NodeSpec.of(runs.component("Trainer"), "im2latex"))
    with pytest.raises(ValueError), trainer.recorded(runs.inputs("Trainer"), {}, {}):
        raise ValueError
    runs.end("two")
    assert states(store, "two") == dict.fromkeys(COMPONENTS, "cached")
    sides = [
        {one.component: (one.inputs, one.outputs) for one in read_runs(store, [run]).of_run[run]}
        for run in ("one", "two")
    ]
    assert sides[0] == sides[1]


def test_what_another_task_says_of_the_run_meanwhile_is_kept(
    runs: Runs, store: MetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.whole("one")
    recorder, other = runs.finisher("two"), runs.finisher("two")
    contexts = recorder._contexts

    def slowly(handle: Any, component: str) -> list[Any]:
        task_contexts = contexts(handle, component)
        other._describe(handle, {"config": "{}"})
        return task_contexts

    monkeypatch.setattr(recorder, "_contexts", slowly)
    recorder.record_cached({key: [runs.artifact((name, key))] for name, key in LEAVES})
    assert read_runs(store, ["two"]).runs["two"].properties["config"] == "{}"


def test_a_cached_training_has_the_hardware_that_it_was_made_with(
    runs: Runs, store: MetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(pod: str) -> None:
        monkeypatch.setattr(recording, "machine", lambda: {"hardware": pod, "environment": pod})

    of("a GPU")
    runs.whole("one")
    of("a small pod")
    runs.finisher("two").describe_run({"knobs": knobs_of(load_config()), "code": code()}, "s3://formulas/records")
    assert read_runs(store, ["two"]).runs["two"].properties["hardware"] == "a small pod"
    runs.end("two")
    reported = read_runs(store, ["two"]).runs["two"].properties
    assert (reported["hardware"], reported["environment"]) == ("a GPU", "a GPU")


def test_a_run_is_done_with_its_last_component(runs: Runs, store: MetadataStore, workspace: Workspace) -> None:
    def state(run: str) -> str:
        return summarise(read_store(store), run, "", workspace).state

    for name in COMPONENTS[:-1]:
        runs.do("one", name)
        assert state("one") == "running"  # between two tasks
    assert close_run(store, "one", succeeded=False) is True  # the task of the last component did not start
    assert state("one") == "failed"
    runs.do("one", COMPONENTS[-1])  # a person tried the task again
    assert state("one") == "done"


def test_two_that_record_the_same_at_once_record_it_once(runs: Runs, store: MetadataStore) -> None:
    runs.whole("one")
    finishers = [runs.finisher("two") for _ in range(4)]
    leaves = [{key: [runs.artifact((name, key))] for name, key in LEAVES} for _ in finishers]
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(Recorder.record_cached, finishers, leaves)) == [None] * 4
    assert states(store, "two") == dict.fromkeys(COMPONENTS, "cached")


def test_a_run_is_one_of_a_cluster_from_its_first_record(
    runs: Runs, store: MetadataStore, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = NodeSpec.of(runs.component("ImportSchemaGen"), "im2latex")

    def killed(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    def begin() -> None:  # before another task describes the run
        with pytest.raises(KeyboardInterrupt), runs.recorder("one", node).recorded({}, {}, {}):
            killed()

    with monkeypatch.context() as patch:  # between the context and the link to its pipeline
        patch.setattr(context_lib, "put_parent_context_if_not_exists", killed)
        begin()
    begin()
    graph = read_store(store)
    assert graph.runs["one"].properties == {"host": "kubeflow"}
    assert (check(graph, workspace), summarise(graph, "one", "", workspace).state) == ([], "running")
    (run,) = store.get_contexts_by_type("pipeline_run")
    assert [parent.name for parent in store.get_parent_contexts_by_context(run.id)] == ["im2latex"]


def test_what_a_run_that_has_ended_left_running_is_cancelled(runs: Runs, store: MetadataStore) -> None:
    runs.do("one", "ImportSchemaGen")
    node = NodeSpec.of(runs.component("ImportExampleGen"), "im2latex")
    with pytest.raises(KeyboardInterrupt), runs.recorder("one", node).recorded({}, {}, {}):
        raise KeyboardInterrupt  # as a process that is killed, records nothing more
    assert close_run(store, "one", succeeded=False) is None
    assert states(store, "one") == {"ImportSchemaGen": "ran", "ImportExampleGen": "failed"}
    runs.whole("two")
    assert close_run(store, "two", succeeded=True) is True
    assert close_run(store, "of another database", succeeded=False) is None


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
