"""A version that is served, and of which ML Metadata does not know: Pusher was killed behind its push, which is whole.

The version then is a copy of the model that the execution took, and that it took one, and which, is in ML Metadata.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from components.metadata import RUNNING, SERVING
from pipeline.lineage.graph import DESTINATION, PUSHED, PUSHED_MODEL, VERSION, Graph
from pipeline.workspace import Workspace

PUSHER, OUTPUT = "Pusher", "pushed_model"


class Push(NamedTuple):
    """What was pushed."""

    version: Path  # in the serving folder
    model: Path


def unknown_versions(graph: Graph, workspace: Workspace) -> list[Path]:
    """The versions that serve and were pushed by no run that says so."""
    pushed = {
        Path(str(a.properties[DESTINATION])).parts[-2:] for a in graph.artifacts.values() if DESTINATION in a.properties
    }
    return [version for version in workspace.versions() if version.parts[-2:] not in pushed]


def unrecorded(graph: Graph, workspace: Workspace) -> dict[int, Push]:
    """What executions had pushed that were then left running, by execution.

    Args:
        graph: a whole store.
        workspace: whose it is.
    """
    versions = unknown_versions(graph, workspace)
    left = [e for e in graph.executions.values() if e.component == PUSHER and e.state == RUNNING] if versions else []
    if not left:
        return {}
    from components.serving_folder import digest  # brings TFX

    copies = {digest(str(version)): version for version in versions}
    found = {}
    for execution in left:
        for i in execution.inputs.get("model", ()):
            model = Path(graph.artifacts[i].uri, SERVING)
            if version := copies.get(digest(str(model))):
                found[execution.id] = Push(version, model)
    return found


def record(store: MetadataStore, execution: metadata_store_pb2.Execution, push: Push, workspace: Workspace) -> None:
    """Records a push as Pusher would have done.

    Args:
        store: the execution's.
        execution: that pushed.
        push: what.
        workspace: its.
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
    # As TFX does: in one transaction.
    store.put_execution(execution, [(artifact, event)], contexts, reuse_context_if_already_exist=True)
