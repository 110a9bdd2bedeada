"""The Content-Security-Policy of a page in one file. Imports nothing heavy."""

from __future__ import annotations

import base64
import hashlib


def content_policy(style: str, script: str) -> str:
    """What a page may do: its own style and script, pictures that it holds, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    """How a policy names a script or a style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
