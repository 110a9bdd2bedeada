"""The Evaluator component: evaluates a model on slices and kinds of pictures, and applies the gate."""
