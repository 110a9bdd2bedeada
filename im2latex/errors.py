"""Exceptions for errors that users can correct."""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can correct. The message is one sentence: what is wrong, where, and what to do.

    The `im2latex` command prints the message without a traceback and exits with `exit_status`.
    """

    exit_status = 1


class ImageError(UserError):
    """An image cannot be read. The message begins with "the image" and does not contain its name."""
