"""`im2latex lineage page`: what a store knows as one HTML file, which needs nothing beside it and asks for nothing."""

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
from pipeline.lineage.graph import Artifact, Execution, Graph, read_store
from pipeline.lineage.notes import is_there, now
from pipeline.lineage.page import layout
from pipeline.lineage.page.layout import Block, Edge, lay_out
from pipeline.lineage.run_summary import RunSummary, current_run, summarise
from pipeline.lineage.store import no_runs, read
from pipeline.workspace import Workspace

FOLDER = Path(__file__).parent
# In the order in which they stand in the page.
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


class Serving(NamedTuple):
    """What serves."""

    artifact: int  # PushedModel, 0 where nothing serves or nobody knows who pushed it
    nothing: str = ""  # why it is 0


def write_page(workspace: Workspace, file: Path, connection: str | None = None) -> None:
    """Writes the page of a workspace's runs, whole or not at all.

    Args:
        workspace: whose runs.
        file: to write.
        connection: as for `pipeline.lineage.store.read`.

    Raises:
        UserError: there are no runs, the store cannot be read, or the file cannot be written.
    """
    graph, serving = read(workspace, lambda store: (read_store(store), _serving(store, workspace)), connection)
    current = current_run(list(graph.runs), workspace)
    summaries = {run: summarise(graph, run, current, workspace) for run in graph.runs}
    if not summaries:
        raise no_runs(workspace)
    known = {run: facts(graph, summary) for run, summary in summaries.items()}
    gone = {artifact.id for artifact in graph.artifacts.values() if artifact.uri and not is_there(artifact)}
    address = workspace.connection if connection is None else connection
    source = str(parse(address) if address else workspace.metadata)
    write_atomically(file, render(document(graph, summaries, known, serving, gone, source)))


def _serving(store: MetadataStore, workspace: Workspace) -> Serving:
    try:
        return Serving(serving_model(store, workspace))
    except UserError as error:
        return Serving(0, str(error))


def render(content: Mapping[str, Any]) -> str:
    """The page of what `document` gave."""
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
        # Ten times smaller; and in these letters nothing can end the element that it stands in.
        packed=base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode(),
    )


class _Values:
    """A table of JSON values, each once; others name them by their place."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self._places: dict[str, int] = {}

    def __call__(self, value: Any) -> int:
        key = json.dumps(value, sort_keys=True)
        if key not in self._places:
            self._places[key] = len(self.found)
            self.found.append(value)
        return self._places[key]

    def pairs(self, values: Mapping[str, Any]) -> list[int]:
        """Names and values in turn."""
        return [self(part) for pair in values.items() for part in pair]

    def channels(self, channels: Mapping[str, Sequence[int]]) -> list[list[int]]:
        """Names, each with ids."""
        return [[self(name), *channels[name]] for name in sorted(channels)]


def document(
    graph: Graph,
    summaries: Mapping[str, RunSummary],
    known: Mapping[str, Facts],
    serving: Serving,
    gone: Collection[int],
    source: str,
) -> dict[str, Any]:
    """What store.js unpacks. What stands in rows comes by the thousand.

    Args:
        graph: all of a store.
        summaries: of its runs, by id.
        known: what runs are compared by, by run.
        serving: what serves.
        gone: artifacts whose files are no longer there.
        source: what the store is called, without a password.
    """
    values = _Values()
    layouts = _Layouts(graph)
    sections = _Values()
    places = {run: place for place, run in enumerate(summaries)}
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
                # Shared: most runs use the same packages and the same machine.
                "facts": {name: sections(values.pairs(named)) for name, named in known[run].items()},
            }
            for run, summary in summaries.items()
        ],
        "executions": [
            [
                one.id, values(one.component), values(one.type), places.get(one.run, -1), values(one.state),
                one.started, one.ended, values.pairs(dict(sorted(one.properties.items()))),
                values.channels(one.inputs), values.channels(one.outputs),
            ]
            for one in graph.executions.values()
        ],
        "artifacts": [
            [
                one.id, values(one.type), one.name, one.uri, values(one.state), one.created, one.id in gone,
                values.pairs(dict(sorted(_properties(one).items()))), one.made_by, one.copy_of,
            ]
            for one in graph.artifacts.values()
        ],
        "layouts": layouts.found,
        "sections": sections.found,
        "values": values.found,
    }  # fmt: skip


def _properties(artifact: Artifact) -> dict[str, Any]:
    """With what became of a version that was pushed."""
    state = now(artifact)
    return {**artifact.properties, **({"now": state} if state else {})}


class _Layouts:
    """Layouts of runs, each once: runs of the same components look the same."""

    def __init__(self, graph: Graph) -> None:
        self.found: list[dict[str, Any]] = []
        self._graph = graph
        self._places: dict[Any, int] = {}

    def add(self, executions: Sequence[Execution]) -> dict[str, Any]:
        """The place of a run's layout, and what stands in its blocks: ids of an execution (or 0) and of artifacts."""
        given = {execution.id: self._given(execution) for execution in executions}
        here = {artifact for artifacts in given.values() for artifact in artifacts}
        wanted = [artifact for execution in executions for artifact in self._wanted(execution)]
        foreign = [artifact for artifact in dict.fromkeys(wanted) if artifact not in here]
        blocks = [[0, artifact] for artifact in foreign] + [[i, *artifacts] for i, artifacts in given.items()]
        ports: dict[int, tuple[int, int]] = {}
        for number, (_, *artifacts) in enumerate(blocks):
            for port, artifact in enumerate(artifacts):
                ports.setdefault(artifact, (number, port))
        edges = sorted(
            Edge(*ports[artifact], len(foreign) + number)
            for number, execution in enumerate(executions)
            for artifact in self._wanted(execution)
        )
        shape = [Block(len(artifacts), bool(execution)) for execution, *artifacts in blocks]
        return {"layout": self._place(shape, edges), "blocks": blocks}

    def _wanted(self, execution: Execution) -> list[int]:
        """What an execution took; the pushed model that it copied, too."""
        made = [self._graph.artifacts[artifact] for artifact in self._given(execution)]
        copied = [artifact.copy_of for artifact in made if artifact.made_by == execution.id]
        return [artifact for artifact in (*execution.taken(), *copied) if artifact in self._graph.artifacts]

    def _given(self, execution: Execution) -> list[int]:
        # By the names of the outputs, because ML Metadata keeps no order.
        ids = [artifact for name in sorted(execution.outputs) for artifact in execution.outputs[name]]
        return [artifact for artifact in dict.fromkeys(ids) if artifact in self._graph.artifacts]

    def _place(self, shape: Sequence[Block], edges: Iterable[Edge]) -> int:
        key = tuple(shape), tuple(edges)
        if key not in self._places:
            self._places[key] = len(self.found)
            place = asdict(lay_out(*key))
            lines = [[*of, *heights] for of, heights in place["lines"].items()]
            self.found.append({**place, "lines": lines, "edges": key[1]})
        return self._places[key]
