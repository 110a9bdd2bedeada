from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from pipeline.lineage.drawing import dot, mermaid
from pipeline.lineage.graph import Artifact, Execution, LineageGraph, read_lineage
from pipeline.lineage.store import read
from pipeline.workspace import Workspace

SECOND_PUSHED = 11
HOSTILE = 'a"]; click x "b\\ <script>|`&#35;\n{}(end)'


@pytest.fixture
def graph(workspace: Workspace) -> LineageGraph:
    return read(workspace, lambda store: read_lineage(store, [SECOND_PUSHED]))


@pytest.fixture
def hostile() -> LineageGraph:
    execution = Execution(2, HOSTILE, "", "", HOSTILE, "failed", 0, 0, {}, {HOSTILE: [1]}, {})
    return LineageGraph({1: Artifact(1, HOSTILE, HOSTILE)}, {2: execution})


def test_every_artifact_execution_and_edge_is_drawn(graph: LineageGraph) -> None:
    edges = {
        (f"a{i}", f"e{e.id}") for e in graph.executions.values() for i in e.input_ids() if i in graph.artifacts
    } | {(f"e{e.id}", f"a{i}") for e in graph.executions.values() for i in e.output_ids()}
    nodes = {f"a{i}" for i in graph.artifacts} | {f"e{i}" for i in graph.executions}
    for lines, arrow in ((list(dot(graph)), r"->"), (list(mermaid(graph)), r'-->\|"[^"]*"\|')):
        drawn = [re.match(rf"  (\w+) {arrow} (\w+)", line) for line in lines]
        assert {match.groups() for match in drawn if match} == edges
        assert {match[1] for line in lines if (match := re.match(r"  ([ae]\d+)[\[( ]*[\[(]", line))} == nodes


@pytest.mark.skipif(not shutil.which("dot"), reason="not installed: dot (Debian's graphviz)")
def test_graphviz_accepts_the_drawing(graph: LineageGraph, hostile: LineageGraph) -> None:
    for one in (graph, hostile):
        drawn = subprocess.run(["dot", "-Tsvg"], input="\n".join(dot(one)), capture_output=True, text=True, check=True)
        assert drawn.stdout.count('class="node"') == len(one.artifacts) + len(one.executions)
        assert drawn.stderr == ""


def test_names_in_labels_are_escaped(hostile: LineageGraph) -> None:
    for line in dot(hostile):
        # Without the quoted strings, only the syntax of the drawing is left.
        assert re.fullmatch(r"[\w\s\[\]{}=;,>-]*", re.sub(r'"(?:[^"\\]|\\.)*"', "", line)), line
    for line in mermaid(hostile):
        assert "<script" not in line and "click x" not in re.sub(r'"[^"]*"', "", line)
        assert line.count('"') in (0, 2)


def test_a_copy_is_linked_to_its_original() -> None:
    graph = LineageGraph({1: Artifact(1, "PushedModel", ""), 2: Artifact(2, "Model", "", copy_of=1)})
    assert "  a1 -> a2 [style=dotted label=copy];" in dot(graph)
    assert '  a1 -.->|"copy"| a2' in mermaid(graph)
