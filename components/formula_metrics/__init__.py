"""Scores of formulas: `scores` computes them from sums over examples, `metrics` makes TFMA metrics of them."""
