from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas
import pytest
import tensorflow as tf
from tensorflow_metadata.proto.v0 import statistics_pb2

from components.evaluator.gate import Verdict
from components.evaluator.summary import CANDIDATE, Evaluation
from pipeline.reproduction.comparison import GONE, OTHER, SAME, Compared, compare


def both(component: str, output: str, folder: Path) -> list[Compared]:
    """Compares the artifacts in `folder/first` and `folder/second`."""
    key = component, output
    return list(compare({key: folder / "first"}, {key: folder / "second"}))


def write_records(folder: Path, texts: list[str]) -> None:
    """Writes a split of records, with their features in any order."""
    (folder / "Split-train").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "Split-train" / "data.gz"), "GZIP") as writer:
        for text in texts:
            example = tf.train.Example()
            for name in random.sample(["image", "latex", "name"], 3):
                example.features.feature[name].bytes_list.value.append(f"{name} {text}".encode())
            writer.write(example.SerializeToString())


@pytest.mark.parametrize(
    ("texts", "verdict", "detail"),
    [
        (["a", "b", "b", "c"], SAME, "4 records"),
        (["b", "c", "a", "b"], SAME, "4 records, in another order or encoding"),
        (["a", "b", "c", "c"], OTHER, "other records: 1 of 4 of train"),
        (["a"], OTHER, "other records: 3 of 4 of train"),
    ],
)
def test_the_order_of_records_does_not_matter(texts: list[str], verdict: str, detail: str, tmp_path: Path) -> None:
    write_records(tmp_path / "first", ["a", "b", "b", "c"])
    write_records(tmp_path / "second", texts)
    (comparison,) = both("ImportExampleGen", "examples", tmp_path)
    assert (comparison.verdict, comparison.detail.startswith(detail.partition(",")[0])) == (verdict, True), comparison


def write_statistics(folder: Path, counts: dict[str, int]) -> None:
    """Writes the statistics of a split with a list of frequent values, the most frequent first."""
    statistics = statistics_pb2.DatasetFeatureStatisticsList()
    strings = statistics.datasets.add().features.add().string_stats
    for rank, (value, count) in enumerate(counts.items()):
        strings.top_values.add(value=value, frequency=count)
        strings.rank_histogram.buckets.add(label=value, sample_count=count, low_rank=rank, high_rank=rank)
    (folder / "Split-train").mkdir(parents=True)
    (folder / "Split-train" / "FeatureStats.pb").write_bytes(statistics.SerializeToString())


@pytest.mark.parametrize(
    ("counts", "verdict", "detail"),
    [
        ({"a": 3, "b": 1, "c": 1}, SAME, "byte for byte"),
        ({"a": 3, "b": 1, "d": 1}, SAME, "the same numbers"),  # d is as frequent as c, and the list ends there
        ({"d": 3, "b": 1, "c": 1}, OTHER, "other statistics of train"),
        ({"a": 2, "b": 1, "c": 1}, OTHER, "other statistics of train"),
        ({"a": 3, "b": 1}, OTHER, "other statistics of train"),
    ],
)
def test_the_last_of_equally_frequent_values_may_differ(
    counts: dict[str, int], verdict: str, detail: str, tmp_path: Path
) -> None:
    write_statistics(tmp_path / "first", {"a": 3, "b": 1, "c": 1})
    write_statistics(tmp_path / "second", counts)
    assert both("StatisticsGen", "statistics", tmp_path) == [Compared("StatisticsGen", "statistics", verdict, detail)]


def save(folder: Path, *arrays: np.ndarray) -> None:
    module = tf.Module()
    module.arrays = [tf.Variable(array) for array in arrays]
    tf.saved_model.save(module, str(folder / "Format-Serving"))


