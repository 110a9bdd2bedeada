from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import sacrebleu
import tensorflow_model_analysis as tfma
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_model_analysis.metrics import metric_types
from tensorflow_model_analysis.proto import config_pb2

from components.formula_metrics import scores
from components.formula_metrics.metrics import FormulaScore, metric_configs
from data.latex.rendering import render
from data.spelling import AS_THE_SOURCE
from tests.components.formula_metrics import naive

NAMES = [
    "bleu",
    "exact_match",
    "edit_similarity",
    "token_accuracy",
    "image_match",
    "image_match_without_blanks",
    "image_edit_similarity",
    "unrendered",
    "cdm",
    "cdm_exp_rate",
    "cdm_left_out",
    "calibration_error",
]


def test_every_score_is_a_metric_of_its_name():
    assert list(scores.SCORES) == NAMES
    assert [FormulaScore(name).name for name in NAMES] == NAMES
    assert [json.loads(config.config)["score"] for config in metric_configs()] == NAMES


def test_a_metric_is_recreated_from_its_configuration():
    again = FormulaScore.from_config(FormulaScore("bleu", name="other").get_config())
    assert (again.score, again.name) == ("bleu", "other")


def test_an_unknown_score_is_refused():
    with pytest.raises(ValueError, match="there is no score 'blue'; the scores are bleu, "):
        FormulaScore("blue")


# --- merging ----------------------------------------------------------------------------------


def combiner(metric: metric_types.Metric) -> beam.CombineFn:
    (computation,) = metric.computations()
    return computation.combiner


def inputs(statistics: np.ndarray) -> metric_types.StandardMetricInputs:
    return metric_types.StandardMetricInputs(prediction=statistics, predictions=statistics)


# Random statistics of an example, large enough that mixed-up columns are noticed.
counts = st.lists(st.integers(0, 9), min_size=scores.WIDTH, max_size=scores.WIDTH).map(
    lambda row: np.array(row, np.int64) + np.arange(scores.WIDTH)
)


@given(st.lists(st.lists(counts, max_size=4), min_size=1, max_size=5), st.data())
def test_merging_does_not_depend_on_the_grouping(groups, data):
    rows = np.array([row for group in groups for row in group], np.int64).reshape(-1, scores.WIDTH)
    expected = scores.values(rows)
    for name in NAMES:
        fn = combiner(FormulaScore(name))

        def accumulate(group, fn=fn):
            accumulator = fn.create_accumulator()
            for row in group:
                accumulator = fn.add_input(accumulator, inputs(row))
            return accumulator

        accumulators = [accumulate(group) for group in data.draw(st.permutations(groups))]
        cut = data.draw(st.integers(0, len(accumulators)))
        halves = [fn.merge_accumulators(half) for half in (accumulators[:cut], accumulators[cut:])]
        assert fn.extract_output(fn.merge_accumulators(halves)) == {fn.key: expected[name]}
        assert type(fn.extract_output(fn.create_accumulator())[fn.key]) is float


@pytest.mark.parametrize(
    "wrong", [np.array([b"x ^ 2"], object), np.zeros(scores.WIDTH - 1, int), np.zeros(scores.WIDTH), None]
)
def test_invalid_statistics_are_refused(wrong):
    fn = combiner(FormulaScore("exact_match"))
    with pytest.raises(ValueError, match="exact_match adds the"):
        fn.add_input(fn.create_accumulator(), inputs(wrong))


# --- within TFMA ------------------------------------------------------------------------------


class Row(NamedTuple):
    kinds: list[str]
    formula: str
    candidate: str
    baseline: str


ROWS = [
    Row(["short", "script"], r"x ^ { 2 }", r"x ^ { 2 }", r"x ^ { 2 }"),
    Row(["short"], r"\alpha + \beta = 1", r"\alpha + \beta = 1", r"\alpha + \beta"),
    Row(["long", "fraction"], r"\frac { a } { b } - c", r"\frac { a } { b } - M", r"\frac { a } b"),
    Row(["long", "script"], r"\sqrt { x } \leq y _ { 0 }", r"\sqrt { x } \leq y _ { 0 }", ""),
    Row(["long"], r"\sum _ { i } x _ { i }", r"\sum _ { i } x _ {", r"\notacommand"),
]
KINDS = ["short", "long", "script", "fraction"]
MODELS = ["candidate", "baseline"]


