"""Records a run on Kubeflow in a database of ML Metadata, with the same types, events and contexts as the local runner.

Every container records its own task. A task may be retried, and two containers may record the same execution at the
same time. Executions are therefore named RUN.COMPONENT, which is unique: a retry reuses the execution of the attempt
before it.

A task whose outputs come from the cache starts no container. The tasks that use these outputs record it instead: unless
this run produced the outputs, the execution that did, and those before it, are recorded as cached. The task
`record-lineage` at the end does this for outputs that no other task uses. The cache has no outputs that are missing in
the database, because the address of the database is part of the cache key.
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
from tfx.proto.orchestration import pipeline_pb2
from tfx.types.artifact import Artifact, ArtifactState

from components.metadata import ADDRESS, OUTPUTS, context_name, origins, read_steps, values
from im2latex.errors import UserError
from kubeflow.addresses import with_addresses
from kubeflow.entrypoint import INPUT_BASE, RUN, NodeSpec
from pipeline.lineage.graph import INPUTS, NODE, PIPELINE_RUN
from pipeline.lineage.run_summary import CLUSTER
from pipeline.lineage.store import connection, problem
from pipeline.running.record import code, configuration, fingerprint_of, machine, packages, start_of
from pipeline.workspace import Workspace

EXAMPLES, TRAINER = "ImportExampleGen", "Trainer"
DATA_FINGERPRINT = "data_fingerprint"
# Properties of a run that a component adds: a run that takes its outputs from the cache gets those of the earlier run.
_DESCRIBED_BY = {EXAMPLES: (DATA_FINGERPRINT,), TRAINER: ("hardware", "environment")}
# How long to retry before the task fails, and the first and the longest pause between retries, in seconds.
PATIENCE = 300.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 15.0
Answer = TypeVar("Answer")
_Execution = metadata_store_pb2.Execution


class Recorder:
    """Records one task of one run."""

    def __init__(self, address: str, node: NodeSpec) -> None:
        """
        Args:
            address: address of the database, as in metadata.connection.
            node: the component of the task.

        Raises:
            UserError: the id of the run is not set in the pod's environment.
        """
        if not os.environ.get(RUN):
            raise UserError(f"{RUN} is not set in this pod; `im2latex kubeflow compile` writes a pipeline that sets it")
        self.run = os.environ[RUN]
        self._address = address
        self._node = node
        self._execution = 0

    def metadata(self) -> Metadata:
        """Returns the database connection for TFX's drivers."""
        return self._retry(lambda: Metadata(connection(self._address, Workspace.from_environment())))

    def describe_run(self, compiled: Mapping[str, Any], data: str) -> None:
        """Records the configuration and the code of the run.

        Args:
            compiled: `knobs` and `code` of the compiled pipeline, as in `pipeline.running.record`.
            data: address of the records.
        """
        knobs = compiled["knobs"] | {"data.source": data}
        current = code()
        # The image has no Git commit; use that of the checkout where the pipeline was compiled, if the code is the
        # same.
        same = compiled["code"]["code_sha256"] == current["code_sha256"]
        described = {
            **configuration(knobs),
            **(compiled["code"] if same else current),
            **packages(),
            **machine(),
            **start_of(knobs["training.start_from"]),
            "data": data,
            "workspace": knobs["kubeflow.mount"],
        }
        self._store(lambda handle: self._describe(handle, described))

    @contextlib.contextmanager
    def recorded(
        self, inputs: Mapping[str, list[Artifact]], outputs: Mapping[str, list[Artifact]], properties: Mapping[str, Any]
    ) -> Iterator[None]:
        """Context manager for the work of an executor: records its start, inputs, end and outputs.

        It sets the ids of the input artifacts in the database.
        """
        self._begin(inputs, properties)
        try:
            yield
        except Exception:
            with _logged():
                self._store(self._fail)
            raise
        self._end(outputs)
        if self._node.id == EXAMPLES:
            fingerprint = fingerprint_of(Path(properties[INPUT_BASE]))
            self._store(lambda handle: self._describe(handle, {DATA_FINGERPRINT: fingerprint}))

    @contextlib.contextmanager
    def failure_recorded(self, inputs: Mapping[str, list[Artifact]], properties: Mapping[str, Any]) -> Iterator[None]:
        """Context manager for the work of a driver: if it fails, records that its component failed."""
        try:
            yield
        except Exception:
            with _logged():
                self._begin(inputs, properties)
                self._store(self._fail)
            raise

    def _begin(self, inputs: Mapping[str, list[Artifact]], properties: Mapping[str, Any]) -> None:
        def change(handle: Metadata) -> None:
            stored_inputs = self._stored_inputs(handle, inputs)
            name, kind = f"{self.run}.{self._node.id}", self._node.execution_type()
            recorded = {
                key: with_addresses(value) if isinstance(value, str) else value for key, value in properties.items()
            }
            execution = execution_lib.prepare_execution(handle, kind, _Execution.RUNNING, recorded, name)
            known: dict[str, int] = {}
            if before := handle.store.get_execution_by_type_and_name(kind.name, name):
                execution.id = before.id
                known = _artifacts(handle.store, before.id, INPUTS)
            new = {key: artifacts for key, artifacts in stored_inputs.items() if key not in known}
            execution_lib.put_execution(handle, execution, self._contexts(handle, self._node.id), new)
            for key, artifacts in inputs.items():
                for artifact, stored in zip(artifacts, stored_inputs[key], strict=True):
                    artifact.id = stored.id
            self._execution = execution.id
            if self._node.id == TRAINER:  # the hardware of the training is recorded for the run
                self._describe(handle, machine())

        self._store(change)

    def _end(self, outputs: Mapping[str, list[Artifact]]) -> None:
        def change(handle: Metadata) -> None:
            (execution,) = handle.store.get_executions_by_id([self._execution])
            execution.last_known_state = _Execution.COMPLETE
            produced = {key: [_as_stored(artifact) for artifact in artifacts] for key, artifacts in outputs.items()}
            before = _artifacts(handle.store, self._execution, OUTPUTS)
            for key, (artifact,) in produced.items():
                artifact.state, artifact.is_external = ArtifactState.PUBLISHED, False
                if key in before:  # recorded by an earlier attempt that was then stopped
                    artifact.id = before[key]
            if before:
                handle.store.put_artifacts([artifact.mlmd_artifact for (artifact,) in produced.values()])
                handle.store.put_executions([execution])
            else:
                contexts = self._contexts(handle, self._node.id)
                execution_lib.put_execution(handle, execution, contexts, output_artifacts=produced)

        self._store(change)

    def _fail(self, handle: Metadata) -> None:
        """Marks the execution as failed; a retry reuses it."""
        (execution,) = handle.store.get_executions_by_id([self._execution])
        execution.last_known_state = _Execution.FAILED
        handle.store.put_executions([execution])

    def record_cached(self, inputs: Mapping[str, list[Artifact]]) -> None:
        """Records the executions behind these artifacts as cached, unless they belong to this run."""
        self._store(lambda handle: self._stored_inputs(handle, inputs))

    def steps(self) -> str:
        """Returns the run's steps so far as JSON, for the report."""
        return self._store(lambda handle: json.dumps(origins(read_steps(handle.store, self.run)[0])))

    def _stored_inputs(self, handle: Metadata, inputs: Mapping[str, list[Artifact]]) -> dict[str, list[Artifact]]:
        """Returns the inputs as stored in the database; those that are not in it stay as they are."""
        stored = {
            key: [_known(handle.store, _as_stored(one)) for one in artifacts] for key, artifacts in inputs.items()
        }
        self._record_makers(handle, {one.id for artifacts in stored.values() for one in artifacts if one.id})
        return stored

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
        """Records an execution of another run as cached in this run; returns the ids of that execution's inputs."""
        store = handle.store
        component = context_name(store, maker.id, NODE).rpartition(".")[2]
        events = [event for event in _events(store, maker.id) if event.type in INPUTS | OUTPUTS]
        artifacts = {one.id: one for one in store.get_artifacts_by_id([event.artifact_id for event in events])}
        cached = _Execution(
            type_id=maker.type_id,
            name=f"{self.run}.{component}",
            last_known_state=_Execution.CACHED,
            custom_properties=maker.custom_properties,
        )
        known: set[tuple[int, int]] = set()
        before = store.get_execution_by_type_and_name(maker.type, cached.name)
        if before:
            cached.id = before.id
            known = {(event.artifact_id, event.type) for event in _events(store, before.id)}
        # An attempt may have failed before another run filled the cache.
        if not before or before.last_known_state not in (_Execution.COMPLETE, _Execution.CACHED):
            pairs = [
                (artifacts[event.artifact_id], metadata_store_pb2.Event(type=event.type, path=event.path))
                for event in events
                if (event.artifact_id, event.type) not in known
            ]
            # Other tasks may describe the run at the same time, so its context must not be written.
            contexts = self._contexts(handle, component)
            store.put_execution(cached, pairs, contexts, reuse_context_if_already_exist=True, force_reuse_context=True)
        if component in _DESCRIBED_BY:
            described = values(store.get_context_by_type_and_name(PIPELINE_RUN, run).custom_properties)
            self._describe(handle, {k: described[k] for k in _DESCRIBED_BY[component] if k in described})
        return {event.artifact_id for event in events if event.type in INPUTS}

    def _describe(self, handle: Metadata, properties: Mapping[str, str | int]) -> None:
        """Sets properties of the run; keeps the other properties."""
        run = self._contexts(handle, "")[1]
        changed = metadata_store_pb2.Context(id=run.id, type_id=run.type_id, name=run.name)
        for name, value in properties.items():
            if isinstance(value, str):
                changed.custom_properties[name].string_value = value
            else:
                changed.custom_properties[name].int_value = value
        handle.store.put_contexts([changed], field_mask_paths=[f"custom_properties.{name}" for name in properties])

    def _contexts(self, handle: Metadata, component: str) -> list[Any]:
        """Returns the contexts of the pipeline, the run and, if named, the component; creates missing ones."""
        names = {"pipeline": self._node.pipeline, PIPELINE_RUN: self.run}
        names |= {NODE: f"{self._node.pipeline}.{component}"} if component else {}
        described = pipeline_pb2.NodeContexts()
        for kind, name in names.items():
            spec = described.contexts.add()
            spec.type.name = kind
            spec.name.field_value.string_value = name
            if kind == PIPELINE_RUN:
                # Set from the beginning: an unfinished run that has no host counts as killed on other machines.
                spec.properties["host"].field_value.string_value = CLUSTER
        contexts = context_lib.prepare_contexts(handle, described)
        if not handle.store.get_parent_contexts_by_context(contexts[1].id):  # its container was killed at this point
            context_lib.put_parent_context_if_not_exists(handle, contexts[0].id, contexts[1].id)
        return contexts

    def _store(self, change: Callable[[Metadata], Answer]) -> Answer:
        """Writes to the database in a new connection, because a connection does not outlast a training."""

        def once() -> Answer:
            with Metadata(connection(self._address, Workspace.from_environment())) as handle:
                return change(handle)

        return self._retry(once)

    def _retry(self, do: Callable[[], Answer]) -> Answer:
        """Retries an operation while the database is unreachable or another container writes the same record.

        The operation must be idempotent.

        Raises:
            UserError: the retries failed, or the database refuses the user.
        """
        end, pause = time.monotonic() + PATIENCE, FIRST_PAUSE
        while True:
            try:
                return do()
            except (RuntimeError, errors.StatusError, UserError) as error:
                if "Access denied" in str(error) or time.monotonic() + pause > end:
                    message = str(error) if isinstance(error, UserError) else f"{self._address} {problem(str(error))}"
                    raise UserError(f"{message} (the run's metadata cannot be recorded)") from error
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE)


