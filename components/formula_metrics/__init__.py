"""Corpus BLEU and exact match of formulas, as metrics of TensorFlow Model Analysis."""

from __future__ import annotations

from components.formula_metrics.metrics import CorpusBleu, ExactMatch

__all__ = ["CorpusBleu", "ExactMatch"]
