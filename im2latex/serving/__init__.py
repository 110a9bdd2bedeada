"""`im2latex serve`: a model over HTTP, with a page for the browser."""
