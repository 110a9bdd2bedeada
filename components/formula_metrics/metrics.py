"""The scores as metrics of TensorFlow Model Analysis.

In an EvalConfig they are named by class and module:

    MetricConfig(class_name="CorpusBleu", module="components.formula_metrics")

Labels and predictions are formulas as UTF-8 bytes or text, one an example (ModelSpec's
`label_key` and `prediction_key`). The values are floats, so thresholds hold on them, absolute
and as a change against a baseline. Example weights are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util
from tensorflow_model_analysis.proto import config_pb2

from components.formula_metrics import scores


class CorpusBleu(metric_types.Metric):
    """Corpus BLEU-4 on tokens, from 0 to 1: `scores.bleu`."""

    def __init__(self, name: str = "bleu"):
        super().__init__(metric_util.merge_per_key_computations(_corpus_bleu), name=name)


class ExactMatch(metric_types.Metric):
    """Share of formulas of which every token is right, from 0 to 1: `scores.exact_match`."""

    def __init__(self, name: str = "exact_match"):
        super().__init__(metric_util.merge_per_key_computations(_exact_match), name=name)


# The names of the parameters are TFMA's: it passes those that it finds here.


def _corpus_bleu(
    name: str, eval_config: config_pb2.EvalConfig | None = None, model_name: str = "", output_name: str = ""
) -> metric_types.MetricComputations:
    key = metric_types.MetricKey(name=name, model_name=model_name, output_name=output_name)
    return _computations(SumOfStatistics(key, eval_config, scores.bleu_statistics, scores.bleu))


def _exact_match(
    name: str, eval_config: config_pb2.EvalConfig | None = None, model_name: str = "", output_name: str = ""
) -> metric_types.MetricComputations:
    key = metric_types.MetricKey(name=name, model_name=model_name, output_name=output_name)
    return _computations(SumOfStatistics(key, eval_config, scores.exact_match_statistics, scores.exact_match))


def _computations(combiner: SumOfStatistics) -> metric_types.MetricComputations:
    return [metric_types.MetricComputation(keys=[combiner.key], preprocessors=None, combiner=combiner)]


class SumOfStatistics(beam.CombineFn):
    """Adds the statistics of all examples and scores the sum. The accumulator is an int64 vector."""

    def __init__(
        self,
        key: metric_types.MetricKey,
        eval_config: config_pb2.EvalConfig | None,
        statistics: Callable[[str, str], np.ndarray],
        score: Callable[[np.ndarray], float],
    ):
        """Of what is counted.

        Args:
            key: of the metric, the model and the output.
            eval_config: has the keys of label and prediction.
            statistics: of a reference and a prediction.
            score: of the sum of statistics.
        """
        self.key = key
        self._eval_config = eval_config
        self._statistics = statistics
        self._score = score

    def create_accumulator(self) -> np.ndarray:
        return np.zeros_like(self._statistics("", ""))

    def add_input(self, accumulator: np.ndarray, element: metric_types.StandardMetricInputs) -> np.ndarray:
        pairs = metric_util.to_label_prediction_example_weight(
            element,
            eval_config=self._eval_config,
            model_name=self.key.model_name,
            output_name=self.key.output_name,
            example_weighted=False,
        )
        for label, prediction, _ in pairs:
            accumulator = accumulator + self._statistics(_text(label), _text(prediction))
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        return sum(accumulators, start=self.create_accumulator())

    def extract_output(self, accumulator: np.ndarray) -> dict[metric_types.MetricKey, float]:
        return {self.key: self._score(accumulator)}


def _text(value: np.ndarray) -> str:
    """() or (1,) bytes or text -> text.

    Raises:
        UnicodeDecodeError: bytes that are no UTF-8.
        ValueError: more than one value.
    """
    text = value.item()
    return text if isinstance(text, str) else text.decode()
