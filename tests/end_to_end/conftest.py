from __future__ import annotations

import subprocess

import pytest


@pytest.fixture
def mounts() -> None:
    """Skips the test if file systems cannot be mounted."""
    mounted = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small or read-only disk is mounted in a namespace of its own, which takes root")
