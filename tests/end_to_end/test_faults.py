"""A short version of `make faults`: kills at the most dangerous moments, and faults of the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.workspace import Workspace
from tests.project import Project, read_only

pytestmark = pytest.mark.one_stack


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty workspace."""
    project = Project.of(tmp_path)
    project.home.mkdir()
    return project


def test_the_next_run_cleans_up_after_killed_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.faults", "dangerous", "--seed", "1", "--folder", str(tmp_path)],
        capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    kills = [line for line in done.stdout.splitlines() if line.startswith("Kill(")]
    assert len(kills) == 6 and not any("late=True" in kill for kill in kills), done.stdout
    assert sum("where='Pusher'" in kill for kill in kills) == 3
    assert "no faults found" in done.stdout


def test_a_concurrent_run_is_refused_with_one_sentence(project: Project) -> None:
    with Workspace(project.home).lock():
        refused = project.run()
    assert refused.returncode == 1
    assert refused.stderr == f"im2latex: another run is using {project.home}; wait for it, or set IM2LATEX_HOME\n"


@pytest.mark.usefixtures("mounts")
def test_a_full_disk_is_one_sentence(project: Project) -> None:
    small = f"mount -t tmpfs -o size=64k tmpfs {project.home}"
    filled = f"{small}; dd if=/dev/zero of={project.home}/ballast bs=1k count=40 2>/dev/null"
    refused = project.run(before=filled)
    assert refused.returncode == 1
    assert "0.0 GB are free" in refused.stderr and refused.stderr.count("\n") == 1, refused.stderr
    full = project.run("--allow-full-disk", before=filled)
    assert full.returncode == 1
    assert full.stderr.startswith("im2latex: ") and full.stderr.count("\n") == 1, full.stderr
    assert "No space left on device" in full.stderr or "no space is left" in full.stderr


@pytest.mark.usefixtures("mounts")
def test_a_read_only_workspace_is_one_sentence(project: Project) -> None:
    refused = project.run(before=read_only(project.home))
    assert refused.returncode == 1
    assert refused.stderr == (
        f"im2latex: {project.home}/logs cannot be written: make it writable, and the same command continues from here\n"
    )
