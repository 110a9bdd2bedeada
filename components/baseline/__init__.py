"""The Baseline component: finds the model that is serving now, which the Evaluator compares the new model with."""
