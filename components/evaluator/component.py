"""TFX's Evaluator needs a baseline model or no baseline input at all, decided when the pipeline is
built; here the Baseline component decides when the pipeline runs, by an artifact with or without a model.
"""

from __future__ import annotations

from typing import Any

from tfx.components.evaluator import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import path_utils

BASELINE = standard_component_specs.BASELINE_MODEL_KEY


class Executor(executor.Executor):
    """Evaluates against the baseline when its artifact holds a model, else on the absolute thresholds alone."""

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> None:
        """As TFX's executor; a `baseline_model` without a model in it counts as absent."""
        if input_dict.get(BASELINE):
            baseline = artifact_utils.get_single_instance(input_dict[BASELINE])
            if not fileio.exists(path_utils.serving_model_path(baseline.uri)):
                input_dict = {key: artifacts for key, artifacts in input_dict.items() if key != BASELINE}
        super().Do(input_dict, output_dict, exec_properties)


class Evaluator(component.Evaluator):
    """TFX's Evaluator with the executor above."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
