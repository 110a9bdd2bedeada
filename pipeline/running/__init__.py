"""Runs the pipeline on this machine: its process, its data, its progress and its result."""
