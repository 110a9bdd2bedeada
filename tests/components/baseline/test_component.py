from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tfx.types import standard_artifacts

from components.baseline.component import Driver, Executor
from components.serving_folder import SERVING_VERSION, digest
from tests.components.artifacts import artifact, execution, trained
from tests.components.baseline.test_choice import push, save


@pytest.fixture
def model(tmp_path: Path) -> Any:
    save(tmp_path / "model" / "Format-Serving", 2.0)
    return trained(tmp_path / "model")


def run(model: Any, serving: Path, folder: Path, driver: bool) -> Any:
    """Runs Baseline with its driver (as LocalDagRunner) or without it (as Kubeflow Pipelines). Returns its output."""
    properties: dict[str, Any] = {"serving": str(serving)}
    if driver:
        output = Driver(None).run(execution({"model": model}, properties))
        properties[SERVING_VERSION] = output.exec_properties[SERVING_VERSION].string_value
    baseline = artifact(standard_artifacts.Model, folder)
    Executor().Do({"model": [model]}, {"baseline": [baseline]}, properties)
    return baseline


@pytest.mark.parametrize("driver", [True, False])
def test_the_serving_model_is_copied_into_the_artifact(driver: bool, model: Any, tmp_path: Path) -> None:
    version = push(tmp_path / "serving", save(tmp_path / "old", 1.0), 7)
    baseline = run(model, tmp_path / "serving", tmp_path / "baseline", driver)
    assert baseline.get_string_custom_property(SERVING_VERSION) == "7"
    assert digest(str(tmp_path / "baseline" / "Format-Serving")) == digest(str(version))


@pytest.mark.parametrize("driver", [True, False])
def test_without_a_serving_model_the_artifact_is_empty(driver: bool, model: Any, tmp_path: Path) -> None:
    baseline = run(model, tmp_path / "missing", tmp_path / "baseline", driver)
    assert baseline.get_string_custom_property(SERVING_VERSION) == ""
    assert list((tmp_path / "baseline").iterdir()) == []
