"""Python's reader of TOML, which Python 3.10 has under another name."""

from __future__ import annotations

try:
    from tomllib import TOMLDecodeError, loads
except ModuleNotFoundError:
    from tomli import TOMLDecodeError, loads  # type: ignore[assignment, no-redef]

__all__ = ["TOMLDecodeError", "loads"]
