"""Reuses the pictures and the small model of the service's tests."""

from tests.im2latex.serving.conftest import images, model, picture, signatures

__all__ = ["images", "model", "picture", "signatures"]
