"""What tasks record, without their work: in the SQLite file of a workspace, which ML Metadata treats as a database."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ml_metadata import MetadataStore
from tfx.types.artifact import Artifact

from components.metadata import ADDRESS, read_steps
from im2latex.errors import UserError
from kubeflow import recording
from kubeflow.closing import close_run
from kubeflow.entrypoint import RUN, Node
from kubeflow.recording import Recorder
from pipeline.config import load_config
from pipeline.config.sections import COMPONENTS
from pipeline.lineage.graph import read_runs, read_store
from pipeline.lineage.problems import check
from pipeline.lineage.run_summary import summarise
from pipeline.lineage.store import connection, run_ids
from pipeline.pipeline import create_pipeline
from pipeline.running.record import code, knobs_of
from pipeline.workspace import Workspace

LEAVES = (("ExampleValidator", "anomalies"), ("Reporter", "report"))
TRAINED = ("Trainer", "Baseline", "Evaluator", "ServingCheck", "Pusher", "Reporter")


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("IM2LATEX_HOME", str(tmp_path))
    return Workspace(tmp_path)


@pytest.fixture
def store(workspace: Workspace) -> MetadataStore:
    return MetadataStore(connection("", workspace))


class Runs:
    """The runs of a cluster, of which a cache knows the artifacts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.components = create_pipeline(
            load_config(), data="/data", pipeline_root="", serving="/mnt/im2latex/serving/im2latex"
        ).components
        self.made: dict[tuple[str, str], Artifact] = {}
        self._monkeypatch = monkeypatch

    def recorder(self, run: str, node: Node) -> Recorder:
        self._monkeypatch.setenv(RUN, run)
        return Recorder("", node)

    def component(self, name: str) -> Any:
        return next(component for component in self.components if component.id == name)

    def inputs(self, name: str) -> dict[str, list[Artifact]]:
        """As the entry point makes them: a path of the launcher, the address, the id of another store."""
        channels = self.component(name).inputs
        return {key: [self.given((c.producer_component_id, c.output_key))] for key, c in channels.items()}

    def given(self, key: tuple[str, str]) -> Artifact:
        artifact = type(self.made[key])()
        address = self.made[key].uri
        artifact.uri = address.replace("s3://", "/s3/")
        artifact.set_string_custom_property(ADDRESS, address)
        artifact.id = 1_000_000
        return artifact

    def outputs(self, run: str, name: str) -> dict[str, list[Artifact]]:
        made = {}
        for key, channel in self.component(name).outputs.items():
            artifact = channel.type()
            artifact.uri = f"s3://runs/im2latex/{run}/{name}/{key}"
            self.made[name, key] = artifact
            made[key] = [self.given((name, key))]
            if name == "Pusher":
                made[key][0].set_int_custom_property("pushed", 1)
            if name == "Evaluator" and key == "blessing":
                made[key][0].set_string_custom_property("current_model", "/s3/runs/model")
        return made

    def do(self, run: str, name: str) -> None:
        """A task that does its work."""
        node = Node.of(self.component(name), "im2latex")
        properties = {key: value for key, value in self.component(name).exec_properties.items() if value is not None}
        inputs = self.inputs(name)
        recorder = self.recorder(run, node)
        if name == "ImportExampleGen":
            knobs = {"knobs": knobs_of(load_config()), "code": code()}
            recorder.describe_run(knobs, "s3://formulas/records")
        with recorder.recorded(inputs, self.outputs(run, name), properties | {"input_base": "/s3/formulas/records"}):
            assert all(artifact.id < 1_000_000 for artifacts in inputs.values() for artifact in artifacts)

    def end(self, run: str) -> None:
        """The task at the end."""
        self.finisher(run).record_cached({key: [self.given((name, key))] for name, key in LEAVES})

    def finisher(self, run: str) -> Recorder:
        return self.recorder(run, Node("record-lineage", {}, "im2latex"))

    def whole(self, run: str, worked: Collection[str] = COMPONENTS) -> None:
        for name in COMPONENTS:
            if name in worked:
                self.do(run, name)
        self.end(run)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    monkeypatch.setattr(recording, "fingerprint_of", lambda folder: "f" * 64)
    yield Runs(monkeypatch)


def states(store: MetadataStore, run: str) -> dict[str, str]:
    steps, _ = read_steps(store, run)
    assert len(steps) == len({step.component for step in steps})
    return {step.component: step.state for step in steps}


def test_a_run_is_a_run_of_the_local_runners_kind(runs: Runs, store: MetadataStore, workspace: Workspace) -> None:
    runs.whole("one")
    assert states(store, "one") == dict.fromkeys(COMPONENTS, "ran")
    graph = read_store(store)
    (pusher,) = (execution for execution in graph.executions.values() if execution.component == "Pusher")
    assert (pusher.type, pusher.pipeline) == ("components.pusher.component.Pusher", "im2latex")
    taken = {key: graph.maker(i).component for key, (i,) in pusher.inputs.items()}
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
    # So far: what the trainer takes, and what that was made from.
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


def test_an_attempt_takes_over_what_the_one_before_left(runs: Runs, store: MetadataStore) -> None:
    for name in COMPONENTS[:5]:
        runs.do("one", name)
    node = Node.of(runs.component("Trainer"), "im2latex")

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


def test_what_a_run_that_has_ended_left_running_is_cancelled(runs: Runs, store: MetadataStore) -> None:
    runs.do("one", "ImportSchemaGen")
    node = Node.of(runs.component("ImportExampleGen"), "im2latex")
    with pytest.raises(KeyboardInterrupt), runs.recorder("one", node).recorded({}, {}, {}):
        raise KeyboardInterrupt  # as a process that is killed, records nothing more
    assert close_run(store, "one") is None
    assert states(store, "one") == {"ImportSchemaGen": "ran", "ImportExampleGen": "failed"}
    runs.whole("two")
    assert close_run(store, "two") is True
    assert close_run(store, "of another database") is None


def test_a_database_that_is_away_is_waited_for(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, store: MetadataStore
) -> None:
    real, answers = recording.connection, iter([UserError("mysql://database does not answer")] * 2)

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
        Recorder("", Node("record-lineage", {}, "im2latex"))
