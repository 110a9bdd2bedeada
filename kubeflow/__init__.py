"""The same pipeline on Kubeflow Pipelines 2."""
