"""The Tuner component: TFX's Tuner, but it records the best hyperparameters in ML Metadata."""
