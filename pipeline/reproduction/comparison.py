"""Compares the artifacts of two runs by their content, because equal content can have different bytes.

Bytes differ for reasons that do not matter: Beam writes records in any order, protocol buffers write the entries of a
map in any order, the names of functions in a SavedModel's graph contain numbers, and files contain dates and times.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.evaluator.summary import CANDIDATE, PREDICTIONS, read_evaluation
from components.example_validator import drift
from components.formula_metrics.scores import SCORES
from components.metadata import SERVING
from data.dataset.record import SPLITS
from data.dataset.tfrecords import read_tfrecords
from trainer_module.features import VOCABULARY

SAME, OTHER, GONE = "same", "other", "gone"
# Maximum number of differing files and scores that are named.
NAMED = 3
# Folders of a run's artifacts, by component and output name.
Folders = Mapping[tuple[str, str], Path]


class Compared(NamedTuple):
    """The result of comparing an artifact of two runs."""

    component: str
    what: str
    verdict: str  # SAME, OTHER, or GONE if the files of a run are missing
    detail: str


def compare(first: Folders, second: Folders) -> Iterator[Compared]:
    """Compares the artifacts of two runs, in the order of the pipeline.

    Args:
        first, second: folders of the artifacts; artifacts that the first run lacks are left out.
    """
    for (component, output), comparisons in COMPARISONS.items():
        for what, comparison in comparisons.items():
            if (component, output) not in first:
                continue
            one, other = first[component, output], second.get((component, output))
            if other is None or not one.is_dir() or not other.is_dir():
                yield Compared(component, what, GONE, f"the files of the {'second' if one.is_dir() else 'first'} run")
            else:
                same, detail = comparison(one, other)
                yield Compared(component, what, SAME if same else OTHER, detail)


def records(first: Path, second: Path) -> tuple[bool, str]:
    """Compares TFRecords of tf.train.Example by split, ignoring their order."""
    return _splits(first, second, lambda folder: Counter(_records(folder)), "record")


def _records(folder: Path) -> Iterator[bytes]:
    import tensorflow as tf

    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        for content in read_tfrecords(file):
            example = tf.train.Example.FromString(content)
            yield hashlib.sha256(example.SerializeToString(deterministic=True)).digest()


def _splits(first: Path, second: Path, read: Callable[[Path], Counter[bytes]], noun: str) -> tuple[bool, str]:
    problems, total = [], 0
    for split in SPLITS:
        one, other = (
            read(path) if (path := folder / f"Split-{split}").is_dir() else Counter() for folder in (first, second)
        )
        total += one.total()
        if one != other:
            problems.append(f"{(one - other).total():,} of {one.total():,} of {split}")
    if problems:
        return False, f"other {noun}s: {', '.join(problems)}"
    return True, f"{total:,} {noun}s" + ("" if _bytes(first, second)[0] else ", in another order or encoding")


def _statistics(first: Path, second: Path) -> tuple[bool, str]:
    from tensorflow_metadata.proto.v0 import statistics_pb2

    if _bytes(first, second)[0]:
        return True, "byte for byte"
    kind = statistics_pb2.DatasetFeatureStatisticsList
    for split in SPLITS:
        read = [
            [
                _without_last(kind.FromString(path.read_bytes()))
                for path in sorted((folder / f"Split-{split}").glob("*"))
            ]
            for folder in (first, second)
        ]
        if read[0] != read[1]:
            return False, f"other statistics of {split}"
    return True, "the same numbers"


def _without_last(statistics: Any) -> Any:
    """Removes the names of the least frequent values in the lists of frequent values of a DatasetFeatureStatisticsList.

    The lists have at most 1,000 values. If more values are equally frequent, which of them are in the list depends on
    the batches that Beam makes, and so on the time that they take.
    """
    for dataset in statistics.datasets:
        for feature in dataset.features:
            values, buckets = feature.string_stats.top_values, feature.string_stats.rank_histogram.buckets
            for value in values:
                if value.frequency == values[-1].frequency:
                    value.ClearField("value")
            for bucket in buckets:
                if bucket.sample_count == buckets[-1].sample_count:
                    bucket.ClearField("label")
    return statistics


def _vocabulary(first: Path, second: Path) -> tuple[bool, str]:
    tokens = [(folder / "transform_fn" / "assets" / VOCABULARY).read_bytes().splitlines() for folder in (first, second)]
    other = set(tokens[0]) ^ set(tokens[1])
    if other:
        return False, f"{len(tokens[0]):,} tokens and {len(tokens[1]):,}, of which {len(other):,} are in only one"
    return tokens[0] == tokens[1], f"{len(tokens[0]):,} tokens" + (
        "" if tokens[0] == tokens[1] else " in another order"
    )


def weights(first: Path, second: Path) -> tuple[bool, str]:
    """Compares the variables of the SavedModels in two Model artifacts, bit for bit; says by how much they differ."""
    one, other = (_variables(folder / SERVING) for folder in (first, second))
    if {name: array.shape for name, array in one.items()} != {name: array.shape for name, array in other.items()}:
        return False, f"{len(one)} arrays and {len(other)}, of other names or shapes"
    differ = [name for name in one if one[name].tobytes() != other[name].tobytes()]
    if not differ:
        return True, f"{len(one)} arrays of {sum(array.size for array in one.values()):,} numbers, bit for bit"
    return False, f"{len(differ)} of {len(one)} arrays differ, {_largest(one, other, differ)}"


def _variables(model: Path) -> dict[str, Any]:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(model / "variables" / "variables"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if name[:1] != "_"}


def _largest(one: Mapping[str, Any], other: Mapping[str, Any], names: list[str]) -> str:
    import numpy as np

    gaps = {
        name: float(np.max(np.abs(one[name].astype(np.float64) - other[name].astype(np.float64))))
        for name in names
        if np.issubdtype(one[name].dtype, np.number)
    }
    return f"by {max(gaps.values()):.3g} at most" if gaps else "none of them numbers"


def _served(first: Path, second: Path) -> tuple[bool, str]:
    if not any((folder / SERVING).is_dir() for folder in (first, second)):
        return True, "nothing was serving"
    return _bytes(first, second)


def _predictions(first: Path, second: Path) -> tuple[bool, str]:
    import pyarrow.parquet

    one, other = (pyarrow.parquet.read_table(str(f / PREDICTIONS)).sort_by("name") for f in (first, second))
    if one.equals(other):
        return True, f"{one.num_rows:,} images read, with probabilities"
    if one.num_rows != other.num_rows or one.column("name") != other.column("name"):
        return False, f"of {one.num_rows:,} images and {other.num_rows:,} others"
    pairs = zip(one.column(CANDIDATE).to_pylist(), other.column(CANDIDATE).to_pylist(), strict=True)
    differ = sum(before != after for before, after in pairs)
    return (
        False,
        f"{differ:,} of {one.num_rows:,} images with other predictions" if differ else "only the probabilities differ",
    )


def _scores(first: Path, second: Path) -> tuple[bool, str]:
    one, other = (read_evaluation(folder) for folder in (first, second))
    if json.dumps([one.slices, one.gate]) == json.dumps([other.slices, other.gate]):
        return True, f"{len(one.slices):,} slices, and the gate's verdict"
    scores = [evaluation.slices[""][CANDIDATE] for evaluation in (one, other)]
    differ = [
        f"{SCORES[name].title} {SCORES[name].shown(value)} and {SCORES[name].shown(scores[1][name])}"
        for name, value in scores[0].items()
        if name in scores[1] and value != scores[1][name]
    ]
    message = [f"drawn by {one.renderer} and by {other.renderer}"] * (one.renderer != other.renderer) + differ[:NAMED]
    return False, ", ".join(message) or "other scores of slices, or of the model that serves"


def _anomalies(first: Path, second: Path) -> tuple[bool, str]:
    return _bytes(first, second, without=(drift.FILE,))  # which depends on the version that served


def _bytes(first: Path, second: Path, without: Collection[str] = ()) -> tuple[bool, str]:
    one, other = (
        {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in without
        }
        for folder in (first, second)
    )
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return (False, f"other files: {', '.join(differ[:NAMED])}") if differ else (True, "byte for byte")


_Comparison = Callable[[Path, Path], tuple[bool, str]]
COMPARISONS: Mapping[tuple[str, str], Mapping[str, _Comparison]] = {
    ("ImportExampleGen", "examples"): {"examples": records},
    ("ImportSchemaGen", "schema"): {"schema": _bytes},
    ("StatisticsGen", "statistics"): {"statistics": _statistics},
    ("ExampleValidator", "anomalies"): {"anomalies": _anomalies},
    ("Transform", "transform_graph"): {"vocabulary": _vocabulary},
    ("Transform", "transformed_examples"): {"transformed examples": records},
    ("Tuner", "tuner_results"): {"trials": _bytes},
    ("Trainer", "model"): {"weights": weights},
    ("Baseline", "baseline"): {"model compared with": _served},
    ("Evaluator", "evaluation"): {"predictions": _predictions, "scores": _scores},
    ("Evaluator", "blessing"): {"blessing": _bytes},
}
