"""Compares predictions with their targets: chooses the predictions to show, and counts which tokens are confused."""

from __future__ import annotations

import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet
from rapidfuzz.distance import Levenshtein

# Number of predictions shown of each kind: best, median, worst.
SHOWN = 4
# Size of the confusion matrix, and rows of the tables.
MATRIX, ROWS = 8, 12
# Number of predictions in memory at once.
ROWS_AT_ONCE = 4096

SAME, WRONG, MISSING, EXTRA = "same", "wrong", "missing", "extra"


class Prediction(NamedTuple):
    """The new model's prediction for one example."""

    record: int  # index in the evaluated split
    name: str
    target: str
    read: str
    log_probability: float

    @property
    def similarity(self) -> float:
        """1 - Levenshtein distance / length of the longer formula, over tokens, 0 to 1."""
        return Levenshtein.normalized_similarity(self.target.split(), self.read.split())


class StoredPredictions(Iterable[Prediction]):
    """A model's predictions for the evaluated split, which are read again for each iteration.

    Args:
        file: `predictions.parquet`, see `components.evaluator.evaluation`.
        model: name of the model in that file.
    """

    def __init__(self, file: Path, model: str) -> None:
        self._file, self._columns = file, ["name", "target", model, f"{model}_log_probability"]

    def __iter__(self) -> Iterator[Prediction]:
        record = 0
        for columns in _batches(self._file, self._columns):
            for row in zip(*(columns[name].to_pylist() for name in self._columns), strict=True):
                yield Prediction(record, *row)
                record += 1


class Evaluated(NamedTuple):
    """The predictions for the evaluated split. For each example, 12 bytes are in memory."""

    predictions: Iterable[Prediction]
    lengths: np.ndarray  # of the targets, tokens, (examples,)
    widths: np.ndarray  # of the images, pixels, (examples,)
    heights: np.ndarray
    # Sum over all examples, as `components.formula_metrics.scores.statistics` counts them, (columns,) int64.
    statistics: np.ndarray


def read_predictions(file: Path, model: str) -> Evaluated:
    """Reads a model's predictions from an evaluation; arguments as in `StoredPredictions`."""
    predictions = StoredPredictions(file, model)
    lengths = array.array("i", (len(prediction.target.split()) for prediction in predictions))
    widths, heights, statistics = array.array("i"), array.array("i"), np.zeros(0, np.int64)
    for columns in _batches(file, ["width", "height", f"{model}_statistics"]):
        widths.extend(columns["width"].to_pylist())
        heights.extend(columns["height"].to_pylist())
        total = np.array(columns[f"{model}_statistics"].to_pylist(), np.int64).sum(axis=0)
        statistics = total + statistics if len(statistics) else total
    return Evaluated(predictions, np.array(lengths), np.array(widths), np.array(heights), statistics)


def _batches(file: Path, columns: list[str]) -> Iterator[dict[str, pyarrow.Array]]:
    """Yields some columns of a Parquet file, some thousand rows at a time.

    Raises:
        KeyError: a column is missing.
    """
    with pyarrow.parquet.ParquetFile(str(file)) as opened:
        for batch in opened.iter_batches(ROWS_AT_ONCE, columns=columns):
            yield {name: batch.column(name) for name in columns}


class Gallery(NamedTuple):
    """StoredPredictions to show; each list is in descending order, and no prediction is in two lists."""

    best: list[Prediction]
    median: list[Prediction]
    worst: list[Prediction]


def choose(predictions: Iterable[Prediction], count: int = SHOWN) -> Gallery:
    """Chooses predictions to show, ordered by similarity, then by log-probability, then as they come.

    Args:
        predictions: all predictions, which are iterated twice.
        count: number of predictions in each list.
    """
    similarities, log_probabilities = array.array("d"), array.array("d")
    for prediction in predictions:
        similarities.append(-prediction.similarity)
        log_probabilities.append(-prediction.log_probability)
    order = np.lexsort((log_probabilities, similarities))
    best, rest = order[:count], order[count:]
    worst, rest = rest[max(len(rest) - count, 0) :], rest[: max(len(rest) - count, 0)]
    middle = max((len(order) - count) // 2 - len(best), 0)
    groups = [places.tolist() for places in (best, rest[middle : middle + count], worst)]
    needed = {index for group in groups for index in group}
    chosen = {index: prediction for index, prediction in enumerate(predictions) if index in needed}
    return Gallery(*([chosen[index] for index in group] for group in groups))


class AlignedPart(NamedTuple):
    """A run of tokens, and how it compares with the other formula."""

    kind: str  # SAME, WRONG, MISSING (in the target only) or EXTRA (in the prediction only)
    tokens: list[str]


def compare(prediction: Prediction) -> tuple[list[AlignedPart], list[AlignedPart]]:
    """Aligns the target and the prediction, and splits both into runs of equal and of differing tokens."""
    target, read = prediction.target.split(), prediction.read.split()
    of_target, of_read = [], []
    for operation in Levenshtein.opcodes(target, read):
        tokens = target[operation.src_start : operation.src_end]
        others = read[operation.dest_start : operation.dest_end]
        same = operation.tag == "equal"
        if tokens:
            of_target.append(AlignedPart(SAME if same else WRONG if others else MISSING, tokens))
        if others:
            of_read.append(AlignedPart(SAME if same else WRONG if tokens else EXTRA, others))
    return of_target, of_read


class Confusions(NamedTuple):
    """Counts of token errors, from the alignments with the fewest edits."""

    tokens: Counter[str]  # all tokens of the targets
    substitutions: Counter[tuple[str, str]]  # (token of the target, token of the prediction)
    missing: Counter[str]
    extra: Counter[str]


def confusions(predictions: Iterable[Prediction]) -> Confusions:
    """Counts the token errors of all predictions."""
    counts = Confusions(Counter(), Counter(), Counter(), Counter())
    for prediction in predictions:
        target, read = prediction.target.split(), prediction.read.split()
        counts.tokens.update(target)
        for edit in Levenshtein.editops(target, read):
            if edit.tag == "replace":
                counts.substitutions[target[edit.src_pos], read[edit.dest_pos]] += 1
            elif edit.tag == "delete":
                counts.missing[target[edit.src_pos]] += 1
            else:
                counts.extra[read[edit.dest_pos]] += 1
    return counts


def ranked(counts: Counter, limit: int = ROWS) -> list[tuple]:
    """Returns the most frequent keys with their counts; ties are in alphabetical order."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]


class Matrix(NamedTuple):
    """The confusion matrix of the most frequent substitutions."""

    targets: list[str]  # (rows,)
    readings: list[str]  # (columns,)
    counts: list[list[int]]  # (rows, columns)
    missing: list[int]  # how often each target was missing from the prediction, (rows,)
    others: int  # substitutions that are not in the matrix


def matrix(errors: Confusions, side: int = MATRIX) -> Matrix:
    """Builds the matrix of the tokens that are misread most often, by what they are most often misread as."""
    by_target: Counter[str] = Counter()
    for (target, _), count in errors.substitutions.items():
        by_target[target] += count
    targets = [target for target, _ in ranked(by_target, side)]
    by_reading: Counter[str] = Counter()
    for (target, read), count in errors.substitutions.items():
        if target in targets:
            by_reading[read] += count
    readings = [read for read, _ in ranked(by_reading, side)]
    counts = [[errors.substitutions[target, read] for read in readings] for target in targets]
    others = sum(errors.substitutions.values()) - sum(map(sum, counts))
    return Matrix(targets, readings, counts, [errors.missing[target] for target in targets], others)
