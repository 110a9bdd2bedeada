"""Compiles the pipeline for Kubeflow Pipelines 2, deploys it and follows its runs."""
