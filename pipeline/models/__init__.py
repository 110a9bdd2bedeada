"""What is done with a trained model outside the pipeline: choosing, evaluating and exporting it."""
