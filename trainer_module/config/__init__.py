"""What can be set about images, the vocabulary, the model and its training, each in a module of its own.

A component takes the modules of what it needs, so that the cache of Transform does not go by the knobs of training.
Every knob is a field with one line that says what it does and its unit. A value out of range is refused when the
configuration is made, with the name of the knob (`pydantic.ValidationError`; `pipeline.config` turns it into one
sentence).
"""

from __future__ import annotations

from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid")
