"""The scores as metrics for TensorFlow Model Analysis.

An EvalConfig names the score in the metric's configuration:

    MetricConfig(
        class_name="FormulaScore", module="components.formula_metrics.metrics", config='{"score": "bleu"}'
    )

The prediction of an example (ModelSpec's `prediction_key`) is its statistics, int64 (WIDTH,), from `scores.statistics`.
So every example is read, drawn and compared once, and TFMA only sums over slices and models. Labels and example weights
are ignored. Values are floats, so TFMA's thresholds apply to them, both absolute and as a change against a baseline.
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
    """A TFMA metric that computes one of `SCORES`."""

    def __init__(self, score: str, name: str | None = None):
        """
        Args:
            score: name of the score.
            name: name of the metric; defaults to the score's.

        Raises:
            ValueError: the score is unknown.
        """
        if score not in SCORES:
            raise ValueError(f"there is no score {score!r}; the scores are {', '.join(SCORES)}")
        # TFMA calls this for each model and output, with keyword arguments.
        computations = functools.partial(_computations, score)
        super().__init__(metric_util.merge_per_key_computations(computations), name=name or score)
        self.score = score

    def get_config(self) -> dict[str, str]:
        """Returns the constructor's arguments, from which TFMA recreates the metric."""
        return {"score": self.score, "name": self.name}


def metric_configs() -> list[config_pb2.MetricConfig]:
    """Returns the configurations of all scores, for an EvalConfig."""
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
    """Sums a score's columns of the examples' statistics. The accumulator is an int64 vector of these columns."""

    def __init__(self, key: metric_types.MetricKey, score: str):
        """
        Args:
            key: key of the metric: its name, model and output.
            score: name of the score.
        """
        self.key = key
        self.score = score

    def create_accumulator(self) -> np.ndarray:
        return np.zeros(WIDTH, np.int64)[SCORES[self.score].part]

    def add_input(self, accumulator: np.ndarray, element: metric_types.StandardMetricInputs) -> np.ndarray:
        """Adds the statistics of one example.

        Raises:
            ValueError: the prediction is not an integer vector of shape (WIDTH,).
        """
        statistics = element.get_predictions(self.key.model_name, self.key.output_name)
        if np.shape(statistics) != (WIDTH,) or statistics.dtype.kind != "i":
            raise ValueError(f"{self.key.name} adds the {WIDTH} statistics of an example, and was given {statistics!r}")
        return accumulator + statistics[SCORES[self.score].part]

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        return sum(accumulators, start=self.create_accumulator())

    def extract_output(self, accumulator: np.ndarray) -> dict[metric_types.MetricKey, float]:
        return {self.key: SCORES[self.score].value(accumulator)}
