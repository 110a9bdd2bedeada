"""What a model read, beside what stands there: which predictions are shown, and which tokens go wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet
from rapidfuzz.distance import Levenshtein

# Predictions shown of each kind.
SHOWN = 4
# Sides of the matrix of confusions, and rows of the tables.
MATRIX, ROWS = 8, 12

SAME, WRONG, MISSING, EXTRA = "same", "wrong", "missing", "extra"


class Prediction(NamedTuple):
    """One example, as the new model read it."""

    record: int  # its number among the records of the evaluated split
    name: str
    target: str
    read: str
    log_probability: float

    @property
    def similarity(self) -> float:
        """1 - Levenshtein distance / longer length, over tokens, 0 to 1."""
        return Levenshtein.normalized_similarity(self.target.split(), self.read.split())


class Evaluated(NamedTuple):
    """The examples that the model was judged by."""

    predictions: list[Prediction]
    widths: np.ndarray  # of the images, pixels, (examples,)
    heights: np.ndarray
    statistics: np.ndarray  # as `components.formula_metrics.scores.statistics` counts them, (examples, columns) int64


def read_predictions(file: Path, model: str) -> Evaluated:
    """Reads what an evaluation kept of a model.

    Args:
        file: `predictions.parquet`, see `components.evaluator.evaluation`.
        model: its name there.
    """
    needed = ["name", "target", model, f"{model}_log_probability", "width", "height", f"{model}_statistics"]
    columns = pyarrow.parquet.read_table(str(file), columns=needed).to_pydict()
    rows = zip(*(columns[name] for name in needed[:4]), strict=True)
    predictions = [Prediction(record, *row) for record, row in enumerate(rows)]
    return Evaluated(predictions, *(np.array(columns[name]) for name in needed[4:]))


class Gallery(NamedTuple):
    """Predictions to show, each list from better to worse; no prediction is in two of them."""

    best: list[Prediction]
    median: list[Prediction]
    worst: list[Prediction]


def choose(predictions: Sequence[Prediction], count: int = SHOWN) -> Gallery:
    """Chooses by similarity, then by log-probability; ties by name."""
    keys = {prediction: (-prediction.similarity, -prediction.log_probability) for prediction in predictions}
    ordered = sorted(predictions, key=lambda prediction: (*keys[prediction], prediction.name))
    best, rest = ordered[:count], ordered[count:]
    worst, rest = rest[max(len(rest) - count, 0) :], rest[: max(len(rest) - count, 0)]
    middle = max((len(ordered) - count) // 2 - len(best), 0)
    return Gallery(best, rest[middle : middle + count], worst)


class AlignedPart(NamedTuple):
    """Tokens that follow each other, and how they compare with the other formula."""

    kind: str  # SAME, WRONG, MISSING (of the target alone) or EXTRA (of the prediction alone)
    tokens: list[str]


def compare(prediction: Prediction) -> tuple[list[AlignedPart], list[AlignedPart]]:
    """The target and the prediction, cut where they begin or cease to differ."""
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
    """How often which tokens went wrong, in the alignments with the fewest edits."""

    tokens: Counter[str]  # of the targets
    substitutions: Counter[tuple[str, str]]  # of the target, of the prediction
    missing: Counter[str]
    extra: Counter[str]


def confusions(predictions: Sequence[Prediction]) -> Confusions:
    """Counts over all predictions."""
    found = Confusions(Counter(), Counter(), Counter(), Counter())
    for prediction in predictions:
        target, read = prediction.target.split(), prediction.read.split()
        found.tokens.update(target)
        for edit in Levenshtein.editops(target, read):
            if edit.tag == "replace":
                found.substitutions[target[edit.src_pos], read[edit.dest_pos]] += 1
            elif edit.tag == "delete":
                found.missing[target[edit.src_pos]] += 1
            else:
                found.extra[read[edit.dest_pos]] += 1
    return found


def ranked(counts: Counter, limit: int = ROWS) -> list[tuple]:
    """The most frequent, with their counts; ties in the order of the tokens."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]


class Matrix(NamedTuple):
    """The most frequent substitutions, crosswise."""

    targets: list[str]  # (rows,)
    readings: list[str]  # (columns,)
    counts: list[list[int]]  # (rows, columns)
    missing: list[int]  # how often each target was left out, (rows,)
    # Substitutions that neither the rows nor the columns hold.
    others: int


def matrix(found: Confusions, side: int = MATRIX) -> Matrix:
    """The tokens that are misread most often, and what they are taken for most often."""
    by_target: Counter[str] = Counter()
    for (target, _), count in found.substitutions.items():
        by_target[target] += count
    targets = [target for target, _ in ranked(by_target, side)]
    by_reading: Counter[str] = Counter()
    for (target, read), count in found.substitutions.items():
        if target in targets:
            by_reading[read] += count
    readings = [read for read, _ in ranked(by_reading, side)]
    counts = [[found.substitutions[target, read] for read in readings] for target in targets]
    others = sum(found.substitutions.values()) - sum(map(sum, counts))
    return Matrix(targets, readings, counts, [found.missing[target] for target in targets], others)
