from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import json_format, struct_pb2
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd

from components.metadata import CACHED, FAILED, RAN
from pipeline.lineage.graph import LineageGraph, plain, read_lineage, read_runs, read_store
from pipeline.lineage.store import read
from pipeline.workspace import Workspace
from tests.components.report.history import History
from tests.pipeline.lineage import history
from tests.pipeline.lineage.conftest import FIRST, SECOND, THIRD

# Ids of artifacts and executions in the fixture `workspace`, in order of creation.
EXAMPLES, MODEL, BASELINE, PUSHED, SECOND_MODEL, SECOND_BASELINE, SECOND_PUSHED = 1, 2, 3, 6, 7, 8, 11
IMPORTED, TRAINED, COMPARED, EVALUATED, PUSHING = 1, 2, 3, 4, 5


def whole(workspace: Workspace) -> LineageGraph:
    return read(workspace, read_store)


def test_the_whole_store_is_read(workspace: Workspace) -> None:
    graph = whole(workspace)
    assert list(graph.runs) == [FIRST, SECOND, THIRD]
    assert [execution.component for execution in graph.of_run[FIRST]] == [
        "ImportExampleGen", "Trainer", "Baseline", "Evaluator", "Pusher"
    ]  # fmt: skip
    assert [execution.state for execution in graph.of_run[THIRD]] == [CACHED, FAILED]
    evaluator = graph.executions[EVALUATED]
    assert (evaluator.pipeline, evaluator.run, evaluator.state) == ("im2latex", FIRST, RAN)
    assert evaluator.type == "tfx.Evaluator" and evaluator.ended >= evaluator.started > 1_500_000_000_000
    assert evaluator.inputs == {"in": [EXAMPLES, MODEL, BASELINE]}
    assert evaluator.outputs == {"blessing": [4], "evaluation": [5]}
    pushed = graph.artifacts[PUSHED]
    assert (pushed.type, pushed.made_by, pushed.properties["pushed"]) == ("PushedModel", PUSHING, 1)
    assert graph.users[EXAMPLES] == [TRAINED, EVALUATED, 7, 9, 12]
    assert graph.outputs(SECOND)["ImportExampleGen", "examples"].id == EXAMPLES
    assert ("Trainer", "model") not in graph.outputs(THIRD)


def test_a_cached_execution_is_not_the_maker_of_its_outputs(workspace: Workspace) -> None:
    graph = whole(workspace)
    assert graph.executions[6].outputs == {"examples": [EXAMPLES]} and graph.executions[6].state == CACHED
    assert graph.artifacts[EXAMPLES].made_by == IMPORTED
    maker = graph.maker(EXAMPLES)
    assert maker and maker.run == FIRST


def test_a_run_is_read_with_the_executions_that_made_its_cached_outputs(workspace: Workspace) -> None:
    graph = read(workspace, lambda store: read_runs(store, [SECOND]))
    assert [execution.id for execution in graph.of_run[SECOND]] == [6, 7, 8, 9, 10]
    assert [execution.id for execution in graph.of_run[FIRST]] == [IMPORTED]
    assert list(graph.runs) == [FIRST, SECOND]
    assert set(graph.artifacts) == {EXAMPLES, *range(SECOND_MODEL, SECOND_PUSHED + 1)}


def test_unknown_runs_give_an_empty_graph(workspace: Workspace) -> None:
    assert read(workspace, lambda store: read_runs(store, ["2019"])) == LineageGraph()


@pytest.mark.parametrize(
    ("artifact", "depth", "executions"),
    [
        (PUSHED, None, {IMPORTED, TRAINED, COMPARED, EVALUATED, PUSHING}),
        (PUSHED, 1, {PUSHING}),
        (PUSHED, 2, {PUSHING, TRAINED, EVALUATED}),
        (EXAMPLES, None, {IMPORTED}),
        # The path ends at the baseline, and does not reach the first model.
        (SECOND_PUSHED, None, {IMPORTED, 7, 8, 9, 10}),
    ],
)
def test_ancestors_of_an_artifact_are_read(
    workspace: Workspace, artifact: int, depth: int | None, executions: set[int]
) -> None:
    graph = read(workspace, lambda store: read_lineage(store, [artifact], depth=depth))
    assert set(graph.executions) == executions
    assert artifact in graph.artifacts


