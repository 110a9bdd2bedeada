"""The reader as a static web page (`im2latex export --format web`)."""
