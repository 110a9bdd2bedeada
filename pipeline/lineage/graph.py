"""Reads ML Metadata as a graph of runs, executions, and their input and output artifacts.

The other modules of this package work on this graph and do not query the store. Reading uses the store's basic
operations only, with many items per call. It imports neither TFX nor TensorFlow.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from components.metadata import CACHED, FAILED, OUTPUTS, RAN, STATES, values
from components.serving_folder import COPY_OF, SERVING_VERSION

PIPELINE_RUN, NODE = "pipeline_run", "node"
INPUTS = {metadata_store_pb2.Event.INPUT, metadata_store_pb2.Event.DECLARED_INPUT}
PUSHED_MODEL = "PushedModel"
# Type of the executions that `im2latex rollback` records; their inputs are pushed models.
ROLLBACK = "Rollback"
# Contexts by kind (run or node) and execution id.
_Places = dict[str, dict[int, metadata_store_pb2.Context]]
# TFX's custom properties of a blessing and of a pushed model.
BLESSED, DESTINATION, VERSION, PUSHED = "blessed", "pushed_destination", "pushed_version", "pushed"


@dataclass(frozen=True)
class Artifact:
    """An artifact: files, and their properties."""

    id: int
    type: str  # TFX's type: Examples, Model, PushedModel
    uri: str
    name: str = ""
    state: str = ""  # ML Metadata's, in lower case: live, pending, marked_for_deletion, deleted, abandoned
    created: int = 0  # milliseconds since 1970
    properties: Mapping[str, Any] = field(default_factory=dict)  # JSON values
    made_by: int = 0  # id of the execution that produced it, not of those that took it from the cache
    copy_of: int = 0  # id of the pushed model that a baseline is a copy of; 0 for other artifacts, or if unknown

    @property
    def blessed(self) -> bool:
        """For a blessing artifact: whether the model is blessed."""
        return self.properties.get(BLESSED) == 1

    @property
    def pushed(self) -> bool:
        """For Pusher's output: whether the model was pushed. The output exists for models that were not pushed too."""
        return self.properties.get(PUSHED) == 1


