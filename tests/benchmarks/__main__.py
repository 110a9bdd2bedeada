"""Measures speed and memory: `make bench`, or `make bench ARGS="training_float32 --json bench.json"`.

Each rate is compared with the limit of the machine, measured in the same process, because machines differ and are
seldom idle. `make bench ARGS=size` measures whole runs on 10,000 to 100,000 examples, which takes long (see
`tests.benchmarks.size`). `make bench ARGS=soak` sends 200,000 requests to a service (see `tests.benchmarks.soak`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks import size, soak

NAMES = (
    "machine", "training_float32", "training_bfloat16", "training_mixed_sizes", "feeding", "decoding_greedy",
    "decoding_beam", "lookups", "quickstart", "lineage", "predicting", "equality", "serving",
)  # fmt: skip
# Cases whose operations are too small to be faster on several threads.
ONE_THREAD = {"quickstart"}

MEASURE = "import json, sys; from tests.benchmarks.cases import measure; print(json.dumps(measure(sys.argv[1])))"


def measured(name: str) -> dict[str, list]:
    """Runs a case in a separate process. Returns its figures: [value, unit, share of the limit]."""
    environment = {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if name in ONE_THREAD:
        environment["TF_NUM_INTRAOP_THREADS"] = "1"
    command = [sys.executable, "-c", MEASURE, name]
    done = subprocess.run(command, env=environment | os.environ, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr}the case {name} failed")
    *output, figures = done.stdout.splitlines()
    print(*output, sep="\n", end="\n" if output else "")
    return json.loads(figures)


def main() -> None:
    """Measures all cases or the named ones; `size` and `soak` only if named."""
    separate = {"size": size.main, "soak": soak.main}
    if sys.argv[1:2] and sys.argv[1] in separate:
        separate[sys.argv[1]](sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(NAMES):
        parser.error(f"there is no case {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")

    console = Console(highlight=False)
    packages = {package: version(package) for package in ("keras", "tensorflow", "tfx")}
    cpus = os.cpu_count()
    console.print(", ".join(f"{package} {number}" for package, number in packages.items()), f"{cpus} CPUs", sep=", ")
    figures: dict[str, dict[str, list]] = {}
    for name in arguments.cases or NAMES:
        with console.status(f"measuring {name}"):
            figures[name] = measured(name)
        console.print(_table(figures[name]))
        if arguments.json:
            document = {"cpus": cpus, "packages": packages, "figures": figures}
            arguments.json.write_text(json.dumps(document, indent=2) + "\n")


def _table(figures: dict[str, list]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for width, justify in ((38, "left"), (10, "right"), (9, "left"), (17, "right")):
        table.add_column(min_width=width, justify=justify)  # type: ignore[arg-type]
    for label, (value, unit, of_limit) in figures.items():
        share = "" if of_limit is None else f"{of_limit:.0%} of the limit"
        table.add_row(label, f"{value:,.{1 if abs(value) < 1000 else 0}f}", unit, share)
    return table


if __name__ == "__main__":
    main()
