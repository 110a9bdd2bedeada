"""Checks that a workspace is consistent after kills, and a server that loads its models at the same time."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from components.metadata import RUNNING
from components.serving_folder import digest
from im2latex.errors import UserError
from pipeline.lineage.graph import LineageGraph, read_store
from pipeline.lineage.store import read
from pipeline.workspace import Workspace

# Names of unfinished outputs; none may be left by a process that has ended.
UNFINISHED = re.compile(r".*\.(partial|writing)$")
# Parts of file names that differ between two runs of a component.
DIFFERS = re.compile(r"events\.out\..*|\d+")


class Audit:
    """Checks a workspace repeatedly, and compares it with earlier checks.

    Args:
        workspace: the workspace.

    Attributes:
        faults: a sentence for each fault.
        printed: number of printed faults.
        versions: the digest of each version that was ever seen.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.faults: list[str] = []
        self.printed = 0
        self._digests: dict[int, str] = {}
        self._shapes: dict[str, set[str]] = {}
        self.versions: dict[str, str] = {}

    def look(self, finished: bool) -> LineageGraph:
        """Checks everything; after a finished run, nothing of unfinished runs may be left."""
        try:
            graph = read(self.workspace, read_store)
        except UserError as error:
            if finished or "there are no runs" not in str(error):
                self.faults.append(str(error))
            return LineageGraph()
        self.faults += self._artifacts(graph)
        self.faults += self._serving(graph)
        self.faults += self._checkpoints()
        if finished:
            self.faults += self._left(graph)
        return graph

    def again(self) -> None:
        """Checks that the files of every artifact have not changed since it was made."""
        graph = read(self.workspace, read_store)
        for artifact, was in self._digests.items():
            uri = graph.artifacts[artifact].uri
            if not os.path.exists(uri) or digest(uri) != was:
                self.faults.append(f"{uri} has changed since it was made")

    def _artifacts(self, graph: LineageGraph) -> Iterator[str]:
        for artifact in graph.artifacts.values():
            if artifact.id in self._digests or graph.maker(artifact.id) is None:
                continue
            if not os.path.exists(artifact.uri):
                yield f"{artifact.uri} of {artifact.type} {artifact.id} is not there"
                continue
            self._digests[artifact.id] = digest(artifact.uri)
            files = (path for path in Path(artifact.uri).rglob("*") if path.is_file())
            shape = {DIFFERS.sub("#", str(path.relative_to(artifact.uri))) for path in files}
            # Baselines are empty until a model serves.
            kind = f"{artifact.type} of {graph.executions[artifact.made_by].component}"
            known = self._shapes.setdefault(kind, shape)
            if shape and known and shape != known:
                yield f"{artifact.uri} contains {sorted(shape)}, but the first {kind} contains {sorted(known)}"

    def _serving(self, graph: LineageGraph) -> Iterator[str]:
        models = {
            digest(os.path.join(artifact.uri, "Format-Serving")): artifact.id
            for artifact in graph.artifacts.values()
            if artifact.type == "Model" and os.path.isdir(os.path.join(artifact.uri, "Format-Serving"))
        }
        for version in self.workspace.versions():
            version_digest = digest(str(version))
            if version_digest not in models:
                yield f"{version} is not the model of a finished training"
            if self.versions.setdefault(version.name, version_digest) != version_digest:
                yield f"{version} has changed while it served"

    def _checkpoints(self) -> Iterator[str]:
        import numpy as np

        for file in self.workspace.checkpoints.glob("*/checkpoint.npz"):
            try:
                with np.load(file) as saved:
                    for name in saved:
                        saved[name]
            except Exception as error:  # noqa: BLE001  any fault of the file
                yield f"{file} cannot be read: {error!r}"

    def _left(self, graph: LineageGraph) -> Iterator[str]:
        home = self.workspace.home
        for folder, names, files in os.walk(home):
            yield from (f"{folder}/{name} was left" for name in (*names, *files) if UNFINISHED.fullmatch(name))
        yield from (f"{path} was left" for path in self.workspace.checkpoints.glob("*"))
        known = {artifact.uri for artifact in graph.artifacts.values()}
        for path in self.workspace.pipeline_root.glob("*/[!.]*/*"):
            if str(path) not in known:
                yield f"{path} was left, and belongs to no artifact"
        left = (execution for execution in graph.executions.values() if execution.state == RUNNING)
        yield from (f"execution {execution.id} of {execution.component} is left running" for execution in left)


def size(home: Path) -> int:
    """Returns the bytes of all files of a workspace except its logs."""
    files = (path for path in home.rglob("*") if path.is_file() and path.parent.name != "logs")
    return sum(path.stat().st_size for path in files)


def serve(workspace: Workspace, image: bytes, events: Path, stop: Path) -> int:
    """Loads each pushed version as `im2latex serve` does, and predicts an image with it, until it is stopped.

    Args:
        workspace: the workspace of the models.
        image: the image.
        events: file for JSON lines: the name of each version with its first digest, or a fault.
        stop: a file; the server stops when it exists.
    """
    from im2latex.serving.models import Models

    seen: dict[Path, str] = {}
    models: Models | None = None
    with events.open("w", buffering=1) as lines:

        def tell(**facts: str) -> None:
            lines.write(json.dumps(facts) + "\n")

        while not stop.exists():
            versions = workspace.versions()
            for version in versions:
                if version not in seen:
                    seen[version] = digest(str(version))
                    tell(version=version.name, digest=seen[version])
            if models is None and versions:
                models = Models(workspace.versions)
                models.reloaded = lambda good: None if good else tell(fault="a version did not load")
                tell(answered=models.served.folder.name)
            if models is not None:
                before = models.served.folder
                models.refresh()
                if models.served.folder != before:
                    tell(answered=models.served.folder.name)
                (answer,) = models.served.reader.read_each([image])
                if isinstance(answer, Exception):
                    tell(fault=f"version {models.served.folder.name}: {answer!r}")
            time.sleep(0.05)
    return 0
