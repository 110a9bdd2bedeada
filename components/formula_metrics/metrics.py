"""The scores as metrics of TensorFlow Model Analysis.

In an EvalConfig they have the name of the score in their configuration:

    MetricConfig(
        class_name="FormulaScore", module="components.formula_metrics.metrics", config='{"score": "bleu"}'
    )

The prediction of an example (ModelSpec's `prediction_key`) is its statistics, (WIDTH,) int64, as `scores.statistics`
counted them: what is added here, slice by slice and model by model, was read, drawn and compared once. Labels are not
looked at, and example weights are not used. Values are floats, so thresholds hold on them, absolute and as a change
against a baseline.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util
from tensorflow_model_analysis.proto import config_pb2

from components.formula_metrics.scores import SCORES, WIDTH


class FormulaScore(metric_types.Metric):
    """One of `SCORES`, by its name."""

    def __init__(self, score: str, name: str | None = None):
        """
        Args:
            score: the name of the score.
            name: of the metric; if None, that of the score.

        Raises:
            ValueError: there is no such score.
        """
        if score not in SCORES:
            raise ValueError(f"there is no score {score!r}; the scores are {', '.join(SCORES)}")
        # Computations of each model and output, which TFMA passes by name.
        computations = functools.partial(_computations, score)
        super().__init__(metric_util.merge_per_key_computations(computations), name=name or score)
        self.score = score

    def get_config(self) -> dict[str, str]:
        """The arguments that make the same metric again."""
        return {"score": self.score, "name": self.name}


def metric_configs() -> list[config_pb2.MetricConfig]:
    """Every score, for an EvalConfig."""
    return [
        config_pb2.MetricConfig(
            class_name=FormulaScore.__name__, module=FormulaScore.__module__, config=json.dumps({"score": name})
        )
        for name in SCORES
    ]


def _computations(
    score: str, name: str, model_name: str = "", output_name: str = ""
) -> metric_types.MetricComputations:
    key = metric_types.MetricKey(name=name, model_name=model_name, output_name=output_name)
    return [metric_types.MetricComputation(keys=[key], preprocessors=None, combiner=SumOfStatistics(key, score))]


class SumOfStatistics(beam.CombineFn):
    """Adds a score's columns of the statistics of all examples; the accumulator is an int64 vector of them."""

    def __init__(self, key: metric_types.MetricKey, score: str):
        """Of a metric's key, with the model and the output, and a score's name."""
        self.key = key
        self.score = score

    def create_accumulator(self) -> np.ndarray:
        return np.zeros(WIDTH, np.int64)[SCORES[self.score].part]

    def add_input(self, accumulator: np.ndarray, element: metric_types.StandardMetricInputs) -> np.ndarray:
        """Adds an example.

        Raises:
            ValueError: the prediction is not (WIDTH,) whole numbers.
        """
        statistics = element.get_predictions(self.key.model_name, self.key.output_name)
        if np.shape(statistics) != (WIDTH,) or statistics.dtype.kind != "i":
            raise ValueError(f"{self.key.name} adds the {WIDTH} statistics of an example, and was given {statistics!r}")
        return accumulator + statistics[SCORES[self.score].part]

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        return sum(accumulators, start=self.create_accumulator())

    def extract_output(self, accumulator: np.ndarray) -> dict[metric_types.MetricKey, float]:
        return {self.key: SCORES[self.score].value(accumulator)}