@pytest.mark.parametrize(
    ("artifact", "depth", "executions"),
    [
        (MODEL, None, {COMPARED, EVALUATED, PUSHING}),
        (PUSHED, None, set()),
        # Includes the failed training, but not the executions that took the examples from the cache.
        (EXAMPLES, 1, {TRAINED, EVALUATED, 7, 9, 12}),
        (EXAMPLES, None, {TRAINED, COMPARED, EVALUATED, PUSHING, 7, 8, 9, 10, 12}),
    ],
)
def test_descendants_of_an_artifact_are_read(
    workspace: Workspace, artifact: int, depth: int | None, executions: set[int]
) -> None:
    graph = read(workspace, lambda store: read_lineage(store, [artifact], up=False, down=True, depth=depth))
    assert set(graph.executions) == executions


def test_a_part_of_the_store_equals_that_part_of_the_whole_graph(tmp_path: Path) -> None:
    store = opened(tmp_path)
    years = history.build(store, tmp_path, 60)
    graph = read_store(store)
    assert len(graph.executions) == len(years.executions) and len(graph.artifacts) == len(years.artifacts)
    pushed = years.pushed[-1].artifact
    parts = [
        read_runs(store, list(years.runs)[20:23]),
        read_lineage(store, [pushed]),
        read_lineage(store, [1], down=True),
    ]
    for part in parts:
        assert part.executions and part.artifacts
        for mine, all_of_them in ((part.executions, graph.executions), (part.artifacts, graph.artifacts)):
            assert dict(mine) == {i: all_of_them[i] for i in mine}
        assert dict(part.runs) == {run: graph.runs[run] for run in part.runs}


def test_a_baseline_is_linked_to_its_original_by_the_stored_id(workspace: Workspace) -> None:
    graph = whole(workspace)
    assert graph.artifacts[SECOND_BASELINE].copy_of == PUSHED
    assert graph.artifacts[BASELINE].copy_of == graph.artifacts[MODEL].copy_of == 0


@pytest.mark.parametrize(("version", "copied"), [("7", 1), ("8", 0)])
def test_a_baseline_without_an_id_is_linked_by_the_pushed_folder(tmp_path: Path, version: str, copied: int) -> None:
    past = History(tmp_path / "metadata.sqlite")
    past.artifact("PushedModel", "/pushed", pushed_destination="gs://bucket/serving/7")
    baseline = past.artifact("Model", "/baseline", serving_version=version)
    past.execution(FIRST, "Baseline", outputs={"baseline": baseline}, serving="gs://bucket/serving")
    assert read_store(past.store).artifacts[baseline].copy_of == copied


def test_properties_are_json_values() -> None:
    wrapped, plainly = mlmd.Value(), mlmd.Value()
    json_format.ParseDict({"__value__": ["train", 1, None]}, wrapped.struct_value)
    json_format.ParseDict({"train": {"ok": True}}, plainly.struct_value)
    properties = plain(
        {"text": mlmd.Value(string_value="a"), "number": mlmd.Value(int_value=2), "share": mlmd.Value(double_value=0.5),
         "yes": mlmd.Value(bool_value=True), "list": wrapped, "object": plainly}
    )  # fmt: skip
    assert properties == {
        "text": "a", "number": 2, "share": 0.5, "yes": True, "list": ["train", 1, None],
        "object": {"train": {"ok": True}},
    }  # fmt: skip
    assert not any(isinstance(value, struct_pb2.Struct) for value in properties.values())


def opened(folder: Path) -> MetadataStore:
    return History(folder / "metadata.sqlite").store
