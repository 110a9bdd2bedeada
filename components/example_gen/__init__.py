"""TFX's ImportExampleGen, which refuses what nothing after it could use."""
