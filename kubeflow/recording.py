"""Records a run on Kubeflow in a database of ML Metadata, in the types, events and contexts of the local runner.

Every container records its own task. A task may be tried several times, and two containers may record the same at the
same time, so an execution is named RUN.COMPONENT, which can be there once: another attempt takes over the execution of
the one before.

A task whose outputs come from the cache starts no container. It is recorded by the tasks that take these outputs: what
made them, and what that took, is recorded as cached unless this run made it. The task `record-lineage` at the end takes
what nothing else takes. The cache cannot have outputs that the database does not know, because the address of the
database is part of the cache's key.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from absl import logging
from ml_metadata import MetadataStore, errors
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration.metadata import Metadata
from tfx.orchestration.portable.mlmd import context_lib, execution_lib
from tfx.types.artifact import Artifact, ArtifactState

from components.metadata import ADDRESS, OUTPUTS, context_name, origins, read_steps
from im2latex.errors import UserError
from kubeflow.addresses import with_addresses
from kubeflow.entrypoint import INPUT_BASE, RUN, Node
from pipeline.lineage.graph import INPUTS, NODE, PIPELINE_RUN
from pipeline.lineage.run_summary import CLUSTER
from pipeline.lineage.store import connection, problem
from pipeline.running.record import code, configuration, fingerprint_of, machine, packages, start_of
from pipeline.workspace import Workspace

EXAMPLES, TRAINER = "ImportExampleGen", "Trainer"
DATA_FINGERPRINT = "data_fingerprint"
# How long a database may be away before the task fails, seconds; the first pause and the longest one.
PATIENCE = 300.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 15.0
Answer = TypeVar("Answer")
_Execution = metadata_store_pb2.Execution


class Recorder:
    """Records one task of one run."""

    def __init__(self, address: str, node: Node) -> None:
        """
        Args:
            address: of the database, as in metadata.connection.
            node: the task's.

        Raises:
            UserError: the pod does not know its run.
        """
        if not os.environ.get(RUN):
            raise UserError(f"{RUN} is not set in this pod; `im2latex kubeflow compile` writes a pipeline that sets it")
        self.run = os.environ[RUN]
        self._address = address
        self._node = node
        self._execution = 0

    def metadata(self) -> Metadata:
        """The database, for TFX's drivers."""
        return self._patiently(lambda: Metadata(connection(self._address, Workspace.from_environment())))

    def describe_run(self, told: Mapping[str, Any], data: str) -> None:
        """Records what the run is run with.

        Args:
            told: `knobs` and `code` of the compiled pipeline, as `pipeline.running.record` has them.
            data: where the records are.
        """
        knobs = told["knobs"] | {"data.source": data}
        here = code()
        # The checkout that the pipeline was compiled in has a commit, the image has none: the same code has the same.
        same = told["code"]["code_sha256"] == here["code_sha256"]
        described = {
            **configuration(knobs),
            **(told["code"] if same else here),
            **packages(),
            **machine(),
            **start_of(knobs["training.start_from"]),
            "data": data,
            "host": CLUSTER,
            "workspace": knobs["kubeflow.mount"],
        }
        self._store(lambda handle: self._describe(handle, described))

    @contextlib.contextmanager
    def recorded(
        self, inputs: Mapping[str, list[Artifact]], outputs: Mapping[str, list[Artifact]], properties: Mapping[str, Any]
    ) -> Iterator[None]:
        """Around the work of an executor: records that it runs, what it takes, how it ends and what it made.

        The inputs get the ids that they have in the database.
        """
        self._begin(inputs, properties)
        try:
            yield
        except Exception:
            try:
                self._store(self._fail)
            except UserError as lost:  # what the executor said matters more
                logging.error("%s", lost)
            raise
        self._end(outputs)
        if self._node.id == EXAMPLES:
            fingerprint = fingerprint_of(Path(properties[INPUT_BASE]))
            self._store(lambda handle: self._describe(handle, {DATA_FINGERPRINT: fingerprint}))

    def _begin(self, inputs: Mapping[str, list[Artifact]], properties: Mapping[str, Any]) -> None:
        def put(handle: Metadata) -> None:
            taken = self._taken(handle, inputs)
            name, kind = f"{self.run}.{self._node.id}", self._node.execution_type()
            told = {
                key: with_addresses(value) if isinstance(value, str) else value for key, value in properties.items()
            }
            execution = execution_lib.prepare_execution(handle, kind, _Execution.RUNNING, told, name)
            if before := handle.store.get_execution_by_type_and_name(kind.name, name):
                execution.id = before.id
                handle.store.put_executions([execution])
            else:
                execution_lib.put_execution(handle, execution, self._contexts(handle, self._node.id), taken)
            for key, artifacts in inputs.items():
                for artifact, stored in zip(artifacts, taken[key], strict=True):
                    artifact.id = stored.id
            self._execution = execution.id
            if self._node.id == TRAINER:  # its machine is the one that matters
                self._describe(handle, machine())

        self._store(put)

    def _end(self, outputs: Mapping[str, list[Artifact]]) -> None:
        def put(handle: Metadata) -> None:
            (execution,) = handle.store.get_executions_by_id([self._execution])
            execution.last_known_state = _Execution.COMPLETE
            made = {key: [_as_stored(artifact) for artifact in artifacts] for key, artifacts in outputs.items()}
            before = _artifacts(handle.store, self._execution, OUTPUTS)
            for key, (artifact,) in made.items():
                artifact.state, artifact.is_external = ArtifactState.PUBLISHED, False
                if key in before:  # an earlier attempt was stopped after it had recorded them
                    artifact.id = before[key]
            if before:
                handle.store.put_artifacts([artifact.mlmd_artifact for (artifact,) in made.values()])
                handle.store.put_executions([execution])
            else:
                contexts = self._contexts(handle, self._node.id)
                execution_lib.put_execution(handle, execution, contexts, output_artifacts=made)

        self._store(put)

    def _fail(self, handle: Metadata) -> None:
        """The next attempt takes the execution over."""
        (execution,) = handle.store.get_executions_by_id([self._execution])
        execution.last_known_state = _Execution.FAILED
        handle.store.put_executions([execution])

    def record_cached(self, inputs: Mapping[str, list[Artifact]]) -> None:
        """Records what made artifacts, and what that took, as cached, unless this run made it."""
        self._store(lambda handle: self._taken(handle, inputs))

    def steps(self) -> str:
        """The run's steps so far, as the report takes them."""
        return self._store(lambda handle: json.dumps(origins(read_steps(handle.store, self.run)[0])))

    def _taken(self, handle: Metadata, inputs: Mapping[str, list[Artifact]]) -> dict[str, list[Artifact]]:
        """Inputs as the database has them; one that it does not have is new, and nobody knows what made it."""
        taken = {key: [_known(handle.store, _as_stored(one)) for one in artifacts] for key, artifacts in inputs.items()}
        self._record_makers(handle, {one.id for artifacts in taken.values() for one in artifacts if one.id})
        return taken

    def _record_makers(self, handle: Metadata, artifacts: Iterable[int]) -> None:
        store, seen, frontier = handle.store, set[int](), set(artifacts)
        while frontier:
            events = store.get_events_by_artifact_ids(sorted(frontier))
            makers = store.get_executions_by_id({event.execution_id for event in events if event.type in OUTPUTS})
            seen |= frontier
            frontier = set()
            for maker in makers:
                run = context_name(store, maker.id, PIPELINE_RUN)
                if run != self.run and maker.last_known_state == _Execution.COMPLETE:
                    frontier |= self._record_cached(handle, maker, run) - seen

    def _record_cached(self, handle: Metadata, maker: Any, run: str) -> set[int]:
        """Records that this run took the outputs of another run's execution from the cache; gives what that took."""
        store = handle.store
        component = context_name(store, maker.id, NODE).rpartition(".")[2]
        events = [event for event in store.get_events_by_execution_ids([maker.id]) if event.type in INPUTS | OUTPUTS]
        artifacts = {one.id: one for one in store.get_artifacts_by_id([event.artifact_id for event in events])}
        cached = _Execution(
            type_id=maker.type_id,
            name=f"{self.run}.{component}",
            last_known_state=_Execution.CACHED,
            custom_properties=maker.custom_properties,
        )
        pairs = []
        for event in events:
            again = metadata_store_pb2.Event(type=event.type, path=event.path)
            pairs.append((artifacts[event.artifact_id], again))
        if not store.get_execution_by_type_and_name(maker.type, cached.name):
            store.put_execution(cached, pairs, self._contexts(handle, component), reuse_context_if_already_exist=True)
        if component == EXAMPLES:
            before = store.get_context_by_type_and_name(PIPELINE_RUN, run).custom_properties
            if DATA_FINGERPRINT in before:
                self._describe(handle, {DATA_FINGERPRINT: before[DATA_FINGERPRINT].string_value})
        return {event.artifact_id for event in events if event.type in INPUTS}

    def _describe(self, handle: Metadata, properties: Mapping[str, str | int]) -> None:
        """Sets properties of the run, and leaves those that others set."""
        run = self._contexts(handle, "")[1]
        changed = metadata_store_pb2.Context(id=run.id, type_id=run.type_id, name=run.name)
        for name, value in properties.items():
            if isinstance(value, str):
                changed.custom_properties[name].string_value = value
            else:
                changed.custom_properties[name].int_value = value
        handle.store.put_contexts([changed], field_mask_paths=[f"custom_properties.{name}" for name in properties])

    def _contexts(self, handle: Metadata, component: str) -> list[Any]:
        """The pipeline, its run and, if a component is named, its node; made if they are missing."""
        register = context_lib.register_context_if_not_exists
        pipeline = register(handle, "pipeline", self._node.pipeline)
        contexts = [pipeline, register(handle, PIPELINE_RUN, self.run, parent_contexts=[pipeline])]
        return [*contexts, register(handle, NODE, f"{self._node.pipeline}.{component}")] if component else contexts

    def _store(self, put: Callable[[Metadata], Answer]) -> Answer:
        """Writes to the database, which is opened for that alone: a training outlives a connection."""

        def once() -> Answer:
            with Metadata(connection(self._address, Workspace.from_environment())) as handle:
                return put(handle)

        return self._patiently(once)

    def _patiently(self, do: Callable[[], Answer]) -> Answer:
        """Does something again while the database is away, or others write the same; all that is done here may be.

        Raises:
            UserError: it does not work, or the database refuses the user.
        """
        end, pause = time.monotonic() + PATIENCE, FIRST_PAUSE
        while True:
            try:
                return do()
            except (RuntimeError, errors.StatusError, UserError) as error:
                if "Access denied" in str(error) or time.monotonic() + pause > end:
                    said = str(error) if isinstance(error, UserError) else f"{self._address} {problem(str(error))}"
                    raise UserError(f"{said} (the run's metadata cannot be recorded)") from error
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE)


