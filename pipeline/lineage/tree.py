"""Converts a graph to a tree of an artifact's ancestors or descendants, in which each execution occurs once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from components.serving_folder import SERVING_VERSION
from pipeline.lineage.graph import Execution, LineageGraph


@dataclass(frozen=True)
class Branch:
    """An execution, and the branches that follow from it."""

    execution: Execution
    branches: list[Branch] = field(default_factory=list)


def made_from(graph: LineageGraph, artifact: int) -> list[Branch]:
    """Returns the tree of an artifact's ancestors, newest first."""

    def makers(execution: Execution) -> Iterable[int]:
        # Baseline takes the new model only to exclude it, so the model is not an ancestor.
        if any(
            SERVING_VERSION in graph.artifacts[i].properties for i in execution.output_ids() if i in graph.artifacts
        ):
            return ()
        return (graph.artifacts[i].made_by for i in execution.input_ids() if i in graph.artifacts)

    maker = graph.maker(artifact)
    return _plant(graph, [maker.id] if maker else [], makers, newest_first=True)


def made_of(graph: LineageGraph, artifact: int) -> list[Branch]:
    """Returns the tree of an artifact's descendants, oldest first."""

    def users(execution: Execution) -> Iterable[int]:
        return (user for i in execution.output_ids() for user in graph.users.get(i, ()))

    return _plant(graph, graph.users.get(artifact, ()), users, newest_first=False)


def _plant(
    graph: LineageGraph, first: Iterable[int], next_ids: Callable[[Execution], Iterable[int]], newest_first: bool
) -> list[Branch]:
    """Builds the tree in order of execution id, so that an execution is placed at the end of its longest path."""
    placed: set[int] = set()

    def grow(ids: Iterable[int]) -> list[Branch]:
        branches = []
        for i in sorted(set(ids)):
            if i in graph.executions and i not in placed:
                placed.add(i)
                execution = graph.executions[i]
                branches.append(Branch(execution, grow(next_ids(execution))))
        return branches[::-1] if newest_first else branches

    return grow(first)
