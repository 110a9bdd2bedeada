from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import numpy as np
import pandas as pd
import pytest
import sacrebleu
import tensorflow as tf
import tensorflow_model_analysis as tfma
from apache_beam.options.pipeline_options import PipelineOptions
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_model_analysis.metrics import metric_types
from tensorflow_model_analysis.proto import config_pb2

from components.formula_metrics import CorpusBleu, ExactMatch

# (split, formula, prediction of the better model, prediction of the worse model)
ROWS = [
    ("short", r"x ^ { 2 }", r"x ^ { 2 }", r"x ^ { 2 }"),
    ("short", r"\alpha + \beta = 1", r"\alpha + \beta = 1", r"\alpha + \beta"),
    ("long", r"\frac { a } { b } - c", r"\frac { a } { b } - d", r"\frac { a } b"),
    ("long", r"\sqrt { x } \le y _ { 0 }", r"\sqrt { x } \le y _ { 0 }", ""),
]


def sacrebleu_of(references, predictions) -> float:
    options = {"tokenize": "none", "force": True, "smooth_method": "none"}
    return sacrebleu.corpus_bleu(predictions, [references], **options).score / 100


BETTER = sacrebleu_of([row[1] for row in ROWS], [row[2] for row in ROWS])
WORSE = sacrebleu_of([row[1] for row in ROWS], [row[3] for row in ROWS])


def metric_configs(bleu: str = "", exact_match: str = "") -> str:
    return f"""
      metrics {{ class_name: "CorpusBleu" module: "components.formula_metrics" {bleu} }}
      metrics {{ class_name: "ExactMatch" module: "components.formula_metrics" {exact_match} }}
    """


def eval_config(text: str) -> config_pb2.EvalConfig:
    return text_format.Parse(text, config_pb2.EvalConfig())


# --- merging ----------------------------------------------------------------------------------


def combiner(metric: metric_types.Metric) -> beam.CombineFn:
    (computation,) = metric.computations()
    return computation.combiner


def inputs(label: str, prediction: str) -> metric_types.StandardMetricInputs:
    return metric_types.StandardMetricInputs(
        label=np.array([label.encode()], object), prediction=np.array([prediction.encode()], object)
    )


formulas = st.lists(st.sampled_from(["x", "2", "^", "{", "}"]), max_size=8).map(" ".join)


@given(st.lists(st.lists(st.tuples(formulas, formulas), max_size=4), min_size=1, max_size=5), st.data())
def test_merging_in_any_grouping_is_one_pass(groups, data):
    for metric in (CorpusBleu(), ExactMatch()):
        fn = combiner(metric)

        def accumulate(pairs, fn=fn):
            accumulator = fn.create_accumulator()
            for pair in pairs:
                accumulator = fn.add_input(accumulator, inputs(*pair))
            return accumulator

        expected = fn.extract_output(accumulate([pair for group in groups for pair in group]))
        accumulators = [accumulate(group) for group in data.draw(st.permutations(groups))]
        cut = data.draw(st.integers(0, len(accumulators)))
        halves = [fn.merge_accumulators(half) for half in (accumulators[:cut], accumulators[cut:])]
        assert fn.extract_output(fn.merge_accumulators(halves)) == expected


@pytest.mark.parametrize(
    "value",
    [
        np.array([b"x ^ 2"], object),
        np.array(b"x ^ 2", object),
        np.array([b"x ^ 2"]),
        np.array(["x ^ 2"]),
        np.array([["x ^ 2"]], object),
    ],
)
def test_one_formula_comes_in_any_shape_and_kind(value):
    fn = combiner(ExactMatch())
    accumulator = fn.add_input(
        fn.create_accumulator(), metric_types.StandardMetricInputs(label=np.array([b"x ^ 2"], object), prediction=value)
    )
    assert accumulator.tolist() == [1, 1]


def test_bytes_that_are_no_utf8_are_refused():
    fn = combiner(ExactMatch())
    with pytest.raises(UnicodeDecodeError):
        fn.add_input(
            fn.create_accumulator(),
            metric_types.StandardMetricInputs(label=np.array([b"\xff"], object), prediction=np.array([b"x"], object)),
        )


# --- within TFMA ------------------------------------------------------------------------------


