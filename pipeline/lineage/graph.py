"""What ML Metadata knows, as a graph: runs, what was executed in them, and the artifacts that went in and came out.

Everything else here works on this graph and asks no store. It is read by the primitives that every ML Metadata has,
many things a call; nothing of TFX or TensorFlow is imported.
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
# The type of the executions that `im2latex rollback` leaves; what they take are pushed models.
ROLLBACK = "Rollback"
# Contexts by kind and execution.
_Places = dict[str, dict[int, metadata_store_pb2.Context]]
# TFX's custom properties of a blessing and of a pushed model.
BLESSED, DESTINATION, VERSION, PUSHED = "blessed", "pushed_destination", "pushed_version", "pushed"


@dataclass(frozen=True)
class Artifact:
    """Something that was made: files, and what is known of them."""

    id: int
    type: str  # as TFX has it: Examples, Model, PushedModel
    uri: str
    name: str = ""
    state: str = ""  # as ML Metadata has it, in small letters: live, pending, marked_for_deletion, deleted, abandoned
    created: int = 0  # milliseconds since 1970
    properties: Mapping[str, Any] = field(default_factory=dict)  # as JSON has them
    made_by: int = 0  # the execution that made it; executions that took it from the cache are others
    copy_of: int = 0  # the pushed model that a baseline is a copy of, 0 where it is none or that is not known

    @property
    def blessed(self) -> bool:
        """Of a blessing: whether it is one, and no refusal."""
        return self.properties.get(BLESSED) == 1

    @property
    def pushed(self) -> bool:
        """Of what Pusher gave: whether it pushed the model, and did not only say that it did not."""
        return self.properties.get(PUSHED) == 1


@dataclass(frozen=True)
class Execution:
    """A component's part in a run."""

    id: int
    component: str  # its name in the pipeline: Trainer
    type: str  # class of the component
    pipeline: str
    run: str
    state: str  # ran, cached, failed or running, as components.metadata names them
    started: int  # milliseconds since 1970
    ended: int
    properties: Mapping[str, Any] = field(default_factory=dict)  # what the component was told, as JSON has it
    # Ids of artifacts, by the names of the inputs and outputs.
    inputs: Mapping[str, Sequence[int]] = field(default_factory=dict)
    outputs: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From its beginning to its end; of one that is running, to its last word."""
        return (self.ended - self.started) / 1000

    def taken(self) -> list[int]:
        """Ids of all inputs."""
        return _distinct(self.inputs)

    def given(self) -> list[int]:
        """Ids of all outputs."""
        return _distinct(self.outputs)


@dataclass(frozen=True)
class Run:
    """One start of a pipeline."""

    id: str  # its local time: 2017-08-06T11:48:31.123456
    began: int  # milliseconds since 1970
    properties: Mapping[str, Any] = field(default_factory=dict)  # see pipeline.running.record


@dataclass(frozen=True)
class Graph:
    """A part of a store, or all of it: what it names and does not hold was not read. Mappings are in order of id."""

    artifacts: Mapping[int, Artifact] = field(default_factory=dict)
    executions: Mapping[int, Execution] = field(default_factory=dict)
    runs: Mapping[str, Run] = field(default_factory=dict)  # the oldest first

    @cached_property
    def users(self) -> Mapping[int, Sequence[int]]:
        """Executions that took an artifact as input, by artifact."""
        found: dict[int, list[int]] = {}
        for execution in self.executions.values():
            for artifact in execution.taken():
                found.setdefault(artifact, []).append(execution.id)
        return found

    @cached_property
    def of_run(self) -> Mapping[str, Sequence[Execution]]:
        """Executions by run, in the order in which they were begun."""
        found: dict[str, list[Execution]] = {}
        for execution in self.executions.values():
            found.setdefault(execution.run, []).append(execution)
        return found

    def maker(self, artifact: int) -> Execution | None:
        """The execution that made an artifact."""
        return self.executions.get(self.artifacts[artifact].made_by) if artifact in self.artifacts else None

    def seconds(self, run: str) -> float:
        """From the beginning of a run's first component to the end of its last one."""
        executions = self.of_run.get(run, ())
        return (max(e.ended for e in executions) - executions[0].started) / 1000 if executions else 0.0

    def outputs(self, run: str) -> dict[tuple[str, str], Artifact]:
        """What a run made or took from the cache, by component and name of the output."""
        return {
            (execution.component, key): self.artifacts[made[-1]]
            for execution in self.of_run.get(run, ())
            if execution.state in (RAN, CACHED)
            for key, made in execution.outputs.items()
            if made[-1] in self.artifacts
        }


