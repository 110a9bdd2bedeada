"""Writes a graph in the languages of Graphviz and Mermaid, from left to right: round executions, square artifacts."""

from __future__ import annotations

from collections.abc import Iterator

from components.metadata import CACHED, FAILED, RUNNING
from pipeline.lineage.graph import Artifact, Execution, LineageGraph

_DOT = {CACHED: " style=dashed", FAILED: " color=red", RUNNING: " color=orange"}
# Character codes for letters that would end a label or be read as markup.
_CODES = {ord(letter): f"#{ord(letter)};" for letter in '#"<>&`\\|[]{}()'}


def dot(graph: LineageGraph) -> Iterator[str]:
    """Yields the lines of a file for Graphviz's `dot`."""
    yield "digraph lineage {"
    yield "  rankdir=LR; node [fontname=sans fontsize=10]; edge [fontname=sans fontsize=8];"
    for execution in graph.executions.values():
        yield f"  e{execution.id} [label={_quoted(_execution(execution))}{_DOT.get(execution.state, '')}];"
    for artifact in graph.artifacts.values():
        yield f"  a{artifact.id} [shape=box label={_quoted(_artifact(artifact))} tooltip={_quoted(artifact.uri)}];"
    for source, target, name in _edges(graph):
        yield f"  {source} -> {target} [label={_quoted(name)}];"
    for artifact in graph.artifacts.values():
        if artifact.copy_of in graph.artifacts:
            yield f"  a{artifact.copy_of} -> a{artifact.id} [style=dotted label=copy];"
    yield "}"


def mermaid(graph: LineageGraph) -> Iterator[str]:
    """Yields the lines of a Mermaid flowchart."""
    yield "flowchart LR"
    for execution in graph.executions.values():
        yield f'  e{execution.id}(["{_coded(_execution(execution))}"]):::{execution.state}'
    for artifact in graph.artifacts.values():
        yield f'  a{artifact.id}["{_coded(_artifact(artifact))}"]'
    for source, target, name in _edges(graph):
        yield f'  {source} -->|"{_coded(name)}"| {target}'
    for artifact in graph.artifacts.values():
        if artifact.copy_of in graph.artifacts:
            yield f'  a{artifact.copy_of} -.->|"copy"| a{artifact.id}'
    yield "  classDef cached stroke-dasharray:4"
    yield "  classDef failed stroke:#d00"
    yield "  classDef running stroke:#e80"


def _edges(graph: LineageGraph) -> Iterator[tuple[str, str, str]]:
    """Yields the source, the target and the name of every input and output whose artifact is in the graph."""
    for execution in graph.executions.values():
        for name, ids in execution.inputs.items():
            yield from ((f"a{i}", f"e{execution.id}", name) for i in ids if i in graph.artifacts)
        for name, ids in execution.outputs.items():
            yield from ((f"e{execution.id}", f"a{i}", name) for i in ids if i in graph.artifacts)


def _execution(execution: Execution) -> str:
    return f"{execution.component}\n{execution.state}\n{execution.run}"


def _artifact(artifact: Artifact) -> str:
    return f"{artifact.type} {artifact.id}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _coded(text: str) -> str:
    return text.translate(_CODES).replace("\n", "<br/>")
