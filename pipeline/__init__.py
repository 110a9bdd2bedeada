"""The pipeline, and the `im2latex` command that runs it."""
