"""Configuration of images, vocabulary, model, training and decoding, one module each.

Each component imports only the modules that it needs, so that, for example, a change to the training options does not
invalidate the cache of Transform. Every field has a one-line description with its unit. A value out of range raises
`pydantic.ValidationError` with the name of the field, which `pipeline.config` turns into one sentence.
"""

from __future__ import annotations

from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid")
