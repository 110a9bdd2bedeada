"""Tuner: TFX's Tuner, which also records the best hyperparameters in ML Metadata.

TFX's executor writes them to a file only, so that a lineage would have to open the files of each run.
"""

from __future__ import annotations

from typing import Any

from tfx.components.tuner import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.types import artifact_utils

from components.tuner.results import PERPLEXITY, TRIALS, read_trials


class Executor(executor.Executor):
    """Runs TFX's executor, and sets the properties of the best hyperparameters."""

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> None:
        """Writes `best_hyperparameters` and `tuner_results`.

        The properties of `best_hyperparameters` are the values, their `perplexity`, and the number of `trials`.
        """
        super().Do(input_dict, output_dict, exec_properties)
        trials = read_trials(artifact_utils.get_single_uri(output_dict["tuner_results"]))
        best = artifact_utils.get_single_instance(output_dict["best_hyperparameters"])
        best.set_int_custom_property(TRIALS, len(trials))
        best.set_float_custom_property(PERPLEXITY, trials[0].perplexity)
        for name, value in trials[0].values.items():
            best.set_float_custom_property(name, value)


class Tuner(component.Tuner):
    """TFX's Tuner with the executor above."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
