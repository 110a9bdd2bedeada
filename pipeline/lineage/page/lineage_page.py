"""The command `im2latex lineage page`: writes a store as one self-contained HTML file."""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from ml_metadata import MetadataStore

from components.report.content_policy import content_policy
from data.files import write_atomically
from im2latex.errors import UserError
from pipeline.lineage.address import parse
from pipeline.lineage.diff import Facts, facts
from pipeline.lineage.find import serving_model
from pipeline.lineage.graph import Artifact, Execution, LineageGraph, read_store
from pipeline.lineage.notes import is_there, now
from pipeline.lineage.page import layout
from pipeline.lineage.page.layout import Block, Edge, lay_out
from pipeline.lineage.run_summary import RunSummary, current_run, summarise
from pipeline.lineage.store import no_runs, read
from pipeline.workspace import Workspace

FOLDER = Path(__file__).parent
# In the order of the page.
SCRIPTS = (
    "store.js",
    "scene.js",
    "strip.js",
    "input.js",
    "graph.js",
    "elements.js",
    "details.js",
    "search.js",
    "compare.js",
    "page.js",
)


class ServingModel(NamedTuple):
    """The model that serves now."""

    artifact: int  # id of its PushedModel; 0 if nothing serves, or if no recorded run pushed it
    nothing: str = ""  # why `artifact` is 0


def write_page(workspace: Workspace, file: Path, connection: str | None = None) -> None:
    """Writes the page of a workspace's runs atomically.

    Args:
        workspace: the workspace.
        file: the file to write.
        connection: as in `pipeline.lineage.store.read`.

    Raises:
        UserError: there are no runs, the store cannot be read, or the file cannot be written.
    """
    graph, serving = read(workspace, lambda store: (read_store(store), _serving(store, workspace)), connection)
    current = current_run(list(graph.runs), workspace)
    summaries = {run: summarise(graph, run, current, workspace) for run in graph.runs}
    if not summaries:
        raise no_runs(workspace)
    known = {run: facts(graph, summary) for run, summary in summaries.items()}
    missing = {artifact.id for artifact in graph.artifacts.values() if artifact.uri and not is_there(artifact)}
    address = workspace.connection if connection is None else connection
    source = str(parse(address) if address else workspace.metadata)
    write_atomically(file, render(document(graph, summaries, known, serving, missing, source)))


def _serving(store: MetadataStore, workspace: Workspace) -> ServingModel:
    try:
        return ServingModel(serving_model(store, workspace))
    except UserError as error:
        return ServingModel(0, str(error))


def render(content: Mapping[str, Any]) -> str:
    """Renders the page from the content that `document` returns."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    style = (FOLDER / "page.css").read_text("utf-8")
    script = "\n".join((FOLDER / name).read_text("utf-8") for name in SCRIPTS)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html").render(
        style=style,
        script=script,
        policy=content_policy(style, script),
        # Ten times smaller; and base64 cannot contain a tag that ends the element.
        packed=base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode(),
    )


class _Values:
    """A table of distinct JSON values; calling it with a value returns the value's index."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._indices: dict[str, int] = {}

    def __call__(self, value: Any) -> int:
        key = json.dumps(value, sort_keys=True)
        if key not in self._indices:
            self._indices[key] = len(self.items)
            self.items.append(value)
        return self._indices[key]

    def pairs(self, values: Mapping[str, Any]) -> list[int]:
        """Returns the indices of names and values, alternating."""
        return [self(part) for pair in values.items() for part in pair]

    def channels(self, channels: Mapping[str, Sequence[int]]) -> list[list[int]]:
        """Returns lists of the index of a name, followed by its artifact ids."""
        return [[self(name), *channels[name]] for name in sorted(channels)]


