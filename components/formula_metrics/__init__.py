"""Scores of formulas: `scores` as sums over examples, without TensorFlow; `metrics` as metrics of TFMA."""
