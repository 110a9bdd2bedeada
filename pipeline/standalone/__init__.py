"""Training without TFX and TensorFlow, by Keras on JAX."""

import functools

say = functools.partial(print, flush=True)
