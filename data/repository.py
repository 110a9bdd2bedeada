"""The folder that contains this project's packages, in a checkout or in an installation."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def python_path() -> str:
    """Returns a PYTHONPATH with which a child process imports the same packages as this process."""
    return os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