def expected(kind: str | None, model: str) -> dict[str, float]:
    """Computes every score of a slice in another way."""
    pairs = [(row.formula, getattr(row, model)) for row in ROWS if kind is None or kind in row.kinds]
    references, predictions = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    options = {"tokenize": "none", "force": True, "smooth_method": "none"}
    tokens = [(reference.split(), prediction.split()) for reference, prediction in pairs]
    length = sum(max(map(len, pair)) for pair in tokens)
    drawn = [(drawing(reference), drawing(prediction)) for reference, prediction in pairs]
    columns = np.array([naive.image_distance(*pair) for pair in drawn]).sum(axis=0)
    # No two formulas here look alike, even with a tolerance of four columns.
    right = sum(reference == prediction for reference, prediction in pairs) / len(pairs)
    return {
        "bleu": sacrebleu.corpus_bleu(predictions, [references], **options).score / 100,
        "exact_match": right,
        "edit_similarity": 1 - sum(naive.distance(*pair) for pair in tokens) / length,
        "token_accuracy": sum(a == b for pair in tokens for a, b in zip(*pair, strict=False)) / length,
        "image_match": right,
        "image_match_without_blanks": right,
        "image_edit_similarity": 1 - columns[0] / columns[1],
        "unrendered": sum(read is None for _, read in drawn),
        "cdm": sum(float(one == other) or CDM.get((one, other), 0.0) for one, other in pairs) / len(pairs),
        "cdm_exp_rate": right,
        "cdm_left_out": 0,
        "calibration_error": calibration_error(pairs),
    }


def calibration_error(pairs: list[tuple[str, str]]) -> float:
    """By bins of a tenth, formula by formula."""
    bins: dict[int, list[float]] = {}
    for reference, prediction in pairs:
        probability = PROBABILITIES[prediction]
        bins.setdefault(int(probability * 10), []).append(probability - (reference == prediction))
    return sum(abs(sum(differences)) for differences in bins.values()) / len(pairs)


# The probabilities of each model for its predictions.
PROBABILITIES = {prediction: 0.43 + 0.0625 * i for i, prediction in enumerate(dict.fromkeys(
    prediction for row in ROWS for prediction in (row.candidate, row.baseline)))}  # fmt: skip


# CDM of the wrong predictions: \frac a b - c has five symbols.
CDM = {
    (r"\alpha + \beta = 1", r"\alpha + \beta"): 2 * 3 / (5 + 3),
    (r"\frac { a } { b } - c", r"\frac { a } { b } - M"): 4 / 5,
    (r"\frac { a } { b } - c", r"\frac { a } b"): 2 * 3 / (5 + 3),
}

UNDRAWABLE = {"", r"\sum _ { i } x _ {", r"\notacommand"}


def drawing(formula: str) -> np.ndarray | None:
    return None if formula in UNDRAWABLE else render(formula, scores.DPI, 0, "builtin")


def eval_config(models: list[str], bleu: str = "", unrendered: str = "") -> config_pb2.EvalConfig:
    specs = "".join(
        f'model_specs {{ name: "{model}" prediction_key: "{model}_statistics"'
        f" is_baseline: {str(model == 'baseline').lower()} }}"
        for model in models
    )
    thresholds = {"bleu": bleu, "unrendered": unrendered}
    of_all = "".join(
        f'metrics {{ class_name: "FormulaScore" module: "components.formula_metrics.metrics"'
        f" config: '{json.dumps({'score': name})}' {thresholds.get(name, '')} }}"
        for name in NAMES
    )
    slices = 'slicing_specs {} slicing_specs { feature_keys: "kind" }'
    return text_format.Parse(f"{specs} {slices} metrics_specs {{ {of_all} }}", config_pb2.EvalConfig())


