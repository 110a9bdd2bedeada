"""Reads the results of Tuner."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainer_module.hyperparameters import in_words

# TFX's file in the artifact `tuner_results`.
FILE = "tuner_results.json"
# Properties of the artifact `best_hyperparameters`, in addition to the hyperparameters.
TRIALS, PERPLEXITY = "trials", "perplexity"


class TrialResult(NamedTuple):
    """A trial that did not fail."""

    number: int  # from 1
    perplexity: float  # the lowest on the validation examples
    values: Mapping[str, float]


def read_trials(folder: str | Path) -> list[TrialResult]:
    """Reads the trials from the artifact `tuner_results`, best first.

    Raises:
        OSError: the file cannot be read.
    """
    rows = json.loads(Path(folder, FILE).read_text("utf-8"))
    return [TrialResult(int(row.pop("trial_id")) + 1, row.pop("score"), row) for row in rows]


def best_in_words(properties: Mapping[str, Any]) -> str:
    """Describes the artifact `best_hyperparameters` by its properties."""
    score = f"perplexity {properties[PERPLEXITY]:.4f}"
    return f"best of {properties[TRIALS]} trials: {in_words(properties)}: {score}"
