"""TFX's Pusher, which puts a version into the serving folder whole or not at all."""
