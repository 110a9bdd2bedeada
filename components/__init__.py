"""The pipeline's own TFX components, one package each, and what they share."""
