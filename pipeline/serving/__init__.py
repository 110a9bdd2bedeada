"""Uses what the pipeline pushes: on the command line, as an HTTP service, and back to an older version."""
