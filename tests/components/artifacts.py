"""Creates artifacts and drivers' inputs like TFX's launcher, for tests of single components."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx.orchestration.portable.data_types import ExecutionInfo
from tfx.types import standard_artifacts


def artifact(kind: Any, folder: Path) -> Any:
    result = kind()
    result.uri = str(folder)
    return result


def trained(folder: Path) -> Any:
    """Returns a Model artifact whose SavedModel is in folder/Format-Serving."""
    return artifact(standard_artifacts.Model, folder)


def execution(inputs: dict[str, Any], properties: dict[str, Any]) -> ExecutionInfo:
    return ExecutionInfo(input_dict={key: [value] for key, value in inputs.items()}, exec_properties=properties)