def _as_stored(artifact: Artifact) -> Artifact:
    """An artifact of this container with addresses in place of the launcher's paths, and no id."""
    made = type(artifact)()
    stored = metadata_store_pb2.Artifact()
    stored.CopyFrom(artifact.mlmd_artifact)
    stored.ClearField("id")
    stored.uri = str(artifact.get_string_custom_property(ADDRESS) or artifact.uri)
    stored.custom_properties.pop(ADDRESS, None)
    for value in (*stored.properties.values(), *stored.custom_properties.values()):
        if value.HasField("string_value"):
            value.string_value = with_addresses(value.string_value)
    made.set_mlmd_artifact(stored)
    return made


def _known(store: MetadataStore, artifact: Artifact) -> Artifact:
    """The artifact as the database has it, or as it is given if the database has none at its address."""
    found = [one for one in store.get_artifacts_by_uri(artifact.uri) if one.type == artifact.type_name]
    if found:
        artifact.set_mlmd_artifact(max(found, key=lambda one: one.id))
    return artifact


def _artifacts(store: MetadataStore, execution: int, types: Iterable[int]) -> dict[str, int]:
    """The artifacts that an execution took or gave, by name."""
    events = store.get_events_by_execution_ids([execution])
    return {event.path.steps[0].key: event.artifact_id for event in events if event.type in types}
