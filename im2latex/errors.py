"""The exceptions for what a person can put right."""

from __future__ import annotations


class UserError(Exception):
    """Something a person can put right: one sentence that says what is wrong, where, and what to do.

    The `im2latex` command prints the sentence without a traceback and exits with `exit_status`.
    """

    exit_status = 1


class ImageError(UserError):
    """An image that cannot be read; the sentence begins with "the image" and does not know its name."""
