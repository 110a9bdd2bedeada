"""Finds an artifact in a store: the model that serves now, or whatever a person names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from im2latex.errors import UserError
from pipeline.lineage.graph import DESTINATION, PUSHED_MODEL, VERSION, Graph, plain, read_lineage, read_runs
from pipeline.workspace import Workspace

# The property of an ExampleGen that says where its examples come from.
SOURCE = "input_base"


def serving_model(store: MetadataStore, workspace: Workspace) -> int:
    """The id of the artifact that Pusher made when it pushed the version that serves now.

    Raises:
        UserError: nothing serves, or nobody knows who pushed it.
    """
    version = workspace.newest_model()
    found = pushed_to(store.get_artifacts_by_type(PUSHED_MODEL), version)
    if not found:
        raise UserError(
            f"no recorded run pushed {version}, which serves now; `im2latex lineage runs` lists what was pushed"
        )
    return found


def named(store: MetadataStore, text: str) -> int:
    """The id of the artifact that a person means.

    Args:
        store: ML Metadata.
        text: an id, a version that was pushed, a type (the newest of it), a name, or a path: of an artifact, of a file
            in one, of a version in the serving folder, or of the data that examples came from.

    Raises:
        UserError: there is none.
    """
    artifacts = store.get_artifacts()
    if text.isdecimal():
        found = [a.id for a in artifacts if a.id == int(text) or _text(a, VERSION) == text]
    else:
        path = os.path.abspath(Path(text).expanduser())
        found = (
            [a.id for a in artifacts if a.type.lower() == text.lower()]
            or [a.id for a in artifacts if a.name and a.name == text]
            or [a.id for a in artifacts if a.uri and _holds(a.uri, text, path)]
            or [i for i in [pushed_to(artifacts, Path(path))] if i]
            or _examples_of(store, path)
        )
    if not found:
        types = ", ".join(sorted({artifact.type for artifact in artifacts})) or "none at all"
        raise UserError(
            f"there is no artifact {text!r}; name one by id, pushed version, path, name or type (there are {types})"
        )
    return max(found)


def whole_run(store: MetadataStore, artifact: int) -> Graph:
    """The run that made an artifact, with all that it took from others."""
    made = read_lineage(store, [artifact], depth=1).maker(artifact)
    return read_runs(store, [made.run]) if made and made.run else Graph()


def pushed_to(artifacts: Sequence[metadata_store_pb2.Artifact], version: Path) -> int:
    """The model pushed last to a version in the serving folder; by the ends of the paths where the workspace moved."""
    pushed = {a.id: Path(_text(a, DESTINATION)) for a in artifacts if _text(a, DESTINATION)}
    exact = [i for i, destination in pushed.items() if destination == version]
    alike = [i for i, destination in pushed.items() if destination.parts[-2:] == version.parts[-2:]]
    return max(exact or alike, default=0)


def _examples_of(store: MetadataStore, path: str) -> list[int]:
    """Examples that were brought in from a folder."""
    types = [kind.name for kind in store.get_execution_types() if kind.name.endswith("ExampleGen")]
    brought = [execution for kind in types for execution in store.get_executions_by_type(kind)]
    executions = [execution.id for execution in brought if plain(execution.custom_properties).get(SOURCE) == path]
    events = store.get_events_by_execution_ids(executions) if executions else []
    return [event.artifact_id for event in events]


def _holds(uri: str, text: str, path: str) -> bool:
    """Whether an address is the one given, or a folder that holds the path."""
    return uri.rstrip("/") == text.rstrip("/") or path == uri or path.startswith(f"{uri.rstrip('/')}/")


def _text(artifact: metadata_store_pb2.Artifact, name: str) -> str:
    return artifact.custom_properties[name].string_value if name in artifact.custom_properties else ""
