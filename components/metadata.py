"""What a run consisted of: its steps and its artifacts, as ML Metadata keeps them.

Nothing of TFX is imported: the `im2latex report` command answers sooner without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2

RAN, CACHED, FAILED, RUNNING, ABSENT = "ran", "cached", "failed", "running", "did not run"
# Where TFX keeps the SavedModel in the artifact of a training.
SERVING = "Format-Serving"
# Property of an artifact: where it lies for others, if `uri` is a copy that this container alone has.
ADDRESS = "address"
OUTPUTS = {metadata_store_pb2.Event.OUTPUT, metadata_store_pb2.Event.DECLARED_OUTPUT}
# Of an execution; whatever else there is has failed.
STATES = {
    metadata_store_pb2.Execution.COMPLETE: RAN,
    metadata_store_pb2.Execution.CACHED: CACHED,
    metadata_store_pb2.Execution.NEW: RUNNING,
    metadata_store_pb2.Execution.RUNNING: RUNNING,
}


class Output(NamedTuple):
    """An artifact."""

    uri: str
    id: int = 0  # in ML Metadata; 0 where the orchestrator does not say
    properties: Mapping[str, str | int | float] = {}

    @property
    def address(self) -> str:
        """Where a person finds it."""
        return str(self.properties.get(ADDRESS, self.uri))


class Step(NamedTuple):
    """A component's part in a run."""

    component: str
    state: str  # RAN, CACHED, FAILED, RUNNING or ABSENT
    execution: int = 0  # of the execution that did the work, which a cached step only points to
    run: str = ""  # the run of that execution
    started: int = 0  # of that execution, milliseconds since 1970
    ended: int = 0


def read_steps(store: MetadataStore, run: str) -> tuple[list[Step], dict[tuple[str, str], Output]]:
    """Reads a run from ML Metadata.

    Args:
        store: ML Metadata.
        run: id of the run.

    Returns:
        The steps, in the order in which they were begun, and the artifacts by component and name of the output.
    """
    context = store.get_context_by_type_and_name("pipeline_run", run)
    executions = sorted(store.get_executions_by_context(context.id), key=lambda e: e.id) if context else []
    outputs = _outputs(store, [execution.id for execution in executions])
    artifacts = {a.id: a for a in store.get_artifacts_by_id([i for keys in outputs.values() for i in keys])}
    steps: list[Step] = []
    outcome: dict[tuple[str, str], Output] = {}
    for execution in executions:
        state = STATES.get(execution.last_known_state, FAILED)
        keys = outputs.get(execution.id, {})
        worked, of = execution, run
        if state == CACHED:
            worked, of = _origin(store, keys) or (execution, run)
        component = context_name(store, execution.id, "node").rpartition(".")[2]
        times = worked.create_time_since_epoch, worked.last_update_time_since_epoch
        steps.append(Step(component, state, worked.id, of, *times))
        if state in (RAN, CACHED):
            outcome |= {(component, key): output_of(artifacts[i]) for i, key in keys.items()}
    return steps, outcome


def properties(store: MetadataStore, step: Step) -> dict[str, str | int | float]:
    """What the component of a step was told."""
    (execution,) = store.get_executions_by_id([step.execution])
    return _plain(execution.custom_properties)


def origins(steps: Sequence[Step]) -> list[Step]:
    """The finished steps as they were when their work was done: the same for a run that takes them from the cache."""
    return [step._replace(state=RAN) for step in steps if step.state in (RAN, CACHED)]


def seen_from(steps: Sequence[Step], run: str) -> list[Step]:
    """What `origins` left, as a run sees it: cached is what another run did."""
    return [step if step.run == run else step._replace(state=CACHED) for step in steps]


def _outputs(store: MetadataStore, executions: Sequence[int]) -> dict[int, dict[int, str]]:
    """The artifacts that executions gave, with the names of the outputs, by execution."""
    found: dict[int, dict[int, str]] = {}
    for event in store.get_events_by_execution_ids(list(executions)) if executions else []:
        if event.type in OUTPUTS:
            found.setdefault(event.execution_id, {})[event.artifact_id] = event.path.steps[0].key
    return found


def _origin(store: MetadataStore, artifacts: Mapping[int, str]) -> tuple[metadata_store_pb2.Execution, str] | None:
    """The execution that made artifacts, and its run."""
    events = store.get_events_by_artifact_ids(list(artifacts)) if artifacts else []
    makers = store.get_executions_by_id({event.execution_id for event in events if event.type in OUTPUTS})
    done = [maker for maker in makers if maker.last_known_state == metadata_store_pb2.Execution.COMPLETE]
    if not done:
        return None
    first = min(done, key=lambda execution: execution.id)
    return first, context_name(store, first.id, "pipeline_run")


def context_name(store: MetadataStore, execution: int, kind: str) -> str:
    """The name of an execution's context of a kind (pipeline, pipeline_run or node), "" where there is none."""
    found = store.get_context_type(kind).id
    return next((c.name for c in store.get_contexts_by_execution(execution) if c.type_id == found), "")


def output_of(artifact: metadata_store_pb2.Artifact) -> Output:
    """An artifact with its custom properties, as ML Metadata has it."""
    return Output(artifact.uri, artifact.id, _plain(artifact.custom_properties))


def values(properties: Mapping[str, metadata_store_pb2.Value]) -> dict[str, Any]:
    """Properties as ML Metadata has them: numbers, strings, booleans and messages, by name."""
    return {name: getattr(value, value.WhichOneof("value")) for name, value in properties.items()}


def _plain(properties: Mapping[str, metadata_store_pb2.Value]) -> dict[str, str | int | float]:
    return {name: value for name, value in values(properties).items() if isinstance(value, str | int | float)}
