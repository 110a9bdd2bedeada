"""Writes ML Metadata like the local orchestrator, with the store's basic operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd

COMPLETE, CACHED, FAILED = mlmd.Execution.COMPLETE, mlmd.Execution.CACHED, mlmd.Execution.FAILED


class History:
    """A store in a file, to which runs are added."""

    def __init__(self, file: Path, pipeline: str = "formulas") -> None:
        config = mlmd.ConnectionConfig()
        config.sqlite.filename_uri = str(file)
        config.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        self.store = MetadataStore(config)
        self.pipeline = pipeline
        kinds = ("pipeline", "pipeline_run", "node")
        self.types = {kind: self.store.put_context_type(mlmd.ContextType(name=kind)) for kind in kinds}

    def context(self, kind: str, name: str) -> int:
        known = self.store.get_context_by_type_and_name(kind, name)
        return known.id if known else self.store.put_contexts([mlmd.Context(type_id=self.types[kind], name=name)])[0]

    def artifact(self, kind: str, uri: Path | str, **properties: str | int | float) -> int:
        artifact = mlmd.Artifact(type_id=self.store.put_artifact_type(mlmd.ArtifactType(name=kind)), uri=str(uri))
        _set(artifact.custom_properties, properties)
        return self.store.put_artifacts([artifact])[0]

    def execution(
        self,
        run: str,
        component: str,
        state: int = COMPLETE,
        outputs: dict[str, int] | None = None,
        inputs: Sequence[int] | Mapping[str, int] = (),
        **properties: str | int | float,
    ) -> int:
        """Adds an execution of a component to a run, with its output and input artifacts."""
        kind = self.store.put_execution_type(mlmd.ExecutionType(name=f"tfx.{component}"))
        execution = mlmd.Execution(type_id=kind, last_known_state=state)
        _set(execution.custom_properties, properties)
        taken = inputs.items() if isinstance(inputs, Mapping) else [("in", artifact) for artifact in inputs]
        events = [(mlmd.Event.INPUT, key, artifact) for key, artifact in taken]
        events += [(mlmd.Event.OUTPUT, key, artifact) for key, artifact in (outputs or {}).items()]
        (execution_id,) = self.store.put_executions([execution])
        for event_type, key, artifact in events:
            event = mlmd.Event(type=event_type, execution_id=execution_id, artifact_id=artifact)
            event.path.steps.add().key = key
            self.store.put_events([event])
        names = {"pipeline": self.pipeline, "pipeline_run": run, "node": f"{self.pipeline}.{component}"}
        contexts = [self.context(kind, name) for kind, name in names.items()]
        associations = [mlmd.Association(execution_id=execution_id, context_id=context) for context in contexts]
        self.store.put_attributions_and_associations([], associations)
        return execution_id


def _set(target, properties: dict[str, str | int | float]) -> None:
    for name, value in properties.items():
        if isinstance(value, str):
            target[name].string_value = value
        elif isinstance(value, float):
            target[name].double_value = value
        else:
            target[name].int_value = value
