"""Runs the pipeline on this machine: starts its process, prepares its data, shows its progress and result."""
