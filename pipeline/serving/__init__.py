"""Uses what the pipeline pushes: on the command line, as an HTTP service, and on a page in the browser."""
