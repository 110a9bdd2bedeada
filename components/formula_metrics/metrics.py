"""The scores as metrics of TensorFlow Model Analysis.

In an EvalConfig they are named by class and module:

    MetricConfig(class_name="CorpusBleu", module="components.formula_metrics.metrics")

The prediction of an example (ModelSpec's `prediction_key`) is its statistics, (WIDTH,) int64, as `scores.statistics`
counted them: what is added here, slice by slice and model by model, was read, drawn and compared once. Labels are not
looked at, and example weights are not used. Values are floats, so thresholds hold on them, absolute and as a change
against a baseline.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import ClassVar

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.formula_metrics.scores import SCORES, WIDTH


class _Score(metric_types.Metric):
    score: ClassVar[str]

    def __init__(self, name: str | None = None):
        # Computations of each model and output; what they are of, TFMA passes by name.
        computations = functools.partial(_computations, self.score)
        super().__init__(metric_util.merge_per_key_computations(computations), name=name or self.score)


class CorpusBleu(_Score):
    """Corpus BLEU-4 on tokens, from 0 to 1."""

    score = "bleu"


class FormulaMatch(_Score):
    """Share of formulas of which every token is right, from 0 to 1; TFMA has an ExactMatch of its own."""

    score = "exact_match"


class EditSimilarity(_Score):
    """1 - edit distance / length of the longer, on tokens, from 0 to 1."""

    score = "edit_similarity"


class TokenAccuracy(_Score):
    """Share of tokens that are right where they stand, from 0 to 1."""

    score = "token_accuracy"


class ImageMatch(_Score):
    """Share of formulas that look right when drawn, from 0 to 1."""

    score = "image_match"


class ImageMatchWithoutBlanks(_Score):
    """Share of formulas that look right when drawn, blank columns left out, from 0 to 1."""

    score = "image_match_without_blanks"


class ImageEditSimilarity(_Score):
    """1 - edit distance / width of the wider, on columns of pixels, from 0 to 1."""

    score = "image_edit_similarity"


class Unrendered(_Score):
    """How many predictions cannot be drawn; lower is better."""

    score = "unrendered"


# By the name of the score, in the order of tables.
METRICS: dict[str, type[_Score]] = {metric.score: metric for metric in _Score.__subclasses__()}


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
