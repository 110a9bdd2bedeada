"""Finds an artifact in a store: the model that serves now, or the one that a person names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from im2latex.errors import UserError
from pipeline.buckets import is_address
from pipeline.lineage.graph import DESTINATION, PUSHED_MODEL, VERSION, LineageGraph, plain, read_lineage, read_runs
from pipeline.workspace import Workspace

# Execution property of an ExampleGen: the folder of its input.
SOURCE = "input_base"


def serving_model(store: MetadataStore, workspace: Workspace) -> int:
    """Returns the id of the PushedModel artifact of the version that serves now.

    Raises:
        UserError: no version serves, or no recorded run pushed it.
    """
    version = workspace.newest_model()
    artifact_id = pushed_to(store.get_artifacts_by_type(PUSHED_MODEL), version)
    if not artifact_id:
        raise UserError(
            f"no recorded run pushed {version}, which serves now; `im2latex lineage runs` lists what was pushed"
        )
    return artifact_id


def named(store: MetadataStore, text: str) -> int:
    """Returns the id of the artifact that a person names; the newest one if several match.

    Args:
        store: ML Metadata.
        text: an id, a pushed version, a type, a name, or a path or an address in a bucket: of an artifact, of a file in
            one, of a version in the serving folder, or of the data that examples were imported from.

    Raises:
        UserError: no artifact matches.
    """
    artifacts = store.get_artifacts()
    if text.isdecimal():
        matches = [a.id for a in artifacts if a.id == int(text) or _text(a, VERSION) == text]
    else:
        path = text.rstrip("/") if is_address(text) else os.path.abspath(Path(text).expanduser())
        matches = (
            [a.id for a in artifacts if a.type.lower() == text.lower()]
            or [a.id for a in artifacts if a.name and a.name == text]
            or [a.id for a in artifacts if a.uri and _holds(a.uri, text, path)]
            or [i for i in [pushed_to(artifacts, Path(path))] if i]
            or _examples_of(store, path)
        )
    if not matches:
        types = ", ".join(sorted({artifact.type for artifact in artifacts})) or "none at all"
        raise UserError(
            f"there is no artifact {text!r}; name one by id, pushed version, path, name or type (there are {types})"
        )
    return max(matches)


def whole_run(store: MetadataStore, artifact: int) -> LineageGraph:
    """Reads the run that made an artifact, with the artifacts that it took from other runs."""
    maker = read_lineage(store, [artifact], depth=1).maker(artifact)
    return read_runs(store, [maker.run]) if maker and maker.run else LineageGraph()


def pushed_to(artifacts: Sequence[metadata_store_pb2.Artifact], version: Path) -> int:
    """Returns the id of the artifact last pushed to a version's folder; 0 if there is none.

    If no path is equal, because the workspace was moved, only NAME/VERSION at the ends of the paths are compared.
    """
    pushed = {a.id: Path(_text(a, DESTINATION)) for a in artifacts if _text(a, DESTINATION)}
    exact = [i for i, destination in pushed.items() if destination == version]
    alike = [i for i, destination in pushed.items() if destination.parts[-2:] == version.parts[-2:]]
    return max(exact or alike, default=0)


def _examples_of(store: MetadataStore, path: str) -> list[int]:
    """Returns the ids of the artifacts of examples that were imported from a folder."""
    types = [kind.name for kind in store.get_execution_types() if kind.name.endswith("ExampleGen")]
    imports = [execution for kind in types for execution in store.get_executions_by_type(kind)]
    executions = [
        execution.id
        for execution in imports
        if str(plain(execution.custom_properties).get(SOURCE, "")).rstrip("/") == path
    ]
    events = store.get_events_by_execution_ids(executions) if executions else []
    return [event.artifact_id for event in events]


def _holds(uri: str, text: str, path: str) -> bool:
    """Returns whether an artifact's address is the given text, or a folder that contains the path."""
    return uri.rstrip("/") == text.rstrip("/") or path == uri or path.startswith(f"{uri.rstrip('/')}/")


def _text(artifact: metadata_store_pb2.Artifact, name: str) -> str:
    return artifact.custom_properties[name].string_value if name in artifact.custom_properties else ""
