"""Reads the steps and artifacts of a run from ML Metadata.

It does not import TFX, so that the `im2latex report` command starts faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2

RAN, CACHED, FAILED, RUNNING, ABSENT = "ran", "cached", "failed", "running", "did not run"
# Folder of the SavedModel in the Trainer's artifact.
SERVING = "Format-Serving"
# Property of an artifact: its permanent location, if `uri` is a copy that exists in this container only.
ADDRESS = "address"
OUTPUTS = {metadata_store_pb2.Event.OUTPUT, metadata_store_pb2.Event.DECLARED_OUTPUT}
# States of an execution; all other states mean that it failed.
STATES = {
    metadata_store_pb2.Execution.COMPLETE: RAN,
    metadata_store_pb2.Execution.CACHED: CACHED,
    metadata_store_pb2.Execution.NEW: RUNNING,
    metadata_store_pb2.Execution.RUNNING: RUNNING,
}


class Output(NamedTuple):
    """An artifact."""

    uri: str
    id: int = 0  # in ML Metadata; 0 if unknown
    properties: Mapping[str, str | int | float] = {}

    @property
    def address(self) -> str:
        """The location to show to a person."""
        return str(self.properties.get(ADDRESS, self.uri))


class Step(NamedTuple):
    """One component in a run."""

    component: str
    state: str  # RAN, CACHED, FAILED, RUNNING or ABSENT
    execution: int = 0  # id of the execution that did the work; a cached step refers to an earlier one
    run: str = ""  # the run of that execution
    started: int = 0  # of that execution, milliseconds since 1970
    ended: int = 0


def read_steps(store: MetadataStore, run: str) -> tuple[list[Step], dict[tuple[str, str], Output]]:
    """Reads a run from ML Metadata.

    Args:
        store: ML Metadata.
        run: id of the run.

    Returns:
        The steps in the order in which they started, and the artifacts by component and output name.
    """
    context = store.get_context_by_type_and_name("pipeline_run", run)
    executions = sorted(store.get_executions_by_context(context.id), key=lambda e: e.id) if context else []
    outputs = _outputs(store, [execution.id for execution in executions])
    artifacts = {a.id: a for a in store.get_artifacts_by_id([i for keys in outputs.values() for i in keys])}
    steps: list[Step] = []
    artifacts_by_output: dict[tuple[str, str], Output] = {}
    for execution in executions:
        state = STATES.get(execution.last_known_state, FAILED)
        keys = outputs.get(execution.id, {})
        execution_done, run_done = execution, run
        if state == CACHED:
            execution_done, run_done = _origin(store, keys) or (execution, run)
        component = context_name(store, execution.id, "node").rpartition(".")[2]
        times = execution_done.create_time_since_epoch, execution_done.last_update_time_since_epoch
        steps.append(Step(component, state, execution_done.id, run_done, *times))
        if state in (RAN, CACHED):
            artifacts_by_output |= {(component, key): output_of(artifacts[i]) for i, key in keys.items()}
    return steps, artifacts_by_output


def properties(store: MetadataStore, step: Step) -> dict[str, str | int | float]:
    """Returns the execution properties of a step."""
    (execution,) = store.get_executions_by_id([step.execution])
    return _plain(execution.custom_properties)


def origins(steps: Sequence[Step]) -> list[Step]:
    """Returns the finished steps in state RAN, so that a run that takes them from the cache gets the same list."""
    return [step._replace(state=RAN) for step in steps if step.state in (RAN, CACHED)]


def seen_from(steps: Sequence[Step], run: str) -> list[Step]:
    """Reverses `origins` for one run: steps that another run executed are CACHED."""
    return [step if step.run == run else step._replace(state=CACHED) for step in steps]


def _outputs(store: MetadataStore, executions: Sequence[int]) -> dict[int, dict[int, str]]:
    """Returns the output artifacts of executions: {execution id: {artifact id: output name}}."""
    outputs: dict[int, dict[int, str]] = {}
    for event in store.get_events_by_execution_ids(list(executions)) if executions else []:
        if event.type in OUTPUTS:
            outputs.setdefault(event.execution_id, {})[event.artifact_id] = event.path.steps[0].key
    return outputs


def _origin(store: MetadataStore, artifacts: Mapping[int, str]) -> tuple[metadata_store_pb2.Execution, str] | None:
    """Returns the execution that produced artifacts, and its run; None if no execution completed."""
    events = store.get_events_by_artifact_ids(list(artifacts)) if artifacts else []
    producers = store.get_executions_by_id({event.execution_id for event in events if event.type in OUTPUTS})
    done = [producer for producer in producers if producer.last_known_state == metadata_store_pb2.Execution.COMPLETE]
    if not done:
        return None
    first = min(done, key=lambda execution: execution.id)
    return first, context_name(store, first.id, "pipeline_run")


def context_name(store: MetadataStore, execution: int, kind: str) -> str:
    """Returns the name of an execution's context of a kind (pipeline, pipeline_run or node); "" if it has none."""
    type_id = store.get_context_type(kind).id
    return next((c.name for c in store.get_contexts_by_execution(execution) if c.type_id == type_id), "")


def output_of(artifact: metadata_store_pb2.Artifact) -> Output:
    """Converts an artifact of ML Metadata, with its custom properties."""
    return Output(artifact.uri, artifact.id, _plain(artifact.custom_properties))


def values(properties: Mapping[str, metadata_store_pb2.Value]) -> dict[str, Any]:
    """Converts properties of ML Metadata to Python values: numbers, strings, booleans and messages, by name."""
    return {name: getattr(value, value.WhichOneof("value")) for name, value in properties.items()}


def _plain(properties: Mapping[str, metadata_store_pb2.Value]) -> dict[str, str | int | float]:
    return {name: value for name, value in values(properties).items() if isinstance(value, str | int | float)}
