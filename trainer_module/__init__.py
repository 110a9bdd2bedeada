"""The code that Transform, Trainer and the served model run: features, model, training, decoding, signatures."""
