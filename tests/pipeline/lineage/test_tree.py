from __future__ import annotations

from pipeline.lineage.graph import Artifact, Execution, LineageGraph, read_store
from pipeline.lineage.store import read
from pipeline.lineage.tree import Branch, made_from, made_of
from pipeline.workspace import Workspace

EXAMPLES, SECOND_PUSHED = 1, 11


def outline(branches: list[Branch]) -> list:
    return [
        (branch.execution.component, outline(branch.branches)) if branch.branches else branch.execution.component
        for branch in branches
    ]


def test_ancestors_are_listed_once_and_newest_first(workspace: Workspace) -> None:
    graph = read(workspace, read_store)
    # The model is also an input of Evaluator and Baseline; it is listed below Pusher, which is nearest to it.
    assert outline(made_from(graph, SECOND_PUSHED)) == [
        ("Pusher", [("Evaluator", ["Baseline"]), ("Trainer", ["ImportExampleGen"])])
    ]


def test_descendants_are_listed_oldest_first(workspace: Workspace) -> None:
    graph = read(workspace, read_store)
    chain = ("Trainer", [("Baseline", [("Evaluator", ["Pusher"])])])
    assert outline(made_of(graph, EXAMPLES)) == [chain, chain, "Trainer"]


def test_a_cyclic_store_has_a_tree_too() -> None:
    def turn(i: int, input_id: int, output_id: int) -> Execution:
        return Execution(i, f"C{i}", "", "", "", "ran", 0, 0, {}, {"in": [input_id]}, {"out": [output_id]})

    artifacts = {1: Artifact(1, "Model", "", made_by=2), 2: Artifact(2, "Model", "", made_by=1)}
    graph = LineageGraph(artifacts, {1: turn(1, 1, 2), 2: turn(2, 2, 1)})
    assert outline(made_from(graph, 1)) == [("C2", ["C1"])]


def test_an_artifact_that_nothing_made_or_used_has_no_branches() -> None:
    graph = LineageGraph({1: Artifact(1, "Model", "")})
    assert made_from(graph, 1) == made_of(graph, 1) == []
