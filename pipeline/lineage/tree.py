"""A graph as a tree, each execution in one place: what made an artifact, or what was made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from components.serving_folder import SERVING_VERSION
from pipeline.lineage.graph import Execution, Graph


@dataclass(frozen=True)
class Branch:
    """An execution and what stands behind it."""

    execution: Execution
    branches: list[Branch] = field(default_factory=list)


def made_from(graph: Graph, artifact: int) -> list[Branch]:
    """What made an artifact, and what made that: first what was done last."""

    def makers(execution: Execution) -> Iterable[int]:
        # A baseline depends on the new model only to be another one.
        if any(SERVING_VERSION in graph.artifacts[i].properties for i in execution.given() if i in graph.artifacts):
            return ()
        return (graph.artifacts[i].made_by for i in execution.taken() if i in graph.artifacts)

    maker = graph.maker(artifact)
    return _plant(graph, [maker.id] if maker else [], makers, newest_first=True)


def made_of(graph: Graph, artifact: int) -> list[Branch]:
    """What was made of an artifact, and of that: first what was done first."""

    def users(execution: Execution) -> Iterable[int]:
        return (user for i in execution.given() for user in graph.users.get(i, ()))

    return _plant(graph, graph.users.get(artifact, ()), users, newest_first=False)


def _plant(
    graph: Graph, first: Iterable[int], ahead: Callable[[Execution], Iterable[int]], newest_first: bool
) -> list[Branch]:
    """Goes from the oldest to the newest: so an execution stands where the way to it is the longest."""
    seen: set[int] = set()

    def grow(ids: Iterable[int]) -> list[Branch]:
        branches = []
        for i in sorted(set(ids)):
            if i in graph.executions and i not in seen:
                seen.add(i)
                execution = graph.executions[i]
                branches.append(Branch(execution, grow(ahead(execution))))
        return branches[::-1] if newest_first else branches

    return grow(first)
