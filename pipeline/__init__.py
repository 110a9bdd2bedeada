"""Joins data, model and gate into one pipeline, and the command that runs it."""
