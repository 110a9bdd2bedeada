"""The cache folder for files that are generated or downloaded once."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Returns a folder in XDG_CACHE_HOME or ~/.cache; its content can be deleted at any time."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "im2latex" / kind
