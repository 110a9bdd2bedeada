"""Benchmark of `im2latex lineage`."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ml_metadata import MetadataStore

from pipeline.lineage.store import connection
from pipeline.workspace import Workspace
from tests.benchmarks.measuring import FULL, Figure, Size, seconds
from tests.pipeline.lineage.history import PIPELINE, build


def lineage(size: Size = FULL) -> dict[str, Figure]:
    """Measures `im2latex lineage` on 1,000 runs with 11 executions and 14 artifacts each, with the start of Python."""
    figures: dict[str, Figure] = {}
    # The process prints its own peak memory: the system's figure would include the process that forked it.
    print_peak = "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr)"
    code = f"import re, sys; from pipeline.cli import main\ntry: main()\nfinally: {print_peak}"
    peaks: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        years = build(MetadataStore(connection("", workspace)), workspace.home, runs=size.of(1000), cached=False)
        (workspace.serving / PIPELINE / str(years.pushed[-1].version)).mkdir(parents=True)

        def call(command: str) -> None:
            arguments = [sys.executable, "-c", code, "lineage", *command.split()]
            environment = {**os.environ, "IM2LATEX_HOME": folder}
            done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
            # The artifacts in the store have no files, so `check` finds problems.
            assert done.returncode == (4 if command == "check" else 0), done.stderr
            peaks.append(int(done.stderr))

        for command in ("", "runs", "runs --last 0", "check", "--help"):
            figures[f"lineage {command}".strip()] = Figure(
                seconds(functools.partial(call, command), min(3, size.repeats)), "s"
            )
    return figures | {"peak memory of these": Figure(max(peaks) / 1024, "MiB")}
