"""Chooses, evaluates and exports trained models outside the pipeline."""
