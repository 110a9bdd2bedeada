"""Configurations to start from: a TOML file each, whose first line, a comment, says what it is for.

A preset holds what it changes in the defaults, or in the preset that it names itself, as any other configuration file.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every preset, in the order of the alphabet."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def description(name: str) -> str:
    """What a preset is for, in a line."""
    with (FOLDER / f"{name}.toml").open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
