"""What `make faults` does at length: the most dangerous moments, and a sentence for each fault of the machine's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.workspace import Workspace

COMMAND = [sys.executable, "-m", "pipeline.cli", "run"]


def run(home: Path, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """`im2latex run` in a workspace, where commands of the shell were given before in a namespace of its own."""
    command = [*COMMAND, *arguments]
    if before:
        command = ["unshare", "--mount", "sh", "-ec", f'{before}; exec "$@"', "sh", *command]
    environment = {**os.environ, "IM2LATEX_HOME": str(home), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


@pytest.fixture
def mounts() -> None:
    """Skips where nothing can be mounted."""
    mounted = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small or read-only disk is mounted in a namespace of its own, which takes root")


def test_runs_killed_at_the_worst_moments_leave_nothing_half_done_behind_the_next(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.faults", "dangerous", "--seed", "1", "--folder", str(tmp_path)],
        capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    kills = [line for line in done.stdout.splitlines() if line.startswith("Kill(")]
    assert len(kills) == 6 and not any("late=True" in kill for kill in kills), done.stdout
    assert sum("where='Pusher'" in kill for kill in kills) == 3
    assert "no faults found" in done.stdout


def test_a_second_run_at_the_same_time_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with Workspace(tmp_path).hold():
        refused = run(tmp_path)
    assert refused.returncode == 1
    assert refused.stderr == f"im2latex: another run is using {tmp_path}; wait for it, or set IM2LATEX_HOME\n"


@pytest.mark.usefixtures("mounts")
def test_a_full_disk_is_told_in_a_sentence(tmp_path: Path) -> None:
    home = tmp_path / "workspace"
    home.mkdir()
    full = run(
        home, "--set", "data.level=simple",
        before=f"mount -t tmpfs -o size=64k tmpfs {home}; dd if=/dev/zero of={home}/ballast bs=1k count=40 2>/dev/null",
    )  # fmt: skip
    assert full.returncode == 1
    assert full.stderr.startswith("im2latex: ") and full.stderr.count("\n") == 1, full.stderr
    assert "No space left on device" in full.stderr or "no space is left" in full.stderr


@pytest.mark.usefixtures("mounts")
def test_a_read_only_workspace_is_told_in_a_sentence(tmp_path: Path) -> None:
    home = tmp_path / "workspace"
    home.mkdir()
    refused = run(home, before=f"mount --bind {home} {home}; mount -o remount,bind,ro {home}")
    assert refused.returncode == 1
    assert refused.stderr == (
        f"im2latex: {home}/logs cannot be written: make it writable, and the same command goes on from here\n"
    )
