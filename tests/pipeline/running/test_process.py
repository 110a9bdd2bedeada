from __future__ import annotations

from pathlib import Path

import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.proto.orchestration import pipeline_pb2

from im2latex.errors import UserError
from pipeline.config.sections import COMPONENTS
from pipeline.lineage.store import connection
from pipeline.running.process import ReportingRunner
from pipeline.workspace import Workspace
from tests.components.report.history import History

EARLIER, KILLED = "2020-01-01T10:00:00.000000", "2020-01-02T10:00:00.000000"


@pytest.fixture
def pipeline() -> pipeline_pb2.Pipeline:
    compiled = pipeline_pb2.Pipeline()
    for component in COMPONENTS:
        compiled.nodes.add().pipeline_node.node_info.id = component
    return compiled


def test_a_partial_run_continues_from_the_newest_run_with_all_its_inputs(
    tmp_path: Path, pipeline: pipeline_pb2.Pipeline
) -> None:
    workspace = Workspace(tmp_path)
    past = History(workspace.metadata, "im2latex")
    for component in COMPONENTS[:-1]:
        past.execution(EARLIER, component)
    for component in COMPONENTS[: COMPONENTS.index("Trainer")]:
        past.execution(KILLED, component, mlmd.Execution.CACHED)
    past.execution(KILLED, "Trainer", mlmd.Execution.CANCELED)
    runner = ReportingRunner(connection("", workspace), {}, print)
    assert runner._base(pipeline, "Trainer") == KILLED
    assert runner._base(pipeline, "Evaluator") == EARLIER
    past.execution(EARLIER, "Reporter", mlmd.Execution.FAILED)
    assert runner._base(pipeline, "Reporter") == EARLIER


def test_a_partial_run_without_a_run_that_has_its_inputs_is_refused(
    tmp_path: Path, pipeline: pipeline_pb2.Pipeline
) -> None:
    workspace = Workspace(tmp_path)
    History(workspace.metadata, "im2latex").execution(KILLED, "ImportExampleGen")
    runner = ReportingRunner(connection("", workspace), {}, print)
    with pytest.raises(UserError, match="no run has reached Trainer; run without --from"):
        runner._base(pipeline, "Trainer")
