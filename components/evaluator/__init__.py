"""TFX's Evaluator, which does without a baseline when nothing is serving yet."""
