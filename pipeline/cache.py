"""The folder of what is made or fetched once."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder of one kind of things, in XDG_CACHE_HOME or ~/.cache; whatever is in it can be deleted."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "im2latex" / kind