@pytest.fixture(scope="module")
def batch() -> pa.RecordBatch:
    """Returns ROWS with the statistics of both models; an example can have several kinds."""
    columns = {"kind": pa.array([row.kinds for row in ROWS], pa.list_(pa.binary()))}
    for model in MODELS:
        read = [getattr(row, model) for row in ROWS]
        sure = [PROBABILITIES[prediction] for prediction in read]
        targets = [row.formula for row in ROWS]
        counted = scores.statistics(targets, read, "builtin", spelling=AS_THE_SOURCE, probabilities=sure)
        columns[f"{model}_statistics"] = pa.array(list(counted), pa.list_(pa.int64()))
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def analyze(batches: list[pa.RecordBatch], config: config_pb2.EvalConfig, output: Path, **more) -> None:
    with beam.Pipeline("FnApiRunner") as pipeline:
        _ = (
            pipeline
            | beam.Create(batches)
            | tfma.ExtractEvaluateAndWriteResults(eval_config=config, output_path=str(output), **more)
        )


def read_scores(output: Path) -> dict[tuple[str | None, str], dict[str, float]]:
    """Reads every score by kind (None for all) and model, and the differences by kind and `MODEL diff`."""
    result: dict[tuple[str | None, str], dict[str, float]] = {}
    for row in tfma.load_metrics(str(output)):
        kinds = [key.bytes_value.decode() for key in row.slice_key.single_slice_keys]
        for metric in row.metric_keys_and_values:
            model = metric.key.model_name + (" diff" if metric.key.is_diff else "")
            model_scores = result.setdefault((kinds[0] if kinds else None, model), {})
            model_scores[metric.key.name] = metric.value.double_value.value
    return result


def test_two_models_are_scored_by_slice_from_their_statistics(batch, tmp_path):
    analyze([batch.slice(0, 2), batch.slice(2)], eval_config(MODELS), tmp_path)
    of = read_scores(tmp_path)
    for kind in (None, *KINDS):
        for model in MODELS:
            assert of[kind, model] == pytest.approx(expected(kind, model), abs=1e-6), (kind, model)
        difference = {
            name: value - expected(kind, "baseline")[name] for name, value in expected(kind, "candidate").items()
        }
        assert of[kind, "candidate diff"] == pytest.approx(difference, abs=1e-6)


def test_one_model_is_scored_alone(batch, tmp_path):
    analyze([batch], eval_config(["candidate"]), tmp_path)
    (of_all,) = [values for (kind, _), values in read_scores(tmp_path).items() if kind is None]
    assert of_all == pytest.approx(expected(None, "candidate"), abs=1e-6)


def threshold(kind: str, bound: float, direction: str, change: float) -> str:
    return f"""threshold {{
        value_threshold {{ {kind}_bound {{ value: {bound} }} }}
        change_threshold {{ direction: {direction}_IS_BETTER absolute {{ value: {change} }} }}
    }}"""


# The candidate's BLEU is 0.914, less than 0.9 above the baseline's. Of its five predictions one cannot be drawn, of the
# baseline's two.
@pytest.mark.parametrize(
    ("bleu", "unrendered", "accepted"),
    [
        (threshold("lower", 0.91, "HIGHER", 0.01), threshold("upper", 1.5, "LOWER", -0.5), True),
        (threshold("lower", 0.92, "HIGHER", 0.9), threshold("upper", 0.5, "LOWER", -1.5), False),
    ],
)
def test_thresholds_apply_to_values_and_changes(batch, tmp_path, bleu, unrendered, accepted):
    models = [
        tfma.EvalSharedModel(model_name=model, model_type="materialized_prediction", is_baseline=model == "baseline")
        for model in MODELS
    ]
    config = eval_config(MODELS, bleu, unrendered)
    del config.slicing_specs[1:]
    analyze([batch], config, tmp_path, eval_shared_model=models)
    validation = tfma.load_validation_result(str(tmp_path))
    assert not validation.missing_thresholds
    assert validation.validation_ok is accepted
    failures = [failure for case in validation.metric_validations_per_slice for failure in case.failures]
    failed = sorted((failure.metric_key.name, failure.metric_key.is_diff) for failure in failures)
    assert failed == (
        [] if accepted else [(name, is_diff) for name in ("bleu", "unrendered") for is_diff in (False, True)]
    )
