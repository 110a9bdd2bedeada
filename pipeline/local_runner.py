"""The DSL file that `tfx pipeline create --engine=local` and `tfx run create --engine=local` take.

    tfx pipeline create --engine=local --pipeline_path=$PWD/pipeline/local_runner.py
    tfx run create --engine=local --pipeline_name=im2latex

The tfx command starts this file without arguments. IM2LATEX_CONFIG names a TOML file (without it:
the quickstart preset), IM2LATEX_HOME the folder to write to (without it: ./workspace).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Python puts this file's folder first, where pipeline.py would hide the package of that name.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.config import Config, load_config, tensorflow_environment  # noqa: E402

if __name__ == "__main__":  # before TensorFlow is imported
    CONFIG = load_config(path=os.environ.get("IM2LATEX_CONFIG"))
    for variable, value in tensorflow_environment(CONFIG).items():
        os.environ.setdefault(variable, value)

from tfx.orchestration import metadata  # noqa: E402
from tfx.orchestration.local.local_dag_runner import LocalDagRunner  # noqa: E402
from tfx.orchestration.pipeline import Pipeline  # noqa: E402

from pipeline.examples import prepare_examples  # noqa: E402
from pipeline.pipeline import create_pipeline  # noqa: E402
from pipeline.workspace import Workspace  # noqa: E402


def local_pipeline(config: Config, workspace: Workspace, enable_cache: bool = True) -> Pipeline:
    """The pipeline with everything in the workspace; makes the synthetic examples if they are asked for and missing."""
    workspace.home.mkdir(parents=True, exist_ok=True)
    return create_pipeline(
        config,
        data=str(prepare_examples(config.data, workspace)),
        pipeline_root=str(workspace.pipeline_root),
        serving=str(workspace.serving / config.name),
        checkpoints=str(workspace.checkpoints),
        metadata=metadata.sqlite_metadata_connection_config(str(workspace.metadata)),
        enable_cache=enable_cache,
    )


if __name__ == "__main__":
    LocalDagRunner().run(local_pipeline(CONFIG, Workspace.from_environment()))
