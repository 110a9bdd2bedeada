"""TFX's ExampleValidator, whose anomalies stop the run."""
