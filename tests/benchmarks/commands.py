"""What `make bench` measures of whole commands: `im2latex lineage` and `im2latex serve`."""

from __future__ import annotations

import csv
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from ml_metadata import MetadataStore

from data.pictures.synthetic import draw_png
from pipeline.lineage.store import connection
from pipeline.workspace import Workspace
from tests.benchmarks.measuring import FULL, Figure, Size, seconds
from tests.pipeline.lineage.history import PIPELINE, build


def lineage(size: Size = FULL) -> dict[str, Figure]:
    """`im2latex lineage` on a store of 1,000 runs, each of 11 executions and 14 artifacts; starting Python included."""
    figures: dict[str, Figure] = {}
    # What a process held at most, told by itself: what the system tells begins with the process that forked it.
    told = "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr)"
    code = f"import re, sys; from pipeline.cli import main\ntry: main()\nfinally: {told}"
    peaks: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        years = build(MetadataStore(connection("", workspace)), workspace.home, runs=size.of(1000), cached=False)
        (workspace.serving / PIPELINE / str(years.pushed[-1].version)).mkdir(parents=True)

        def call(command: str) -> None:
            arguments = [sys.executable, "-c", code, "lineage", *command.split()]
            environment = {**os.environ, "IM2LATEX_HOME": folder}
            done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
            # Nothing in that store has files, which `check` finds out.
            assert done.returncode == (4 if command == "check" else 0), done.stderr
            peaks.append(int(done.stderr))

        for command in ("", "runs", "runs --last 0", "check", "--help"):
            figures[f"lineage {command}".strip()] = Figure(
                seconds(functools.partial(call, command), min(3, size.repeats)), "s"
            )
    return figures | {"peak memory of these": Figure(max(peaks) / 1024, "MiB")}


def serving(size: Size = FULL) -> dict[str, Figure]:
    """`im2latex serve` on the model pushed last: hey asks for one formula, by so many clients at once."""
    if shutil.which("hey") is None or not Workspace.from_environment().versions():
        print("The service is not measured: that needs Debian's package hey, and a pushed model (`make run`)")
        return {}
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "formula.png"
        image.write_bytes(draw_png("\\int _ { 0 } ^ { \\infty } z ^ { 2 } d z", em=14))
        command = [sys.executable, "-m", "pipeline.cli", "serve", "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            assert service.stdout is not None
            address = service.stdout.readline().split()[0]
            _ask(address, image, size.of(64), size.of(1_000))  # warms up
            for clients, requests in ((1, 500), (8, 2_000), (64, 8_000)):
                figures |= _ask(address, image, size.of(clients), size.of(requests))
            memory = _resident(address)
            _ask(address, image, size.of(64), size.of(10_000))
            figures["memory before 10,000 requests"] = Figure(memory / 2**20, "MiB")
            figures["memory after them"] = Figure(_resident(address) / 2**20, "MiB")
            service.terminate()
    return figures


def _ask(address: str, image: Path, clients: int, requests: int) -> dict[str, Figure]:
    """What so many clients get, each asking again as soon as it has its answer."""
    command = ["hey", "-n", str(requests), "-c", str(clients), "-o", "csv", "-m", "POST", "-D", str(image)]
    started = time.perf_counter()
    done = subprocess.run([*command, f"{address}/predict"], capture_output=True, text=True, check=True)
    spent = time.perf_counter() - started
    answers = list(csv.DictReader(done.stdout.splitlines()))
    times = 1e3 * np.array([float(answer["response-time"]) for answer in answers])
    good = sum(answer["status-code"] == "200" for answer in answers)
    name = f"{clients} clients" if clients > 1 else "1 client"
    return {
        name: Figure(good / spent, "answers/s"),
        f"{name}, median": Figure(float(np.median(times)), "ms"),
        f"{name}, 99th percentile": Figure(float(np.percentile(times, 99)), "ms"),
        f"{name}, errors": Figure(requests - good, "answers"),
    }


def _resident(address: str) -> float:
    """The memory that the service holds, bytes, as it says itself."""
    with urllib.request.urlopen(f"{address}/metrics") as answer:
        (value,) = re.findall(r"^process_resident_memory_bytes (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(value)
