"""The one exception for what a person can put right."""

from __future__ import annotations


class UserError(Exception):
    """Something a person can put right: one sentence that says what is wrong, where, and what to do.

    The `im2latex` command prints the sentence without a traceback and exits with status 1.
    """
