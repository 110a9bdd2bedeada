"""The TOML parser of the standard library, or its backport `tomli` on Python 3.10."""

from __future__ import annotations

try:
    from tomllib import TOMLDecodeError, loads
except ModuleNotFoundError:
    from tomli import TOMLDecodeError, loads  # type: ignore[assignment, no-redef]

__all__ = ["TOMLDecodeError", "loads"]