def _as_stored(artifact: Artifact) -> Artifact:
    """Returns a copy of a container's artifact with the launcher's paths replaced by addresses, and without an id."""
    copy = type(artifact)()
    stored = metadata_store_pb2.Artifact()
    stored.CopyFrom(artifact.mlmd_artifact)
    stored.ClearField("id")
    stored.uri = str(artifact.get_string_custom_property(ADDRESS) or artifact.uri)
    stored.custom_properties.pop(ADDRESS, None)
    for value in (*stored.properties.values(), *stored.custom_properties.values()):
        if value.HasField("string_value"):
            value.string_value = with_addresses(value.string_value)
    copy.set_mlmd_artifact(stored)
    return copy


def _known(store: MetadataStore, artifact: Artifact) -> Artifact:
    """Returns the stored artifact with the same address and type, or the given artifact if there is none."""
    stored = [one for one in store.get_artifacts_by_uri(artifact.uri) if one.type == artifact.type_name]
    if stored:
        artifact.set_mlmd_artifact(max(stored, key=lambda one: one.id))
    return artifact


def _artifacts(store: MetadataStore, execution: int, types: Iterable[int]) -> dict[str, int]:
    """Returns the ids of an execution's input or output artifacts, by name."""
    return {e.path.steps[0].key: e.artifact_id for e in _events(store, execution) if e.type in types}


def _events(store: MetadataStore, execution: int) -> list[metadata_store_pb2.Event]:
    return store.get_events_by_execution_ids([execution])


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """Logs a UserError instead of raising it, because the error of the executor or driver is more important."""
    try:
        yield
    except UserError as failure:
        logging.error("%s", failure)