def read_store(store: MetadataStore) -> Graph:
    """Everything; 1,000 runs take about 2 s."""
    artifacts = store.get_artifacts()
    events = store.get_events_by_artifact_ids([artifact.id for artifact in artifacts]) if artifacts else []
    kinds = _contexts(store)
    executions, places = _by_context(store, kinds)
    # Of something else than a pipeline.
    others = _executions(store, {event.execution_id for event in events} - set(executions))
    runs = kinds[PIPELINE_RUN].values()
    return _graph(store, [*executions.values(), *others], artifacts, events, _makers(events), places, runs)


def read_runs(store: MetadataStore, runs: Iterable[str]) -> Graph:
    """Runs by their ids, with what they took and gave, and the executions of other runs that made it."""
    found = [store.get_context_by_type_and_name(PIPELINE_RUN, run) for run in runs]
    contexts = [context for context in found if context]
    executions = [e for context in contexts for e in store.get_executions_by_context(context.id)]
    return _part(store, {execution.id: execution for execution in executions}, set(), contexts, with_makers=True)


def read_lineage(
    store: MetadataStore, artifacts: Iterable[int], *, up: bool = True, down: bool = False, depth: int | None = None
) -> Graph:
    """What artifacts were made from, what was made from them, or both.

    Executions that took their outputs from the cache are left out, and so are those that made what else came in.

    Args:
        store: ML Metadata.
        artifacts: their ids.
        up: follow what they were made from. From a baseline it does not go on to the pushed model that it is a copy of:
            that would be the way through every model that ever served.
        down: follow what was made from them.
        depth: executions to follow at most, in each direction; None for all.
    """
    first = set(artifacts)
    executions: dict[int, metadata_store_pb2.Execution] = {}
    for ahead in [_made_from] * up + [_made_of] * down:
        frontier, seen, left = first, set(first), depth
        while frontier and left != 0:
            found = {e.id: e for e in ahead(store, frontier) if e.id not in executions}
            executions |= found
            sides = INPUTS if ahead is _made_from else OUTPUTS
            frontier = {event.artifact_id for event in _events(store, found) if event.type in sides} - seen
            seen |= frontier
            left = None if left is None else left - 1
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
    """The execution that made an artifact: the first that gave it, for those that take it from the cache come later."""
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
) -> Graph:
    """The graph of executions, their artifacts and some more; if asked for, with the executions that made these."""
    events = _events(store, executions)
    artifacts |= {event.artifact_id for event in events}
    makers = _makers(store.get_events_by_artifact_ids(list(artifacts))) if artifacts else {}
    missing = set(makers.values()) - set(executions) if with_makers else set()
    events += _events(store, missing)
    found = store.get_artifacts_by_id(list(artifacts)) if artifacts else []
    every = [*executions.values(), *_executions(store, missing)]
    return _graph(store, every, found, events, makers, _places(store, [e.id for e in every]), runs)


