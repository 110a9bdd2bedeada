"""The committed lock contains pyproject.toml's dependencies for every supported Python, and no addresses."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from data import toml

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = toml.loads((ROOT / "pyproject.toml").read_text())
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def asked() -> list[Requirement]:
    return [Requirement(line) for line in PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]]


def locked(python: str) -> dict[str, Requirement]:
    """The versions that the lock installs on this Python, by name."""
    system = {
        "python_version": python,
        "python_full_version": f"{python}.5",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    requirements: dict[str, Requirement] = {}
    for line in re.findall(r"^[A-Za-z0-9].*?(?= \\$)", LOCK, re.MULTILINE):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(system):
            name = canonicalize_name(requirement.name)
            assert name not in requirements, f"{name} twice on Python {python}"
            requirements[name] = requirement
    return requirements


def test_lock_has_no_addresses_and_hashes_for_everything() -> None:
    assert "://" not in LOCK and " @ " not in LOCK
    assert not [line for line in LOCK.splitlines() if line.startswith("-")]
    entries = re.split(r"\n(?=\S)", LOCK.strip())
    assert len(entries) > 100
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry or "==" not in entry] == []


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_satisfies_every_dependency(python: str) -> None:
    lock = locked(python)
    for requirement in asked():
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            pinned = lock[canonicalize_name(requirement.name)]
            version = str(pinned.specifier).removeprefix("==")
            assert requirement.specifier.contains(version), f"{pinned} is not {requirement}: make lock"


def test_lock_splits_the_two_stacks_by_python() -> None:
    tfx = {python: str(locked(python)["tfx"].specifier) for python in PYTHONS}
    assert tfx == {"3.10": "==1.16.0", "3.11": "==1.16.0", "3.12": "==1.21.0", "3.13": "==1.21.0"}


def test_the_lock_is_what_is_installed_here() -> None:
    """The installed versions, so that the tests check what a user gets."""
    from importlib.metadata import version

    lock = locked(f"{sys.version_info.major}.{sys.version_info.minor}")
    for name in ("tfx", "tensorflow", "keras", "apache-beam", "protobuf", "numpy"):
        assert version(name) == str(lock[name].specifier).removeprefix("==")
