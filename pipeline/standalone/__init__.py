"""Training without TFX and TensorFlow, with Keras on JAX."""

import functools

say = functools.partial(print, flush=True)
