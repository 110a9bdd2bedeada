"""Custom properties of a baseline; apart from the component, so that who reads them needs no TFX."""

SERVING_VERSION = "serving_version"  # the version that serves, "" when there is none
PASSED_OVER = "passed_over"  # the newer versions that cannot be used, with reasons
# The id of the artifact that Pusher made of that version, where an orchestrator with drivers knows it.
COPY_OF = "pushed_model"
