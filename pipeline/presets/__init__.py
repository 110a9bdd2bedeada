"""Presets: configurations to start from, a TOML file each. The first line is a comment that describes the preset.

A preset is an ordinary configuration file: it contains the knobs that differ from the defaults, or from the preset that
it names.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Returns the names of all presets, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def description(name: str) -> str:
    """Returns the description of a preset, one line."""
    with (FOLDER / f"{name}.toml").open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
