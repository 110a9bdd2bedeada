from __future__ import annotations

from pathlib import Path

import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd

from im2latex.errors import UserError
from pipeline.lineage.find import named, serving_model, whole_run
from pipeline.lineage.graph import LineageGraph
from pipeline.lineage.store import read
from pipeline.workspace import Workspace
from tests.components.report.history import History
from tests.pipeline.lineage.conftest import FIRST, SECOND, VERSIONS

EXAMPLES, MODEL, PUSHED, SECOND_MODEL, SECOND_BLESSING, SECOND_PUSHED = 1, 2, 6, 7, 9, 11


def test_the_newest_version_in_the_serving_folder_serves(workspace: Workspace) -> None:
    assert read(workspace, lambda store: serving_model(store, workspace)) == SECOND_PUSHED


def test_an_older_version_serves_if_the_newest_is_removed(own_workspace: Workspace) -> None:
    (own_workspace.serving / "im2latex" / VERSIONS[SECOND]).rmdir()
    assert read(own_workspace, lambda store: serving_model(store, own_workspace)) == PUSHED


def test_the_newest_version_is_the_highest_number(own_workspace: Workspace) -> None:
    (own_workspace.serving / "im2latex" / "999").mkdir()
    assert read(own_workspace, lambda store: serving_model(store, own_workspace)) == SECOND_PUSHED


def test_a_moved_workspace_finds_its_model(own_workspace: Workspace) -> None:
    moved = Workspace(own_workspace.home.rename(own_workspace.home.with_name("elsewhere")))
    assert read(moved, lambda store: serving_model(store, moved)) == SECOND_PUSHED


def test_a_version_without_a_recorded_push_is_reported(own_workspace: Workspace) -> None:
    stranger = own_workspace.serving / "im2latex" / "9999999999"
    stranger.mkdir()
    with pytest.raises(UserError, match=f"no recorded run pushed {stranger}"):
        read(own_workspace, lambda store: serving_model(store, own_workspace))


def test_an_empty_serving_folder_is_reported(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    History(workspace.metadata)
    with pytest.raises(UserError, match="no model was pushed"):
        read(workspace, lambda store: serving_model(store, workspace))


def test_an_artifact_is_found_by_every_kind_of_name(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "2": MODEL,
        VERSIONS[FIRST]: PUSHED,
        "Examples": EXAMPLES,
        "modelblessing": SECOND_BLESSING,
        str(workspace.pipeline_root / f"model{VERSIONS[FIRST]}"): MODEL,
        str(workspace.pipeline_root / f"model{VERSIONS[FIRST]}" / "Format-Serving" / "saved_model.pb"): MODEL,
        str(workspace.serving / "im2latex" / VERSIONS[SECOND]): SECOND_PUSHED,
        str(workspace.home.parent / "formulas"): EXAMPLES,
    }
    assert {text: read(workspace, lambda store, text=text: named(store, text)) for text in names} == names
    monkeypatch.chdir(workspace.pipeline_root)
    assert read(workspace, lambda store: named(store, f"./model{VERSIONS[SECOND]}/")) == SECOND_MODEL


def test_an_artifact_is_found_by_its_name_and_a_remote_address(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    past = History(workspace.metadata)
    past.artifact("Model", "gs://bucket/model/0")
    kind = past.store.get_artifact_type("Model").id
    artifact = mlmd.Artifact(type_id=kind, uri="gs://bucket/model/1", name="the good one")
    (artifact_id,) = past.store.put_artifacts([artifact])
    for text in ("the good one", "gs://bucket/model/1"):
        assert read(workspace, lambda store, text=text: named(store, text)) == artifact_id


@pytest.mark.parametrize(("recorded", "asked"), [("", "/"), ("/", "")])
def test_examples_are_found_by_the_address_of_their_records(tmp_path: Path, recorded: str, asked: str) -> None:
    workspace = Workspace(tmp_path)
    past = History(workspace.metadata)
    examples = past.artifact("Examples", "s3://runs/examples/1")
    model = past.artifact("Model", "s3://runs/model/2")
    past.execution(
        "one", "ImportExampleGen", outputs={"examples": examples}, input_base=f"s3://formulas/data{recorded}"
    )
    past.execution("one", "Trainer", outputs={"model": model}, inputs=[examples])
    file = "s3://runs/model/2/Format-Serving/saved_model.pb"
    for text, artifact in ((f"s3://formulas/data{asked}", examples), (file, model)):
        assert read(workspace, lambda store, text=text: named(store, text)) == artifact
    with pytest.raises(UserError, match="there is no artifact"):
        read(workspace, lambda store: named(store, "s3://formulas/dat"))


@pytest.mark.parametrize("text", ["77", "Modell", "/nowhere", "gs://bucket/none", "", "."])
def test_an_unknown_artifact_is_refused_with_the_known_types(workspace: Workspace, text: str) -> None:
    with pytest.raises(UserError, match="there is no artifact .*Examples, Model, ModelBlessing"):
        read(workspace, lambda store: named(store, text))


def test_the_run_of_an_artifact_is_the_one_that_made_it(workspace: Workspace) -> None:
    graph = read(workspace, lambda store: whole_run(store, SECOND_MODEL))
    assert [execution.component for execution in graph.of_run[SECOND]] == [
        "ImportExampleGen", "Trainer", "Baseline", "Evaluator", "Pusher"
    ]  # fmt: skip
    assert read(workspace, lambda store: whole_run(store, 99)) == LineageGraph()