@dataclass(frozen=True)
class Execution:
    """An execution of a component in a run."""

    id: int
    component: str  # name in the pipeline: Trainer
    type: str  # class of the component
    pipeline: str
    run: str
    state: str  # ran, cached, failed or running; see components.metadata
    started: int  # milliseconds since 1970
    ended: int
    properties: Mapping[str, Any] = field(default_factory=dict)  # execution properties, JSON values
    # Ids of artifacts, by the names of the inputs and outputs.
    inputs: Mapping[str, Sequence[int]] = field(default_factory=dict)
    outputs: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Duration from its start to its end; for a running execution, to its last update."""
        return (self.ended - self.started) / 1000

    def input_ids(self) -> list[int]:
        """Returns the ids of all input artifacts."""
        return _distinct(self.inputs)

    def output_ids(self) -> list[int]:
        """Returns the ids of all output artifacts."""
        return _distinct(self.outputs)


@dataclass(frozen=True)
class Run:
    """A run of a pipeline."""

    id: str  # its start in local time: 2017-08-06T11:48:31.123456
    began: int  # milliseconds since 1970
    properties: Mapping[str, Any] = field(default_factory=dict)  # see pipeline.running.record


@dataclass(frozen=True)
class LineageGraph:
    """All of a store, or a part of it: then ids can refer to items outside the graph. Mappings are in order of id."""

    artifacts: Mapping[int, Artifact] = field(default_factory=dict)
    executions: Mapping[int, Execution] = field(default_factory=dict)
    runs: Mapping[str, Run] = field(default_factory=dict)  # oldest first

    @cached_property
    def users(self) -> Mapping[int, Sequence[int]]:
        """Ids of the executions that have an artifact as input, by artifact id."""
        users: dict[int, list[int]] = {}
        for execution in self.executions.values():
            for artifact in execution.input_ids():
                users.setdefault(artifact, []).append(execution.id)
        return users

    @cached_property
    def of_run(self) -> Mapping[str, Sequence[Execution]]:
        """Executions by run, in the order in which they started."""
        executions: dict[str, list[Execution]] = {}
        for execution in self.executions.values():
            executions.setdefault(execution.run, []).append(execution)
        return executions

    def maker(self, artifact: int) -> Execution | None:
        """Returns the execution that produced an artifact; None if it is not in the graph."""
        return self.executions.get(self.artifacts[artifact].made_by) if artifact in self.artifacts else None

    def seconds(self, run: str) -> float:
        """Returns the duration of a run from the start of its first execution to the end of its last one."""
        executions = self.of_run.get(run, ())
        return (max(e.ended for e in executions) - executions[0].started) / 1000 if executions else 0.0

    def outputs(self, run: str) -> dict[tuple[str, str], Artifact]:
        """Returns the outputs of a run, including cached ones, by component and output name."""
        return {
            (execution.component, key): self.artifacts[ids[-1]]
            for execution in self.of_run.get(run, ())
            if execution.state in (RAN, CACHED)
            for key, ids in execution.outputs.items()
            if ids[-1] in self.artifacts
        }


def read_store(store: MetadataStore) -> LineageGraph:
    """Reads the whole store; 1,000 runs take about 2 s."""
    artifacts = store.get_artifacts()
    events = store.get_events_by_artifact_ids([artifact.id for artifact in artifacts]) if artifacts else []
    kinds = _contexts(store)
    executions, places = _by_context(store, kinds)
    # Executions outside of pipelines, such as rollbacks.
    others = _executions(store, {event.execution_id for event in events} - set(executions))
    runs = kinds[PIPELINE_RUN].values()
    return _graph(store, [*executions.values(), *others], artifacts, events, _makers(events), places, runs)


def read_runs(store: MetadataStore, runs: Iterable[str]) -> LineageGraph:
    """Reads runs by id, with their artifacts and the executions of other runs that produced these."""
    contexts_or_none = [store.get_context_by_type_and_name(PIPELINE_RUN, run) for run in runs]
    contexts = [context for context in contexts_or_none if context]
    executions = [e for context in contexts for e in store.get_executions_by_context(context.id)]
    return _part(store, {execution.id: execution for execution in executions}, set(), contexts, with_makers=True)


def read_lineage(
    store: MetadataStore, artifacts: Iterable[int], *, up: bool = True, down: bool = False, depth: int | None = None
) -> LineageGraph:
    """Reads the ancestors of artifacts, their descendants, or both.

    Executions that took their outputs from the cache are left out. So are executions that produced the other inputs of
    descendants.

    Args:
        store: ML Metadata.
        artifacts: ids of the artifacts.
        up: read ancestors. A baseline counts as having none, although it is a copy of a pushed model; otherwise the
            ancestors would include every model that ever served.
        down: read descendants.
        depth: maximum number of executions to follow in each direction; None for no limit.
    """
    first = set(artifacts)
    executions: dict[int, metadata_store_pb2.Execution] = {}
    for step in [_made_from] * up + [_made_of] * down:
        frontier, seen, remaining = first, set(first), depth
        while frontier and remaining != 0:
            new = {e.id: e for e in step(store, frontier) if e.id not in executions}
            executions |= new
            sides = INPUTS if step is _made_from else OUTPUTS
            frontier = {event.artifact_id for event in _events(store, new) if event.type in sides} - seen
            seen |= frontier
            remaining = None if remaining is None else remaining - 1
    return _part(store, executions, first, (), with_makers=False)


def _made_from(store: MetadataStore, artifacts: Collection[int]) -> list[metadata_store_pb2.Execution]:
    return _executions(store, _makers(store.get_events_by_artifact_ids(list(artifacts))).values())


def _made_of(store: MetadataStore, artifacts: Collection[int]) -> list[metadata_store_pb2.Execution]:
    events = store.get_events_by_artifact_ids(list(artifacts))
    users = _executions(store, [event.execution_id for event in events if event.type in INPUTS])
    return [user for user in users if user.last_known_state != metadata_store_pb2.Execution.CACHED]


def _executions(store: MetadataStore, ids: Collection[int]) -> list[metadata_store_pb2.Execution]:
    return store.get_executions_by_id(set(ids)) if ids else []


def _events(store: MetadataStore, executions: Collection[int]) -> list[metadata_store_pb2.Event]:
    return store.get_events_by_execution_ids(list(executions)) if executions else []


def _makers(events: Iterable[metadata_store_pb2.Event]) -> dict[int, int]:
    """Returns the execution that produced each artifact: the first with it as output; later ones are cache hits."""
    makers: dict[int, int] = {}
    for event in events:
        if event.type in OUTPUTS:
            makers[event.artifact_id] = min(event.execution_id, makers.get(event.artifact_id, event.execution_id))
    return makers


def _part(
    store: MetadataStore,
    executions: dict[int, metadata_store_pb2.Execution],
    artifacts: set[int],
    runs: Iterable[metadata_store_pb2.Context],
    with_makers: bool,
) -> LineageGraph:
    """Builds the graph of executions, their artifacts and further ones; `with_makers` adds the producing executions."""
    events = _events(store, executions)
    artifacts |= {event.artifact_id for event in events}
    makers = _makers(store.get_events_by_artifact_ids(list(artifacts))) if artifacts else {}
    missing = set(makers.values()) - set(executions) if with_makers else set()
    events += _events(store, missing)
    read_artifacts = store.get_artifacts_by_id(list(artifacts)) if artifacts else []
    every = [*executions.values(), *_executions(store, missing)]
    return _graph(store, every, read_artifacts, events, makers, _places(store, [e.id for e in every]), runs)


def _graph(
    store: MetadataStore,
    executions: Iterable[metadata_store_pb2.Execution],
    artifacts: Iterable[metadata_store_pb2.Artifact],
    events: Iterable[metadata_store_pb2.Event],
    makers: Mapping[int, int],
    places: _Places,
    more_runs: Iterable[metadata_store_pb2.Context],
) -> LineageGraph:
    """Builds a graph; `more_runs` are runs that may have no executions."""
    executions = sorted(executions, key=lambda execution: execution.id)
    inputs, outputs = (_keys(events, types) for types in (INPUTS, OUTPUTS))
    runs, nodes = places[PIPELINE_RUN], places[NODE]
    every = {run.id: run for run in [*more_runs, *(runs[e.id] for e in executions if e.id in runs)]}
    in_order = sorted(every.values(), key=lambda run: run.id)  # not by time, because the clock may be set back
    artifacts_by_id = {
        a.id: _artifact(a, makers.get(a.id, 0)) for a in sorted(artifacts, key=lambda artifact: artifact.id)
    }
    executions_by_id = {
        e.id: _execution(e, runs.get(e.id), nodes.get(e.id), inputs.get(e.id, {}), outputs.get(e.id, {}))
        for e in executions
    }
    copies = _copies(store, artifacts_by_id, executions_by_id)
    return LineageGraph(
        {
            i: replace(artifact, copy_of=copies[i]) if i in copies else artifact
            for i, artifact in artifacts_by_id.items()
        },
        executions_by_id,
        {run.name: Run(run.name, run.create_time_since_epoch, plain(run.custom_properties)) for run in in_order},
    )


def _keys(events: Iterable[metadata_store_pb2.Event], types: Collection[int]) -> dict[int, dict[str, list[int]]]:
    """Groups artifact ids by execution and by name of the input or output, in the order of the events."""
    ids_by_execution: dict[int, dict[str, list[int]]] = {}
    for event in events:
        if event.type in types:
            key = event.path.steps[0].key if event.path.steps else ""
            ids = ids_by_execution.setdefault(event.execution_id, {}).setdefault(key, [])
            ids.append(event.artifact_id)
    return ids_by_execution


def _contexts(store: MetadataStore) -> dict[str, dict[int, metadata_store_pb2.Context]]:
    """Reads the contexts of runs and of nodes, by id."""
    return {
        kind: {context.id: context for context in store.get_contexts_by_type(kind)} for kind in (PIPELINE_RUN, NODE)
    }


def _by_context(
    store: MetadataStore, kinds: Mapping[str, Mapping[int, metadata_store_pb2.Context]]
) -> tuple[dict[int, metadata_store_pb2.Execution], _Places]:
    """Reads all executions, and the contexts of each, one query per context."""
    executions: dict[int, metadata_store_pb2.Execution] = {}
    places: _Places = {kind: {} for kind in kinds}
    for kind, contexts in kinds.items():
        for context in contexts.values():
            for execution in store.get_executions_by_context(context.id):
                executions[execution.id] = execution
                places[kind][execution.id] = context
    return executions, places


def _places(store: MetadataStore, executions: Sequence[int]) -> _Places:
    """Returns the contexts of executions, with the cheaper of two ways to query them."""
    kinds = _contexts(store)
    # Querying by context returns all executions in full, and a node has as many as there are runs.
    if len(executions) >= len(kinds[PIPELINE_RUN]):
        return _by_context(store, kinds)[1]
    places: _Places = {kind: {} for kind in kinds}
    for execution in executions:
        for context in store.get_contexts_by_execution(execution):
            for kind, contexts in kinds.items():
                if context.id in contexts:
                    places[kind][execution] = context
    return places


def _artifact(artifact: metadata_store_pb2.Artifact, maker: int) -> Artifact:
    return Artifact(
        artifact.id,
        type=artifact.type,
        uri=artifact.uri,
        name=artifact.name,
        state=metadata_store_pb2.Artifact.State.Name(artifact.state).lower(),
        created=artifact.create_time_since_epoch,
        properties=plain(artifact.properties) | plain(artifact.custom_properties),
        made_by=maker,
    )


def _execution(
    execution: metadata_store_pb2.Execution,
    run: metadata_store_pb2.Context | None,
    node: metadata_store_pb2.Context | None,
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
) -> Execution:
    pipeline, _, component = (node.name if node else execution.type).rpartition(".")
    return Execution(
        execution.id,
        component=component,
        type=execution.type,
        pipeline=pipeline if node else "",
        run=run.name if run else "",
        state=STATES.get(execution.last_known_state, FAILED),
        started=execution.create_time_since_epoch,
        ended=execution.last_update_time_since_epoch,
        properties=plain(execution.properties) | plain(execution.custom_properties),
        inputs=inputs,
        outputs=outputs,
    )


def _copies(
    store: MetadataStore, artifacts: Mapping[int, Artifact], executions: Mapping[int, Execution]
) -> dict[int, int]:
    """Returns the pushed model that each baseline is a copy of, by its recorded id, else by the folder it was in."""
    baselines = [artifact for artifact in artifacts.values() if artifact.properties.get(SERVING_VERSION)]
    copies = {a.id: a.properties[COPY_OF] for a in baselines if COPY_OF in a.properties}
    if len(copies) < len(baselines):
        pushed = {plain(a.custom_properties).get(DESTINATION): a.id for a in store.get_artifacts_by_type(PUSHED_MODEL)}
        for baseline in baselines:
            maker = executions.get(baseline.made_by)
            if baseline.id not in copies and maker:
                folder = os.path.join(maker.properties.get("serving", ""), baseline.properties[SERVING_VERSION])
                copies |= {baseline.id: pushed[folder]} if folder in pushed else {}
    return copies


def plain(properties: Mapping[str, metadata_store_pb2.Value]) -> dict[str, Any]:
    """Converts properties of ML Metadata to JSON values."""
    return {name: _json(value) for name, value in values(properties).items()}


def _json(value: Any) -> Any:
    if not isinstance(value, Message):
        return value
    document = json_format.MessageToDict(value)
    # TFX wraps values that are not JSON objects.
    return document["__value__"] if isinstance(document, dict) and set(document) == {"__value__"} else document


def _distinct(artifacts: Mapping[str, Sequence[int]]) -> list[int]:
    return list(dict.fromkeys(i for ids in artifacts.values() for i in ids))
