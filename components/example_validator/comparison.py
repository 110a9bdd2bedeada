"""Compares new examples with the training data of the serving model, by TensorFlow Data Validation's comparators.

A pushed model has histograms of its training data in its description (`im2latex.statistics`). New examples are
measured as that model would see them: with its image normalisation and its vocabulary, and without formulas that are
longer than it could learn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx.dsl.io import fileio

from components.example_validator.drift import Drift
from components.serving_folder import versions
from data.dataset.tfrecords import read_split
from im2latex.drift import CATEGORIES, Comparison, comparable
from im2latex.statistics import Histogram, Statistics, from_document
from trainer_module.config.image import ImageConfig
from trainer_module.features import DESCRIPTION
from trainer_module.statistics import of_records

# The categories of the feature `unknown`, by bin.
LABELS = ("known", "unknown")


def compare_with_serving(examples: Path, count: int, serving: str, thresholds: Mapping[str, float]) -> Drift:
    """Compares the training split of new examples with the training data of the newest version in the serving folder.

    Args:
        examples: folder of the split, from ExampleGen.
        count: number of examples in it.
        serving: the serving folder.
        thresholds: largest distance by feature.
    """
    version = str(max(versions(serving), default=""))
    if not version:
        return Drift(reason="nothing serves to compare with")
    described = _description(os.path.join(serving, version))
    reference = from_document(described.get("statistics", {}))
    if "length" not in reference:
        return Drift(version, f"version {version} has no histograms of its training data")
    image = ImageConfig(**described["image"])
    statistics = of_records(read_split(examples), count, image, described["vocabulary"], described["max_tokens"])
    measured = statistics["length"].count
    comparisons = by_tfdv(reference, statistics, thresholds)
    if not comparisons:
        few = f"{measured} examples and the {reference['length'].count} of version {version} are too few to compare"
        return Drift(version, few, measured)
    return Drift(version, "", measured, tuple(comparisons))


def _description(model: str) -> dict[str, Any]:
    path = os.path.join(model, DESCRIPTION)
    if not fileio.exists(path):  # a SavedModel of another project
        return {}
    with fileio.open(path, "rb") as file:
        return json.loads(file.read())


def by_tfdv(reference: Statistics, statistics: Statistics, thresholds: Mapping[str, float]) -> list[Comparison]:
    """Compares statistics with the drift comparators of TensorFlow Data Validation.

    Features that one of them has too few values of are left out.
    """
    compared = {name: bound for name, bound in thresholds.items() if comparable(name, reference, statistics)}
    if not compared:
        return []
    schema = schema_pb2.Schema()
    for name, bound in compared.items():
        is_category = name in CATEGORIES
        feature = schema.feature.add(name=name, type=schema_pb2.BYTES if is_category else schema_pb2.FLOAT)
        comparator = feature.drift_comparator
        (comparator.infinity_norm if is_category else comparator.jensen_shannon_divergence).threshold = bound
    anomalies = tfdv.validate_statistics(
        _as_tfdv(statistics, compared), schema, previous_statistics=_as_tfdv(reference, compared)
    )
    distances = {info.path.step[0]: info.drift_measurements[0].value for info in anomalies.drift_skew_info}
    return [
        Comparison(name, reference[name].mean, statistics[name].mean, distances[name], bound)
        for name, bound in compared.items()
    ]


def _as_tfdv(statistics: Statistics, names: Mapping[str, float]) -> Any:
    """Returns statistics in the form of TensorFlow Data Validation, a DatasetFeatureStatisticsList."""
    datasets = statistics_pb2.DatasetFeatureStatisticsList()
    dataset = datasets.datasets.add(num_examples=max(statistics[name].count for name in names))
    for name in names:
        histogram = statistics[name]
        is_category = name in CATEGORIES
        kinds = statistics_pb2.FeatureNameStatistics
        feature = dataset.features.add(type=kinds.STRING if is_category else kinds.FLOAT)
        feature.path.step.append(name)
        common = (feature.string_stats if is_category else feature.num_stats).common_stats
        common.num_non_missing = common.tot_num_values = histogram.count
        common.min_num_values = common.max_num_values = 1
        if is_category:
            for label, count in zip(LABELS, histogram.counts, strict=True):
                feature.string_stats.rank_histogram.buckets.add(label=label, sample_count=count)
        else:
            _add_buckets(feature.num_stats, histogram)
    return datasets


def _add_buckets(stats: Any, histogram: Histogram) -> None:
    edges = (0.0, *histogram.bounds, 2.0 * histogram.bounds[-1])
    buckets = stats.histograms.add(type=statistics_pb2.Histogram.STANDARD).buckets
    for low, high, count in zip(edges[:-1], edges[1:], histogram.counts, strict=True):
        buckets.add(low_value=low, high_value=high, sample_count=count)
