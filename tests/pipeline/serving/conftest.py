"""The pictures and the small model of the service's tests."""

from tests.im2latex.serving.conftest import images, model

__all__ = ["images", "model"]
