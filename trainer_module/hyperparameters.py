"""The hyperparameters that Tuner searches: their names, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping

# Names, in Keras Tuner's files and as properties in ML Metadata.
LEARNING_RATE, WIDTH, DROPOUT = NAMES = "learning_rate", "width", "dropout"


def in_words(values: Mapping[str, float]) -> str:
    """Writes hyperparameters as, for example, "learning rate 0.0021, width 1.25, dropout 0.1"."""
    return ", ".join(f"{name.replace('_', ' ')} {values[name]:.3g}" for name in NAMES if name in values)
