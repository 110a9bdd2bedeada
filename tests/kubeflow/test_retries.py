"""Retries of a failed task by the backend, with the compiled retry policy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kubeflow.runner import compile_pipeline
from pipeline.config import load_config
from tests.kubeflow.backend import Backend, TaskFailed
from tests.kubeflow.test_runner import CLUSTER

TASK = "import-schema-gen"
HOUR = 3600


def failing(pods: str, failures: int, count: Path) -> str:
    """Compiles the pipeline and keeps its first task only, with a command that fails `failures` times first."""
    spec, platform = yaml.safe_load_all(compile_pipeline(load_config(settings=[*CLUSTER, f"kubeflow.pods={pods}"])))
    spec["root"]["dag"]["tasks"] = {TASK: spec["root"]["dag"]["tasks"][TASK]}
    script = f'echo tried >> {count}; test "$(wc -l < {count})" -gt {failures}'
    spec["deploymentSpec"]["executors"][f"exec-{TASK}"]["container"] |= {"command": ["sh", "-c", script], "args": []}
    return yaml.safe_dump_all([spec, platform])


@pytest.mark.parametrize(("failures", "attempts"), [(0, 1), (1, 2), (2, 3), (3, 3)])
@pytest.mark.parametrize("seconds", [0, 10 * HOUR])
def test_a_failed_task_is_retried(failures: int, attempts: int, seconds: float, tmp_path: Path) -> None:
    backend = Backend(tmp_path / "cluster")
    backend.seconds_of_an_attempt = seconds
    text = failing("{all = {retries = 2}}", failures, tmp_path / "count")
    if failures == attempts:
        with pytest.raises(TaskFailed):
            backend.run(text)
    else:
        backend.run(text)
    assert (tmp_path / "count").read_text().count("tried") == attempts


def test_without_retries_there_is_one_attempt(tmp_path: Path) -> None:
    with pytest.raises(TaskFailed):
        Backend(tmp_path / "cluster").run(failing("{}", 1, tmp_path / "count"))
    assert (tmp_path / "count").read_text().count("tried") == 1
