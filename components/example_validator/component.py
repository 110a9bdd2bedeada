"""ExampleValidator: stops the run if the examples do not match the schema, and names the anomalies.

TFX's ExampleValidator only writes anomalies to an artifact, which the orchestrators ignore; TFX (1.16 to 1.21) has no
option to stop.
"""

from __future__ import annotations

import os
import textwrap
from typing import Any

from tensorflow_data_validation.utils.anomalies_util import load_anomalies_binary
from tfx.components.example_validator import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.types import artifact_utils

from im2latex.errors import UserError

# Each anomaly is cut to this many characters, because TFDV may list every value.
REPORT_LENGTH = 160


class Executor(executor.Executor):
    """Validates every split as TFX does, then fails if there are anomalies."""

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> Any:
        """Writes the anomalies of each split to `anomalies`.

        Raises:
            UserError: a split has anomalies; the message names each with its split and feature.
        """
        result = super().Do(input_dict, output_dict, exec_properties)
        artifact = artifact_utils.get_single_instance(output_dict["anomalies"])
        problems = []
        for split in artifact_utils.decode_split_names(artifact.split_names):
            path = os.path.join(artifact_utils.get_split_uri([artifact], split), executor.DEFAULT_FILE_NAME)
            anomalies = load_anomalies_binary(path)
            reports = {feature: info.description for feature, info in anomalies.anomaly_info.items()}
            if anomalies.HasField("dataset_anomaly_info"):
                reports["the split"] = anomalies.dataset_anomaly_info.description
            problems += [
                f"{split}: {feature}: {textwrap.shorten(report, REPORT_LENGTH, placeholder=' …')}"
                for feature, report in sorted(reports.items())
            ]
        if problems:
            raise UserError(f"the examples do not match the schema: {'; '.join(problems)}")
        return result


class ExampleValidator(component.ExampleValidator):
    """TFX's ExampleValidator with the executor above."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