def test_slices_have_their_own_corpora():
    renamed = metric_configs(exact_match="""config: '{"name": "right"}'""")
    config = eval_config(f"""
      model_specs {{ label_key: "latex" prediction_key: "prediction" }}
      slicing_specs {{}} slicing_specs {{ feature_keys: "split" }}
      metrics_specs {{ {renamed} }}
    """)
    frame = pd.DataFrame(
        [
            {"split": split, "latex": latex.encode(), "prediction": prediction.encode()}
            for split, latex, _, prediction in ROWS
        ]
    )
    result = tfma.analyze_raw_data(frame, eval_config=config)
    for slice_key, right in [((), 0.25), ((("split", "short"),), 0.5), ((("split", "long"),), 0.0)]:
        rows = [row for row in ROWS if not slice_key or row[0] == slice_key[0][1]]
        metrics = result.get_metrics_for_slice(slice_key)
        assert metrics["bleu"]["doubleValue"] == pytest.approx(
            sacrebleu_of([row[1] for row in rows], [row[3] for row in rows]), abs=1e-6
        )
        assert metrics["right"]["doubleValue"] == right


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds ROWS as examples.tfrecord and the SavedModels `better` and `worse`, which answer as there."""
    folder = tmp_path_factory.mktemp("tfma")

    def feature(text: str) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))

    with tf.io.TFRecordWriter(str(folder / "examples.tfrecord")) as writer:
        for _, latex, better, worse in ROWS:
            example = {"latex": feature(latex), "better": feature(better), "worse": feature(worse)}
            writer.write(tf.train.Example(features=tf.train.Features(feature=example)).SerializeToString())
    for name in ("better", "worse"):
        module = tf.Module()

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
        def answer(examples, name=name):
            latex = tf.io.parse_example(examples, {name: tf.io.FixedLenFeature([], tf.string)})[name]
            return {"latex": latex, "log_probability": tf.zeros(tf.shape(latex))}

        tf.saved_model.save(module, str(folder / name), signatures=answer)
    return folder


def validate(folder: Path, output: Path, threshold: str, candidate: str, baseline: str | None):
    """Evaluates as TFX's Evaluator does; returns BLEU and TFMA's validation result."""
    names = {"candidate": candidate} | ({"baseline": baseline} if baseline else {})
    specs = "".join(
        f'model_specs {{ name: "{name}" signature_name: "serving_default" label_key: "latex" prediction_key: "latex"'
        f" is_baseline: {str(name == 'baseline').lower()} }}"
        for name in names
    )
    gated = metric_configs(bleu=f"threshold {{ {threshold} }}")
    config = eval_config(f"{specs} slicing_specs {{}} metrics_specs {{ {gated} }}")
    models = [
        tfma.default_eval_shared_model(str(folder / model), eval_config=config, model_name=name, tags=["serve"])
        for name, model in names.items()
    ]
    result = tfma.run_model_analysis(
        models if baseline else models[0],
        eval_config=config,
        data_location=str(folder / "examples.tfrecord"),
        output_path=str(output),
        pipeline_options=PipelineOptions(["--runner=FnApiRunner"]),
    )
    result = result.get_results()[0] if baseline else result
    return result.get_metrics_for_slice(())["bleu"]["doubleValue"], tfma.load_validation_result(str(output))


def at_least(bleu: float) -> str:
    return f"value_threshold {{ lower_bound {{ value: {bleu} }} }}"


BETTER_THAN_BASELINE = "change_threshold { direction: HIGHER_IS_BETTER absolute { value: 0.01 } }"


@pytest.mark.parametrize(
    ("threshold", "candidate", "baseline", "accepted"),
    [
        (at_least(BETTER - 1e-4) + BETTER_THAN_BASELINE, "better", "worse", True),
        (at_least(BETTER + 1e-4), "better", None, False),
        (at_least(0) + BETTER_THAN_BASELINE, "worse", "better", False),
    ],
)
def test_the_gate_holds_on_value_and_change(folder, tmp_path, threshold, candidate, baseline, accepted):
    bleu, validation = validate(folder, tmp_path, threshold, candidate, baseline)
    assert bleu == pytest.approx({"better": BETTER, "worse": WORSE}[candidate], abs=1e-6)
    assert validation.validation_ok is accepted
    assert not validation.missing_thresholds
    failed = [failure.metric_key.name for case in validation.metric_validations_per_slice for failure in case.failures]
    assert failed == ([] if accepted else ["bleu"])
