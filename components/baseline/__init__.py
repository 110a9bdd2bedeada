"""Finds the model that is serving now, for the Evaluator to compare the new one with."""