def document(
    graph: LineageGraph,
    summaries: Mapping[str, RunSummary],
    known: Mapping[str, Facts],
    serving: ServingModel,
    missing: Collection[int],
    source: str,
) -> dict[str, Any]:
    """Returns the content of the page, which store.js unpacks. Executions and artifacts are rows, to be compact.

    Args:
        graph: the whole store.
        summaries: summaries of the runs, by id.
        known: facts that runs are compared by, by run.
        serving: the model that serves.
        gone: ids of artifacts whose files no longer exist.
        source: name of the store, without a password.
    """
    values = _Values()
    layouts = _Layouts(graph)
    sections = _Values()
    run_index = {run: index for index, run in enumerate(summaries)}
    pushed_by = graph.maker(serving.artifact)
    return {
        "about": {"source": source, "written": round(1000 * time.time()), "nothing": serving.nothing},
        "sizes": {
            "execution": layout.EXECUTION_HEIGHT,
            "artifact": layout.ARTIFACT_HEIGHT,
            "gap": layout.GAP,
        },
        "serving": serving.artifact,
        "runs": [
            {
                **asdict(summary),
                "serving": pushed_by is not None and pushed_by.run == run,
                **layouts.add(graph.of_run.get(run, ())),
                # Shared between runs: most use the same packages and the same machine.
                "facts": {name: sections(values.pairs(named)) for name, named in known[run].items()},
            }
            for run, summary in summaries.items()
        ],
        "executions": [
            [
                e.id, values(e.component), values(e.type), run_index.get(e.run, -1), values(e.state),
                e.started, e.ended, values.pairs(dict(sorted(e.properties.items()))),
                values.channels(e.inputs), values.channels(e.outputs),
            ]
            for e in graph.executions.values()
        ],
        "artifacts": [
            [
                a.id, values(a.type), a.name, a.uri, values(a.state), a.created, a.id in missing,
                values.pairs(dict(sorted(_properties(a).items()))), a.made_by, a.copy_of,
            ]
            for a in graph.artifacts.values()
        ],
        "layouts": layouts.items,
        "sections": sections.items,
        "values": values.items,
    }  # fmt: skip


def _properties(artifact: Artifact) -> dict[str, Any]:
    """Returns an artifact's properties and, for a pushed model, its present state."""
    state = now(artifact)
    return {**artifact.properties, **({"now": state} if state else {})}


class _Layouts:
    """A table of distinct layouts of runs; runs of the same components have the same layout."""

    def __init__(self, graph: LineageGraph) -> None:
        self.items: list[dict[str, Any]] = []
        self._graph = graph
        self._indices: dict[Any, int] = {}

    def add(self, executions: Sequence[Execution]) -> dict[str, Any]:
        """Returns the index of a run's layout, and for each block the ids of its execution (or 0) and artifacts."""
        outputs = {execution.id: self._outputs(execution) for execution in executions}
        own_artifacts = {artifact for artifacts in outputs.values() for artifact in artifacts}
        inputs = [artifact for execution in executions for artifact in self._inputs(execution)]
        foreign = [artifact for artifact in dict.fromkeys(inputs) if artifact not in own_artifacts]
        blocks = [[0, artifact] for artifact in foreign] + [[i, *artifacts] for i, artifacts in outputs.items()]
        ports: dict[int, tuple[int, int]] = {}
        for number, (_, *artifacts) in enumerate(blocks):
            for port, artifact in enumerate(artifacts):
                ports.setdefault(artifact, (number, port))
        edges = sorted(
            Edge(*ports[artifact], len(foreign) + number)
            for number, execution in enumerate(executions)
            for artifact in self._inputs(execution)
        )
        shape = [Block(len(artifacts), bool(execution)) for execution, *artifacts in blocks]
        return {"layout": self._index_of(shape, edges), "blocks": blocks}

    def _inputs(self, execution: Execution) -> list[int]:
        """Returns the ids of an execution's inputs, including the pushed model that Baseline copied."""
        outputs = [self._graph.artifacts[artifact] for artifact in self._outputs(execution)]
        copied = [artifact.copy_of for artifact in outputs if artifact.made_by == execution.id]
        return [artifact for artifact in (*execution.input_ids(), *copied) if artifact in self._graph.artifacts]

    def _outputs(self, execution: Execution) -> list[int]:
        # In order of the output names, because ML Metadata keeps no order.
        ids = [artifact for name in sorted(execution.outputs) for artifact in execution.outputs[name]]
        return [artifact for artifact in dict.fromkeys(ids) if artifact in self._graph.artifacts]

    def _index_of(self, shape: Sequence[Block], edges: Iterable[Edge]) -> int:
        key = tuple(shape), tuple(edges)
        if key not in self._indices:
            self._indices[key] = len(self.items)
            positions = asdict(lay_out(*key))
            lines = [[block, artifact, *heights] for (block, artifact), heights in positions["lines"].items()]
            self.items.append({**positions, "lines": lines, "edges": key[1]})
        return self._indices[key]