def test_weights_are_compared_bit_for_bit(tmp_path: Path) -> None:
    ones = np.ones((2, 3), np.float32)
    save(tmp_path / "first", ones, ones)
    save(tmp_path / "second", ones, ones)
    assert both("Trainer", "model", tmp_path) == [
        Compared("Trainer", "weights", SAME, "2 arrays of 12 numbers, bit for bit")
    ]


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (np.float32(0.25), "1 of 2 arrays differ, by 0.25 at most"),
        (np.float32(2**-23), "1 of 2 arrays differ, by 1.19e-07 at most"),
    ],
)
def test_the_largest_difference_of_weights_is_reported(change: np.float32, detail: str, tmp_path: Path) -> None:
    ones = np.ones((2, 3), np.float32)
    save(tmp_path / "first", ones, ones)
    save(tmp_path / "second", ones, ones + change)
    assert both("Trainer", "model", tmp_path) == [Compared("Trainer", "weights", OTHER, detail)]
    save(tmp_path / "second", ones)
    (comparison,) = both("Trainer", "model", tmp_path)
    assert (comparison.verdict, comparison.detail) == (OTHER, "2 arrays and 1, of other names or shapes")


def evaluate(folder: Path, read: list[str], bleu: float = 0.5, renderer: str = "latex") -> None:
    folder.mkdir()
    names = [f"{number}.png" for number in range(len(read))]
    frame = pandas.DataFrame({"name": names, CANDIDATE: read, f"{CANDIDATE}_log_probability": [-1.0] * len(read)})
    frame.sample(frac=1).to_parquet(folder / "predictions.parquet", index=False)
    slices = {"": {"examples": len(read), CANDIDATE: {"bleu": bleu, "exact_match": 0.0}}}
    kept = Verdict("bleu >= 0", True, bleu, 0.0, "")
    seconds = {CANDIDATE: {"seconds": random.random()}}
    Evaluation(len(read), renderer, seconds, slices, [kept]).write(folder)


def test_times_are_ignored_in_the_comparison_of_evaluations(tmp_path: Path) -> None:
    evaluate(tmp_path / "first", ["x", "y", "z"])
    evaluate(tmp_path / "second", ["x", "y", "z"])
    assert [one.verdict for one in both("Evaluator", "evaluation", tmp_path)] == [SAME, SAME]


def test_differing_predictions_and_scores_are_reported(tmp_path: Path) -> None:
    evaluate(tmp_path / "first", ["x", "y", "z"])
    evaluate(tmp_path / "second", ["x", "y", "a"], 0.25, "builtin")
    assert both("Evaluator", "evaluation", tmp_path) == [
        Compared("Evaluator", "predictions", OTHER, "1 of 3 images with other predictions"),
        Compared("Evaluator", "scores", OTHER, "drawn by latex and by builtin, BLEU 0.500 and 0.250"),
    ]


def test_a_vocabulary_is_compared_token_by_token(tmp_path: Path) -> None:
    for run, tokens in (("first", "a\nb\nc\n"), ("second", "a\nc\nb\n")):
        (tmp_path / run / "transform_fn" / "assets").mkdir(parents=True)
        (tmp_path / run / "transform_fn" / "assets" / "tokens").write_text(tokens)
    assert both("Transform", "transform_graph", tmp_path) == [
        Compared("Transform", "vocabulary", OTHER, "3 tokens in another order")
    ]
    (tmp_path / "second" / "transform_fn" / "assets" / "tokens").write_text("a\nb\nd\n")
    (comparison,) = both("Transform", "transform_graph", tmp_path)
    assert comparison.detail == "3 tokens and 3, of which 2 are in only one"


def test_missing_files_do_not_count_as_the_same(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (comparison,) = both("ImportSchemaGen", "schema", tmp_path)
    assert (comparison.verdict, comparison.detail) == (GONE, "the files of the second run")
    key = "ImportSchemaGen", "schema"
    assert [one.verdict for one in compare({key: tmp_path / "first"}, {})] == [GONE]
    assert list(compare({}, {key: tmp_path / "first"})) == []
