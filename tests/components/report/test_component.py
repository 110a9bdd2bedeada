from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.components.common.importer import Importer
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.metadata import sqlite_metadata_connection_config
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts

from components.report.component import Executor, Report, Reporter
from tests.components.artifacts import artifact
from tests.components.report.conftest import Material

KINDS: dict[str, Any] = {
    "examples": standard_artifacts.Examples,
    "transform_graph": standard_artifacts.TransformGraph,
    "model": standard_artifacts.Model,
    "model_run": standard_artifacts.ModelRun,
    "baseline": standard_artifacts.Model,
    "evaluation": standard_artifacts.ModelEvaluation,
    "blessing": standard_artifacts.ModelBlessing,
    "serving_check": standard_artifacts.InfraBlessing,
    "pushed_model": standard_artifacts.PushedModel,
}


def pipeline(material: Material, folder: Path, setting: int = 1) -> Pipeline:
    """A pipeline of Importers and Reporter."""
    nodes = {}
    for name, output in material.run.artifacts.items():
        # Importer supports no other types of properties.
        known = {key: value for key, value in output.properties.items() if isinstance(value, str | int)}
        importer = Importer(source_uri=output.uri, artifact_type=KINDS[name], custom_properties=known)
        nodes[name] = importer.with_id(f"Import-{name}")
    reporter = Reporter(
        pipeline="formulas",
        settings=[("training.epochs", setting, "passes")],
        data=material.run.data,
        split="test",
        serving=material.run.serving,
        **{name: node.outputs["result"] for name, node in nodes.items()},
    )
    return Pipeline(
        pipeline_name="formulas",
        pipeline_root=str(folder / "root"),
        components=[*nodes.values(), reporter],
        enable_cache=True,
        metadata_connection_config=sqlite_metadata_connection_config(str(folder / "metadata.sqlite")),
    )


def reports(folder: Path) -> list[tuple[str, str]]:
    """Returns the state and address of the report of each run."""
    store = MetadataStore(sqlite_metadata_connection_config(str(folder / "metadata.sqlite")))
    rows = []
    for execution in store.get_executions_by_type("components.report.component.Reporter"):
        (event,) = [e for e in store.get_events_by_execution_ids([execution.id]) if e.path.steps[0].key == "report"]
        (report,) = store.get_artifacts_by_id([event.artifact_id])
        rows.append((metadata_store_pb2.Execution.State.Name(execution.last_known_state), report.uri))
    return rows


def test_an_unchanged_report_comes_from_the_cache(material: Material, tmp_path: Path) -> None:
    for setting in (1, 1, 2):
        LocalDagRunner().run(pipeline(material, tmp_path, setting))
    (first, uri), (second, same), (third, other) = reports(tmp_path)
    assert [first, second, third] == ["COMPLETE", "CACHED", "COMPLETE"]
    assert uri == same != other
    page = Path(uri, "report.html").read_text("utf-8")
    assert "<h1" in page and "Import-evaluation" in page  # the steps
    assert "Serving check" in page and "612" in page  # the properties
    assert "Where the model looks" in page
    assert "training.epochs" in page


def test_the_serving_check_is_optional(material: Material, tmp_path: Path) -> None:
    (*_, reporter) = pipeline(material, tmp_path).components
    channels = {name: channel for name, channel in reporter.spec.inputs.items() if name != "serving_check"}
    without_check = Reporter(pipeline="formulas", settings=[], data="/d", split="test", serving="/s", **channels)
    assert set(without_check.spec.inputs) == set(KINDS) - {"serving_check"}


def test_without_a_driver_the_report_refers_to_the_orchestrator(material: Material, tmp_path: Path) -> None:
    inputs = {}
    for name, output in material.run.artifacts.items():
        inputs[name] = [artifact(KINDS[name], Path(output.uri))]
    inputs["serving_check"] = []
    report = artifact(Report, tmp_path)
    properties = {"pipeline": "formulas", "settings": "[]", "data": material.run.data, "split": "test", "serving": "/s"}
    Executor().Do(inputs, {"report": [report]}, properties)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "is kept by the orchestrator" in page
    assert "The run has no serving check." in page


@pytest.mark.parametrize("missing", ["model", "evaluation", "examples"])
def test_a_report_is_written_even_if_artifacts_were_removed(missing: str, material: Material, tmp_path: Path) -> None:
    inputs = {name: [artifact(KINDS[name], Path(output.uri))] for name, output in material.run.artifacts.items()}
    inputs[missing] = [artifact(KINDS[missing], tmp_path / "gone")]
    inputs["serving_check"] = []
    properties = {"pipeline": "formulas", "settings": "[]", "data": "/nowhere", "split": "test", "serving": "/s"}
    Executor().Do(inputs, {"report": [artifact(Report, tmp_path)]}, properties)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert f"{tmp_path / 'gone'} is no longer there" in page
    assert "/nowhere" in page
