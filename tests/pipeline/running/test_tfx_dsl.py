from __future__ import annotations

from pathlib import Path

import pytest
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.orchestration.pipeline import Pipeline

from pipeline.config import load_config
from pipeline.lineage.address import Address
from pipeline.lineage.graph import read_store
from pipeline.lineage.store import connection, read
from pipeline.pipeline import SCHEMA
from pipeline.running.tfx_dsl import RecordingRunner, local_pipeline
from pipeline.workspace import Workspace

RECORD = {"config": "{}", "code_changed": 1}


def run(workspace: Workspace, schema: Path) -> None:
    """Runs a pipeline of one component."""
    store = connection("", workspace)
    pipeline = Pipeline(
        pipeline_name="small",
        pipeline_root=str(workspace.pipeline_root),
        components=[ImportSchemaGen(schema_file=str(schema))],
        enable_cache=True,
        metadata_connection_config=store,
    )
    RecordingRunner(store, RECORD).run(pipeline)


def test_tfx_does_not_change_the_record_of_a_run(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    run(workspace, SCHEMA)
    run(workspace, SCHEMA)
    graph = read(workspace, read_store)
    assert [dict(recorded_run.properties) for recorded_run in graph.runs.values()] == [RECORD, RECORD]
    assert [(e.component, e.state, e.pipeline) for e in graph.executions.values()] == [
        ("ImportSchemaGen", "ran", "small"), ("ImportSchemaGen", "cached", "small")
    ]  # fmt: skip
    assert [execution.run for execution in graph.executions.values()] == list(graph.runs)


def test_a_run_is_a_child_of_its_pipeline(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    run(workspace, SCHEMA)
    store = MetadataStore(connection("", workspace))
    (context,) = store.get_contexts_by_type("pipeline_run")
    assert [parent.name for parent in store.get_parent_contexts_by_context(context.id)] == ["small"]


def test_a_run_that_fails_immediately_has_a_record(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(Exception, match="missing.pbtxt"):
        run(workspace, tmp_path / "missing.pbtxt")
    graph = read(workspace, read_store)
    assert [dict(recorded_run.properties) for recorded_run in graph.runs.values()] == [RECORD]
    assert [execution.state for execution in graph.executions.values()] == ["failed"]


def test_the_workspace_stores_the_configured_metadata_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Address, "reach", lambda self: None)
    monkeypatch.setenv("IM2LATEX_METADATA_PASSWORD", "hunter2")
    monkeypatch.delenv("MYSQL_PWD", raising=False)
    for split in ("train", "eval", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / "part").touch()
    workspace = Workspace(tmp_path / "home")
    settings = [f"data.source={tmp_path / 'data'}", "metadata.connection=mysql://me@host/lineage"]
    config = local_pipeline(load_config(settings=settings), workspace).metadata_connection_config
    assert config == mlmd.ConnectionConfig(
        mysql=mlmd.MySQLDatabaseConfig(host="host", port=3306, database="lineage", user="me")
    )
    assert workspace.connection == "mysql://me@host/lineage"
    inside = local_pipeline(load_config(settings=settings[:1]), workspace).metadata_connection_config
    assert inside.sqlite.filename_uri == str(workspace.metadata) and workspace.connection == ""
