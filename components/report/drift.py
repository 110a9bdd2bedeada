"""Section of the report about drift: new examples, and the pictures of a service, compared with training data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from components.example_validator import drift
from components.report.reported_run import ReportedRun
from components.report.sections import Missing
from components.report.wording import number
from im2latex.drift import DRIFTED, Comparison
from im2latex.statistics import FEATURES


class Row(NamedTuple):
    """A comparison of a feature, as text."""

    feature: str
    reference: str
    current: str
    distance: str
    threshold: str
    has_drifted: bool


class Compared(NamedTuple):
    """A comparison with the training data of a model."""

    sentence: str
    rows: list[Row]


def examples(run: ReportedRun) -> Compared:
    """Returns the comparison of the run's examples with the training data of the model that was serving.

    Raises:
        Missing: they were not compared.
    """
    folder = Path(run.artifacts["anomalies"].uri) if "anomalies" in run.artifacts else None
    if folder is None or not (folder / drift.FILE).exists():
        raise Missing("The examples were not compared with the training data of the serving model.")
    try:
        comparison = drift.read(folder)
    except (KeyError, TypeError, ValueError) as error:
        raise Missing(f"Another version of the pipeline wrote {folder / drift.FILE} ({error}).") from None
    if comparison.reason:
        raise Missing(f"{comparison.reason[0].upper()}{comparison.reason[1:]}.")
    return Compared(
        f"{comparison.examples:,} training examples were compared with those of version {comparison.version}.",
        _rows(comparison.comparisons),
    )


def service(run: ReportedRun) -> Compared:
    """Returns the comparison of a service's pictures with the training examples of its model."""
    if run.service is None:
        raise Missing("`im2latex report --service ADDRESS` adds the pictures of a service.")
    sentence = "; ".join(run.service.sentences)
    return Compared(f"{sentence[0].upper()}{sentence[1:]}.", _rows(run.service.comparisons))


def _rows(comparisons: Sequence[Comparison]) -> list[Row]:
    return [
        Row(
            FEATURES[one.feature].help,
            number(one.reference),
            number(one.current),
            number(one.distance),
            f"{one.threshold:g}",
            one.status == DRIFTED,
        )
        for one in comparisons
    ]
