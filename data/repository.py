"""Where the code lies: in a checkout, or where it was installed."""

from __future__ import annotations

import os
from pathlib import Path

# The folder of the packages.
REPOSITORY = Path(__file__).resolve().parents[1]


def python_path() -> str:
    """PYTHONPATH for a process that is started: it finds the packages where this one found them, before all others."""
    return os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
