"""The Content-Security-Policy of self-contained pages."""

from __future__ import annotations

import base64
import hashlib


def content_policy(style: str, script: str) -> str:
    """Returns a policy that allows one inline style, one inline script and embedded pictures, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    """Returns the policy's source expression for an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
