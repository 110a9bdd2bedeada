"""The DSL file for `tfx pipeline create --engine=local` and `tfx run create --engine=local`.

    tfx pipeline create --engine=local --pipeline_path=$PWD/pipeline/running/tfx_dsl.py
    tfx run create --engine=local --pipeline_name=im2latex

The tfx command runs this file without arguments. Environment variables configure it: IM2LATEX_CONFIG is a TOML file (by
default the quickstart preset is used), IM2LATEX_HOME is the workspace (default: ./workspace).
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Mapping
from pathlib import Path

# Run as a script, Python puts the script's folder on the path, not the repository.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.config import Config, load_config, tensorflow_environment  # noqa: E402

if __name__ == "__main__":  # before TensorFlow is imported
    CONFIG = load_config(path=os.environ.get("IM2LATEX_CONFIG"))
    for variable, value in tensorflow_environment(CONFIG).items():
        os.environ.setdefault(variable, value)

from ml_metadata.proto import metadata_store_pb2  # noqa: E402
from tfx.dsl.compiler import constants  # noqa: E402
from tfx.orchestration.local.local_dag_runner import LocalDagRunner  # noqa: E402
from tfx.orchestration.metadata import Metadata  # noqa: E402
from tfx.orchestration.pipeline import Pipeline  # noqa: E402
from tfx.orchestration.portable import runtime_parameter_utils  # noqa: E402
from tfx.orchestration.portable.mlmd import context_lib  # noqa: E402
from tfx.proto.orchestration import pipeline_pb2  # noqa: E402

from pipeline.lineage.problems import repair_killed  # noqa: E402
from pipeline.lineage.store import connection  # noqa: E402
from pipeline.pipeline import create_pipeline  # noqa: E402
from pipeline.running.examples import prepare_examples  # noqa: E402
from pipeline.running.record import describe  # noqa: E402
from pipeline.workspace import Workspace  # noqa: E402


def local_pipeline(config: Config, workspace: Workspace, enable_cache: bool = True) -> Pipeline:
    """Creates the pipeline with all folders in the workspace; draws synthetic examples if they do not exist yet."""
    workspace.home.mkdir(parents=True, exist_ok=True)
    metadata = connection(config.metadata.connection, workspace)
    workspace.keep_connection(config.metadata.connection)
    return create_pipeline(
        config,
        data=str(prepare_examples(config.data, workspace)),
        pipeline_root=str(workspace.pipeline_root),
        serving=str(workspace.serving / config.name),
        checkpoints=str(workspace.checkpoints),
        metadata=metadata,
        enable_cache=enable_cache,
    )


class RecordingRunner(LocalDagRunner):
    """A LocalDagRunner that records a run's conditions in ML Metadata before its first component starts."""

    def __init__(self, store: metadata_store_pb2.ConnectionConfig, record: Mapping[str, str | int]) -> None:
        """
        Args:
            store: the pipeline's ML Metadata.
            record: properties to store with the run, see `pipeline.running.record`.
        """
        super().__init__()
        self._connection = store
        self._record = record

    def run_with_ir(self, pipeline: pipeline_pb2.Pipeline, run_options: pipeline_pb2.RunOptions | None = None) -> None:
        """Runs the compiled pipeline, or the part of it in `run_options`."""
        self.begin(pipeline)
        super().run_with_ir(pipeline, run_options)

    def begin(self, pipeline: pipeline_pb2.Pipeline) -> str:
        """Creates a run: sets its id in the compiled pipeline, stores the record, and returns the id."""
        run_id = datetime.datetime.now().isoformat()
        parameters = {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id}
        runtime_parameter_utils.substitute_runtime_parameter(pipeline, parameters)
        with Metadata(self._connection) as handle:
            # Creates the same contexts as TFX does for the first component; TFX reuses them.
            context_lib.prepare_contexts(handle, pipeline.nodes[0].pipeline_node.contexts)
            run = handle.store.get_context_by_type_and_name(constants.PIPELINE_RUN_CONTEXT_TYPE_NAME, run_id)
            for name, value in self._record.items():
                if isinstance(value, str):
                    run.custom_properties[name].string_value = value
                else:
                    run.custom_properties[name].int_value = value
            handle.store.put_contexts([run])
        return run_id


if __name__ == "__main__":
    WORKSPACE = Workspace.from_environment()
    PIPELINE = local_pipeline(CONFIG, WORKSPACE)
    with WORKSPACE.lock():
        repair_killed(CONFIG.metadata.connection, WORKSPACE)
        RecordingRunner(PIPELINE.metadata_connection_config, describe(CONFIG, WORKSPACE)).run(PIPELINE)
