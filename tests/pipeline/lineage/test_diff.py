from __future__ import annotations

import json
import shutil

from pipeline.lineage.diff import Difference, differences, facts
from pipeline.lineage.graph import read_store
from pipeline.lineage.run_summary import summarise
from pipeline.lineage.store import read
from pipeline.workspace import Workspace
from tests.components.report.history import History
from tests.pipeline.lineage.conftest import FIRST, SECOND, THIRD, VERSIONS, store_properties


def compared(workspace: Workspace, *runs: str) -> list[Difference]:
    graph = read(workspace, read_store)
    return differences(*(facts(graph, summarise(graph, run, "", workspace)) for run in runs))


def test_a_run_does_not_differ_from_itself(workspace: Workspace) -> None:
    assert compared(workspace, FIRST, FIRST) == []


def test_results_of_runs_are_compared(workspace: Workspace) -> None:
    assert compared(workspace, FIRST, SECOND) == [
        ("outcome", "pushed", VERSIONS[FIRST], VERSIONS[SECOND]),
        ("metrics", "bleu", 0.8, 0.81),
    ]
    assert compared(workspace, FIRST, THIRD) == [
        ("outcome", "state", "done", "failed Trainer"),
        ("outcome", "blessed", True, None),
        ("outcome", "pushed", VERSIONS[FIRST], None),
        ("metrics", "bleu", 0.8, None),
        ("metrics", "exact_match", 0.5, None),
    ]


def test_conditions_of_runs_are_compared(own_workspace: Workspace) -> None:
    def stored(seed: int, knobs: dict, packages: dict) -> dict[str, str | int]:
        return {
            "config": json.dumps({"training.seed": seed, "model.filters": [1, 2], **knobs}),
            "code_commit": "a" * 40,
            "code_changed": seed,
            "packages": json.dumps({"keras": "3.1", **packages}),
            "data": "/formulas",
            "data_fingerprint": f"{seed}" * 64,
            "hardware": json.dumps({"cores": 2}),
            "python": "3.11.7",
        }

    store_properties(own_workspace, FIRST, stored(0, {"old.knob": 1}, {"tfx": "1.16.0"}))
    store_properties(own_workspace, THIRD, stored(1, {"new.knob": "a"}, {"tfx": "1.21.0", "jax": "0.4"}))
    differing = [difference for difference in compared(own_workspace, FIRST, THIRD) if difference.section != "outcome"]
    assert [difference for difference in differing if difference.section != "metrics"] == [
        ("data", "fingerprint", "0" * 64, "1" * 64),
        ("configuration", "training.seed", 0, 1),
        ("configuration", "old.knob", 1, None),
        ("configuration", "new.knob", None, "a"),
        ("code", "changed", 0, 1),
        ("packages", "tfx", "1.16.0", "1.21.0"),
        ("packages", "jax", None, "0.4"),
    ]


def test_the_vocabulary_is_compared(own_workspace: Workspace) -> None:
    past = History(own_workspace.metadata, "im2latex")
    for run, tokens in ((FIRST, "a\nb\n"), (SECOND, "a\nb\nc\n")):
        folder = own_workspace.pipeline_root / f"graph{run}"
        (folder / "transform_fn" / "assets").mkdir(parents=True)
        (folder / "transform_fn" / "assets" / "tokens").write_text(tokens, "utf-8")
        graph = past.artifact("TransformGraph", folder)
        past.execution(run, "Transform", outputs={"transform_graph": graph})
    assert ("metrics", "vocabulary", 2, 3) in compared(own_workspace, FIRST, SECOND)
    shutil.rmtree(own_workspace.pipeline_root / f"graph{SECOND}")
    assert ("metrics", "vocabulary", 2, None) in compared(own_workspace, FIRST, SECOND)


def test_old_runs_are_compared_by_their_execution_properties(own_workspace: Workspace) -> None:
    past = History(own_workspace.metadata, "im2latex")
    for run, epochs in ((FIRST, 3), (SECOND, 4)):
        past.execution(run, "Reporter", settings=json.dumps([["training.epochs", epochs, "passes"]]))
    fourth = "2020-01-04T10:00:05.123456"
    past.execution(fourth, "ImportExampleGen", input_base="/other", input_fingerprint="split:train")
    assert ("configuration", "training.epochs", 3, 4) in compared(own_workspace, FIRST, SECOND)
    data = [difference[1:] for difference in compared(own_workspace, FIRST, fourth) if difference.section == "data"]
    assert data == [
        ("folder", str(own_workspace.home.parent / "formulas"), "/other"),
        ("fingerprint", None, "split:train"),
    ]


def test_the_hyperparameters_of_a_search_are_compared(own_workspace: Workspace) -> None:
    past = History(own_workspace.metadata, "im2latex")
    for run, width in ((FIRST, 1.0), (SECOND, 1.25)):
        best = past.artifact("HyperParameters", own_workspace.pipeline_root / f"best{run}", width=width, trials=3)
        past.execution(run, "Tuner", outputs={"best_hyperparameters": best})
    assert ("hyperparameters", "width", 1.0, 1.25) in compared(own_workspace, FIRST, SECOND)
