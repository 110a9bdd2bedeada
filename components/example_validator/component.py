"""ExampleValidator: stops the run if the examples do not match the schema, and names the anomalies.

TFX's ExampleValidator only writes anomalies to an artifact, which the orchestrators ignore; TFX (1.16 to 1.21) has no
option to stop.

It also compares the examples with the training data of the serving model, and warns or stops if they have drifted.
The version that serves is not part of the cache key: examples are compared once, when they are new. Otherwise each push
would let the next run, with the same examples, do it again.
"""

from __future__ import annotations

import json
import logging
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorflow_data_validation.utils.anomalies_util import load_anomalies_binary
from tfx import types
from tfx.components.example_validator import executor
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import artifact_utils, standard_artifacts, standard_component_specs
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.example_validator import drift
from components.example_validator.comparison import compare_with_serving
from im2latex.drift import drifted
from im2latex.errors import UserError

# Each anomaly is cut to this many characters, because TFDV may list every value.
REPORT_LENGTH = 160
# What to do if the examples have drifted.
WARN, STOP, OFF = "warn", "stop", "off"
SPLIT = "train"

log = logging.getLogger(__name__)


class ExampleValidatorSpec(ComponentSpec):
    """TFX's inputs, outputs and parameters, and those of the comparison with the serving model."""

    PARAMETERS = {
        **standard_component_specs.ExampleValidatorSpec.PARAMETERS,
        "serving": ExecutionParameter(type=str),
        "thresholds": ExecutionParameter(type=str),
        "action": ExecutionParameter(type=str),
    }
    INPUTS = {
        **standard_component_specs.ExampleValidatorSpec.INPUTS,
        "examples": ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = standard_component_specs.ExampleValidatorSpec.OUTPUTS


class Executor(executor.Executor):
    """Validates every split as TFX does, then compares training examples with those of the serving model."""

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> Any:
        """Writes the anomalies of each split, and the comparison, to `anomalies`.

        Raises:
            UserError: a split has anomalies, or the examples have drifted and the run shall stop; the message names
                each anomaly with its split and feature, and each feature that has drifted.
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
        if exec_properties["action"] != OFF:
            self._compare(input_dict, artifact, exec_properties)
            # The orchestrator takes the artifact's properties from here.
            result.output_artifacts["anomalies"].artifacts[0].CopyFrom(artifact.mlmd_artifact)
        return result

    def _compare(self, input_dict: dict[str, list], anomalies: types.Artifact, exec_properties: dict[str, Any]) -> None:
        """Writes the comparison with the serving model to `anomalies`, and warns or stops if it found drift."""
        statistics = artifact_utils.get_single_instance(input_dict["statistics"])
        (counted,) = stats_artifact_utils.load_statistics(statistics, SPLIT).proto().datasets
        comparison = compare_with_serving(
            Path(artifact_utils.get_split_uri(input_dict["examples"], SPLIT)),
            int(counted.num_examples),
            exec_properties["serving"],
            json.loads(exec_properties["thresholds"]),
        )
        drift.write(comparison, anomalies.uri)
        anomalies.set_string_custom_property(drift.SENTENCE, comparison.sentence)
        if not drifted(comparison.comparisons):
            log.info("%s", comparison.sentence)
        elif exec_properties["action"] == WARN:
            log.warning("%s", comparison.sentence)
        else:
            raise UserError(f"{comparison.sentence}; to continue anyway, set drift.action=warn")


class ExampleValidator(base_component.BaseComponent):
    """Validates examples by the schema, and compares them with the training data of the serving model."""

    SPEC_CLASS = ExampleValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        statistics: types.BaseChannel,
        schema: types.BaseChannel,
        examples: types.BaseChannel,
        serving: str,
        thresholds: Mapping[str, float],
        action: str,
    ) -> None:
        """
        Args:
            statistics: StatisticsGen's output.
            schema: the schema.
            examples: ImportExampleGen's output.
            serving: the serving folder, which holds one folder per version.
            thresholds: largest distance from the serving model's training data, by feature of `im2latex.statistics`.
            action: if a distance is larger: WARN, STOP; OFF compares nothing.
        """
        super().__init__(
            ExampleValidatorSpec(
                statistics=statistics,
                schema=schema,
                examples=examples,
                exclude_splits=json.dumps([]),
                serving=serving,
                thresholds=json.dumps(dict(thresholds)),
                action=action,
                anomalies=types.Channel(standard_artifacts.ExampleAnomalies),
            )
        )
