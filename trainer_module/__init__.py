"""What Transform, Trainer and a server run: features, model, training, decoding, signatures."""