def _graph(
    store: MetadataStore,
    executions: Iterable[metadata_store_pb2.Execution],
    artifacts: Iterable[metadata_store_pb2.Artifact],
    events: Iterable[metadata_store_pb2.Event],
    makers: Mapping[int, int],
    places: _Places,
    more_runs: Iterable[metadata_store_pb2.Context],
) -> Graph:
    """The graph of all of these; a run that executed nothing is known by its context alone."""
    executions = sorted(executions, key=lambda execution: execution.id)
    inputs, outputs = (_keys(events, types) for types in (INPUTS, OUTPUTS))
    runs, nodes = places[PIPELINE_RUN], places[NODE]
    every = {run.id: run for run in [*more_runs, *(runs[e.id] for e in executions if e.id in runs)]}
    began = sorted(every.values(), key=lambda run: run.id)  # times rise only as long as nobody sets the clock back
    made = {a.id: _artifact(a, makers.get(a.id, 0)) for a in sorted(artifacts, key=lambda artifact: artifact.id)}
    done = {
        e.id: _execution(e, runs.get(e.id), nodes.get(e.id), inputs.get(e.id, {}), outputs.get(e.id, {}))
        for e in executions
    }
    copies = _copies(store, made, done)
    return Graph(
        {i: replace(artifact, copy_of=copies[i]) if i in copies else artifact for i, artifact in made.items()},
        done,
        {run.name: Run(run.name, run.create_time_since_epoch, plain(run.custom_properties)) for run in began},
    )


def _keys(events: Iterable[metadata_store_pb2.Event], types: Collection[int]) -> dict[int, dict[str, list[int]]]:
    """Artifacts by execution and name of the input or output, in the order in which they were given."""
    found: dict[int, dict[str, list[int]]] = {}
    for event in events:
        if event.type in types:
            key = event.path.steps[0].key if event.path.steps else ""
            ids = found.setdefault(event.execution_id, {}).setdefault(key, [])
            ids.append(event.artifact_id)
    return found


def _contexts(store: MetadataStore) -> dict[str, dict[int, metadata_store_pb2.Context]]:
    """Runs and nodes, by id."""
    return {
        kind: {context.id: context for context in store.get_contexts_by_type(kind)} for kind in (PIPELINE_RUN, NODE)
    }


def _by_context(
    store: MetadataStore, kinds: Mapping[str, Mapping[int, metadata_store_pb2.Context]]
) -> tuple[dict[int, metadata_store_pb2.Execution], _Places]:
    """All executions of runs and nodes, and which these are."""
    executions: dict[int, metadata_store_pb2.Execution] = {}
    places: _Places = {kind: {} for kind in kinds}
    for kind, contexts in kinds.items():
        for context in contexts.values():
            for execution in store.get_executions_by_context(context.id):
                executions[execution.id] = execution
                places[kind][execution.id] = context
    return executions, places


def _places(store: MetadataStore, executions: Sequence[int]) -> _Places:
    """The runs and nodes of executions, asked for in the way that takes less."""
    kinds = _contexts(store)
    # A context answers with all of its executions whole, and those of a node are as many as there are runs.
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
    """The pushed models that baselines are copies of: by id where it is kept, else the last one pushed to the place."""
    baselines = [artifact for artifact in artifacts.values() if artifact.properties.get(SERVING_VERSION)]
    copies = {a.id: a.properties[COPY_OF] for a in baselines if COPY_OF in a.properties}
    if len(copies) < len(baselines):
        pushed = {plain(a.custom_properties).get(DESTINATION): a.id for a in store.get_artifacts_by_type(PUSHED_MODEL)}
        for baseline in baselines:
            maker = executions.get(baseline.made_by)
            if baseline.id not in copies and maker:
                place = os.path.join(maker.properties.get("serving", ""), baseline.properties[SERVING_VERSION])
                copies |= {baseline.id: pushed[place]} if place in pushed else {}
    return copies


def plain(properties: Mapping[str, metadata_store_pb2.Value]) -> dict[str, Any]:
    """Properties as JSON has them."""
    return {name: _json(value) for name, value in values(properties).items()}


def _json(value: Any) -> Any:
    if not isinstance(value, Message):
        return value
    document = json_format.MessageToDict(value)
    # TFX wraps what is no object.
    return document["__value__"] if isinstance(document, dict) and set(document) == {"__value__"} else document


def _distinct(artifacts: Mapping[str, Sequence[int]]) -> list[int]:
    return list(dict.fromkeys(i for ids in artifacts.values() for i in ids))
