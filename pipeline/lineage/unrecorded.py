"""Finds and records pushes that ML Metadata does not know, because Pusher was killed after it had pushed the model.

Such a version is a copy of the model that is the execution's input, and the inputs are in ML Metadata.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from components.metadata import RUNNING, SERVING
from pipeline.lineage.graph import DESTINATION, PUSHED, PUSHED_MODEL, VERSION, LineageGraph
from pipeline.workspace import Workspace

PUSHER, OUTPUT = "Pusher", "pushed_model"


class Push(NamedTuple):
    """An unrecorded push."""

    version: Path  # folder of the version in the serving folder
    model: Path  # the SavedModel that it is a copy of


def unknown_versions(graph: LineageGraph, workspace: Workspace) -> list[Path]:
    """Returns the versions in the serving folder that no recorded run pushed."""
    pushed = {
        Path(str(a.properties[DESTINATION])).parts[-2:] for a in graph.artifacts.values() if DESTINATION in a.properties
    }
    return [version for version in workspace.versions() if version.parts[-2:] not in pushed]


def unrecorded(graph: LineageGraph, workspace: Workspace) -> dict[int, Push]:
    """Returns the pushes of killed Pushers, by execution.

    Args:
        graph: the whole store.
        workspace: the workspace of the store.
    """
    versions = unknown_versions(graph, workspace)
    running = [e for e in graph.executions.values() if e.component == PUSHER and e.state == RUNNING] if versions else []
    if not running:
        return {}
    from components.serving_folder import digest  # needs TFX

    copies = {digest(str(version)): version for version in versions}
    pushes = {}
    for execution in running:
        for i in execution.inputs.get("model", ()):
            model = Path(graph.artifacts[i].uri, SERVING)
            if version := copies.get(digest(str(model))):
                pushes[execution.id] = Push(version, model)
    return pushes


def record(store: MetadataStore, execution: metadata_store_pb2.Execution, push: Push, workspace: Workspace) -> None:
    """Records a push in the same way as Pusher.

    Args:
        store: ML Metadata.
        execution: Pusher's execution.
        push: the push.
        workspace: the workspace of the store.
    """
    output = workspace.pipeline_root / PUSHER / OUTPUT / str(execution.id)
    shutil.copytree(push.model, output)
    kind = metadata_store_pb2.ArtifactType(name=PUSHED_MODEL, base_type=metadata_store_pb2.ArtifactType.MODEL)
    artifact = metadata_store_pb2.Artifact(
        type_id=store.put_artifact_type(kind, can_omit_fields=True),
        uri=str(output),
        state=metadata_store_pb2.Artifact.LIVE,
    )
    artifact.custom_properties[PUSHED].int_value = 1
    artifact.custom_properties[DESTINATION].string_value = str(push.version)
    artifact.custom_properties[VERSION].string_value = push.version.name
    event = metadata_store_pb2.Event(type=metadata_store_pb2.Event.OUTPUT)
    event.path.steps.add().key = OUTPUT
    event.path.steps.add().index = 0
    execution.last_known_state = metadata_store_pb2.Execution.COMPLETE
    contexts = store.get_contexts_by_execution(execution.id)
    # In one transaction, as in TFX.
    store.put_execution(execution, [(artifact, event)], contexts, reuse_context_if_already_exist=True)
