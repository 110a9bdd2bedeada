"""What must be true of a workspace whatever was killed in it, and a server that reads in it meanwhile."""

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

# What a process writes to while it makes something; of a process that is gone, nobody may leave it.
UNFINISHED = re.compile(r".*\.(partial|writing)$")
# Parts of file names that differ between two runs of the same component.
DIFFERS = re.compile(r"events\.out\..*|\d+")


class Audit:
    """Looks at a workspace again and again, and keeps what it saw.

    Args:
        workspace: which.

    Attributes:
        faults: sentences about what was not as it must be.
        told: how many of them were printed.
        versions: each version that was ever seen, with its digest.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.faults: list[str] = []
        self.told = 0
        self._digests: dict[int, str] = {}
        self._shapes: dict[str, set[str]] = {}
        self.versions: dict[str, str] = {}

    def look(self, finished: bool) -> LineageGraph:
        """Looks at everything; after a run that finished there must be nothing of those that did not."""
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
        """Compares the files of every artifact with what they were when it was made."""
        graph = read(self.workspace, read_store)
        for artifact, was in self._digests.items():
            uri = graph.artifacts[artifact].uri
            if not os.path.exists(uri) or digest(uri) != was:
                self.faults.append(f"{uri} is not what it was when it was made")

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
            # Baselines are empty until something serves.
            kind = f"{artifact.type} of {graph.executions[artifact.made_by].component}"
            known = self._shapes.setdefault(kind, shape)
            if shape and known and shape != known:
                yield f"{artifact.uri} holds {sorted(shape)}, and the first {kind} {sorted(known)}"

    def _serving(self, graph: LineageGraph) -> Iterator[str]:
        models = {
            digest(os.path.join(artifact.uri, "Format-Serving")): artifact.id
            for artifact in graph.artifacts.values()
            if artifact.type == "Model" and os.path.isdir(os.path.join(artifact.uri, "Format-Serving"))
        }
        for version in self.workspace.versions():
            found = digest(str(version))
            if found not in models:
                yield f"{version} is no model that a training finished"
            if self.versions.setdefault(version.name, found) != found:
                yield f"{version} has changed while it served"

    def _checkpoints(self) -> Iterator[str]:
        import numpy as np

        for file in self.workspace.checkpoints.glob("*/checkpoint.npz"):
            try:
                with np.load(file) as saved:
                    for name in saved:
                        saved[name]
            except Exception as error:  # noqa: BLE001  whatever is wrong with it
                yield f"{file} cannot be read: {error!r}"

    def _left(self, graph: LineageGraph) -> Iterator[str]:
        home = self.workspace.home
        for folder, names, files in os.walk(home):
            yield from (f"{folder}/{name} was left" for name in (*names, *files) if UNFINISHED.fullmatch(name))
        yield from (f"{path} was left" for path in self.workspace.checkpoints.glob("*"))
        known = {artifact.uri for artifact in graph.artifacts.values()}
        for path in self.workspace.pipeline_root.glob("*/[!.]*/*"):
            if str(path) not in known:
                yield f"{path} was left, and is no artifact's"
        left = (execution for execution in graph.executions.values() if execution.state == RUNNING)
        yield from (f"execution {execution.id} of {execution.component} is left running" for execution in left)


def size(home: Path) -> int:
    """Bytes of all files of a workspace but its logs."""
    files = (path for path in home.rglob("*") if path.is_file() and path.parent.name != "logs")
    return sum(path.stat().st_size for path in files)


def serve(workspace: Workspace, image: bytes, told: Path, stop: Path) -> int:
    """Serves, as `im2latex serve` does, whatever is pushed, and reads an image with each version, until it is stopped.

    Args:
        workspace: whose models.
        image: what is read.
        told: file of a line for each version: its name, and its digest at first sight; or what went wrong.
        stop: a file; when there is one, the end has come.
    """
    from im2latex.serving.models import Models

    seen: dict[Path, str] = {}
    models: Models | None = None
    with told.open("w", buffering=1) as lines:

        def tell(**facts: str) -> None:
            lines.write(json.dumps(facts) + "\n")

        while not stop.exists():
            there = workspace.versions()
            for version in there:
                if version not in seen:
                    seen[version] = digest(str(version))
                    tell(version=version.name, digest=seen[version])
            if models is None and there:
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
