"""Measures how time and memory grow with the data: `make bench ARGS="size --examples 10000 30000 100000"`.

For each size, the real sample (without it, synthetic formulas) is repeated with changes until there are enough
examples. Then `im2latex run --to Evaluator` runs on them in a separate workspace. Its processes are sampled twice a
second, in /proc. Every component processes every example: a whole epoch is trained, with a very small model (so its
time says nothing about other models), and the evaluation predicts its whole split.

    seconds     wall-clock seconds of the execution in ML Metadata; more if the machine does other work
    CPU         processor seconds, user and system, of all processes
    MiB         peak memory of the processes: the sum of their high-water marks (VmHWM), which are reset at each sample;
                a page that several processes share counts once for each
    1,000 more  the line through a component's processor seconds with the smallest relative deviations: the seconds
                without examples, the seconds for 1,000 more, and the largest relative deviation of a size from the line
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from data.dataset.record import SPLITS, Record, encode
from data.dataset.tfrecords import read_records
from data.dataset.writer import DatasetWriter
from data.parallel import ordered_map
from im2latex.errors import UserError
from tests.benchmarks.sample import make_sample

# Number of synthetic formulas to repeat if there is no real sample.
SYNTHETIC = 2_000
CHUNK = 128
# Symbols that can be exchanged: they do not occur in units of length or columns of arrays.
LETTERS = ("abdfghkoqsvwyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "123456789")
# Changes to `small`: a network that is about as fast as the other components. The quality of the model does not matter.
SETTINGS = {
    "model.filters": [4, 4, 8, 8, 8, 8],
    "model.decoder_units": 16,
    "model.embedding_units": 8,
    "training.epochs": 1,
    "training.batch_size": 128,
    "evaluation.gate": ["bleu >= 0"],
}
SAMPLING_SECONDS = 0.5
TABLE_WIDTH = 120
TICKS = os.sysconf("SC_CLK_TCK")
# Components that take less time get no line.
LEAST_SECONDS = 0.5
RESET_HIGH_WATER = "5"  # proc(5), clear_refs
# The time outside components: the start of Python, the compilation of the pipeline, digests.
REST, WHOLE = "the rest", "all"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures each size, prints the table, and writes the figures to the file of `--json`."""
    parser = argparse.ArgumentParser(
        prog="make bench ARGS=size", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, nargs="+", default=[10_000, 30_000, 100_000], help="sizes", metavar="N")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument(
        "--work", type=Path, help="folder for data and workspaces, which is kept; default: a temporary one"
    )
    parser.add_argument(
        "--continue", action="store_true", dest="resume", help="take the sizes that the file of --json has from there"
    )
    parser.add_argument("--set", action="append", default=[], help="a knob for the runs", metavar="SECTION.KNOB=VALUE")
    parser.add_argument("--to", default="Evaluator", help="last component that the runs go to", metavar="COMPONENT")
    chosen = parser.parse_args(arguments)
    console = Console(highlight=False)
    console.width = max(console.width, TABLE_WIDTH)  # a narrow window breaks lines, but no cells are cut off
    if chosen.resume and not chosen.json:
        parser.error("--continue needs --json")
    figures = recorded(chosen.json) if chosen.resume and chosen.json.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for count in sorted(set(chosen.examples) - set(figures)):
            try:
                with console.status(f"{count:,} examples: making them"):
                    folder = enlarged(count, work)
                with console.status(f"{count:,} examples: running the pipeline"):
                    figures[count] = measured(folder, work / f"workspace-{count}", chosen.set, chosen.to)
            except UserError as error:
                sys.exit(str(error))
            size = sum(file.stat().st_size for file in folder.glob("*/*"))
            console.print(f"{count:,} examples, {size / 2**20:,.0f} MiB: {figures[count][WHOLE].seconds:,.0f} s")
            if chosen.json:
                chosen.json.write_text(json.dumps(document(figures), indent=2) + "\n")
    console.print(table(dict(sorted(figures.items()))))


# --- the data ---------------------------------------------------------------------------------


def enlarged(count: int, work: Path) -> Path:
    """Returns a data set of `count` examples with splits in the proportions of the sample; makes it if missing."""
    out = work / f"data-{count}"
    if out.exists():
        return out
    if not (work / "sample").exists():
        make_sample(work / "sample", min(count, SYNTHETIC))
    # The work is passed on in chunks, so that the memory does not grow with `count`.
    sample = {split: list(read_records(work / "sample" / split)) for split in SPLITS}
    with DatasetWriter(out, "a sample, repeated", {"examples": count}) as writer:
        for split, chunk in ordered_map(_changed_chunk, _chunks(sample, count)):
            for example in chunk:
                writer.write_encoded(split, example)
    return out


def _chunks(sample: Mapping[str, list[Record]], count: int) -> Iterator[tuple[str, int, list[Record]]]:
    """Yields a split, the number of earlier repetitions, and some records."""
    whole = sum(map(len, sample.values()))
    ends = np.rint(np.cumsum([len(records) for records in sample.values()]) * count / whole).astype(int)
    for (split, records), wanted in zip(sample.items(), np.diff(ends, prepend=0).tolist(), strict=True):
        # Shuffled, so that an incomplete repetition resembles the whole.
        random.Random(split).shuffle(records)
        for again in itertools.count():
            left = records[: wanted - again * len(records)]
            if wanted <= again * len(records):
                break
            for start in range(0, len(left), CHUNK):
                yield split, again, left[start : start + CHUNK]


def _changed_chunk(chunk: tuple[str, int, list[Record]]) -> tuple[str, list[bytes]]:
    split, again, records = chunk
    return split, [encode(changed(record, again)) for record in records]


def changed(record: Record, again: int) -> Record:
    """Returns a changed record for a repetition of the sample: other letters and digits, another size, and fainter ink.

    The image still shows the old letters, which does not matter for time and memory. Each repetition gives another
    record; repetition 0 is the record itself.
    """
    if not again:
        return record
    others = {old: new for row in LETTERS for old, new in zip(row, row[again % len(row) :] + row, strict=False)}
    name = f"{record.name}, {again}"
    chance = random.Random(name)
    scale, ink = chance.uniform(0.93, 1.07), chance.uniform(0.7, 1.0)
    with Image.open(BytesIO(record.image)) as opened:
        size = [max(1, round(side * scale)) for side in opened.size]
        image = opened.convert("L").resize(size, Image.Resampling.BILINEAR)
    image = image.point(lambda grey: round(255 - ink * (255 - grey)))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return Record(buffer.getvalue(), " ".join(others.get(token, token) for token in record.latex.split()), name)


# --- the run ----------------------------------------------------------------------------------


class Figure(NamedTuple):
    """Time and memory of a component or a run."""

    seconds: float
    cpu_seconds: float
    memory: float  # MiB


class Sample(NamedTuple):
    """Processor time of a process and its descendants at a moment, and their peak memory since the last sample."""

    time: float  # seconds since 1970
    cpu_seconds: float
    memory: float  # MiB


def measured(folder: Path, home: Path, settings: Sequence[str], last: str) -> dict[str, Figure]:
    """Runs the pipeline up to the component `last`. Returns the figures of each component, the rest, and the whole.

    Raises:
        UserError: the run failed.
    """
    knobs = [f"{knob}={json.dumps(value)}" for knob, value in SETTINGS.items()]
    knobs += [f"data.source={json.dumps(str(folder))}", *settings]
    command = [sys.executable, "-m", "pipeline.cli", "run", "--preset", "small", "--to", last]
    command += [word for knob in knobs for word in ("--set", knob)]
    samples: list[Sample] = []
    shutil.rmtree(home, ignore_errors=True)  # of an earlier measurement, whose cache would be used
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "IM2LATEX_HOME": str(home)}
    ) as process:
        ended = threading.Event()
        watching = threading.Thread(target=_watch, args=(process.pid, ended, samples))
        watching.start()
        _, output = process.communicate()
        ended.set()
        watching.join()
    if process.returncode:
        raise UserError(f"the run on {folder} failed: {output.decode().strip()}")
    return _figures(home, samples)


def _watch(root: int, ended: threading.Event, samples: list[Sample]) -> None:
    while not ended.wait(SAMPLING_SECONDS):
        samples.append(_sample(root))


def _sample(root: int) -> Sample:
    """Samples a process and its descendants; the time of ended ones is included in that of their parents."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name, which may contain anything: state, parent, ...; user, system, and those of children.
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # has ended
            continue
        process = int(stat.parent.name)
        children.setdefault(int(fields[1]), []).append(process)
        ticks[process] = sum(map(int, fields[11:15]))
    tree = [root]
    for process in tree:
        tree += children.get(process, ())
    cpu_seconds = sum(ticks.get(process, 0) for process in tree) / TICKS
    return Sample(time.time(), cpu_seconds, sum(map(_high_water, tree)) / 1024)


def _high_water(process: int) -> int:
    """Returns the peak resident memory of a process since the last call, KiB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        Path(f"/proc/{process}/clear_refs").write_text(RESET_HIGH_WATER)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _figures(home: Path, samples: Sequence[Sample]) -> dict[str, Figure]:
    from components.metadata import RAN, read_steps
    from pipeline.lineage.store import read, run_ids
    from pipeline.workspace import Workspace

    times, cpu, memory = np.array(samples).T
    steps, _ = read(Workspace(home), lambda store: read_steps(store, run_ids(store)[-1]))
    figures = {}
    for step in steps:
        assert step.state == RAN, f"{step.component} {step.state}"
        began, ended = step.started / 1000, step.ended / 1000
        during = (began - SAMPLING_SECONDS < times) & (times < ended + SAMPLING_SECONDS)
        spent = float(np.diff(np.interp([began, ended], times, cpu))[0])
        figures[step.component] = Figure(ended - began, spent, float(memory[during].max()))
    whole = Figure(float(np.ptp(times)), float(cpu.max()), float(memory.max()))
    between = [whole[i] - sum(figure[i] for figure in figures.values()) for i in range(2)]
    # Between components, the memory is that of the component before.
    return figures | {REST: Figure(*between, 0.0), WHOLE: whole}


# --- results ----------------------------------------------------------------------------------


class Line(NamedTuple):
    """How processor time grows with the number of examples."""

    start: float  # seconds of no examples
    thousand: float  # seconds that 1,000 more take
    off: float  # the largest share by which a size is off the line


def fit(counts: Sequence[int], spent: Sequence[float]) -> Line:
    """Fits the line with the smallest relative deviations."""
    x, y = np.array(counts) / 1000, np.array(spent)
    slope, start = np.polyfit(x, y, 1, w=1 / y)
    return Line(float(start), float(slope), float(np.abs((start + slope * x) / y - 1).max()))


def lines(figures: Mapping[int, Mapping[str, Figure]]) -> dict[str, Line]:
    """Returns a line for each component that takes enough time, if there are two sizes or more."""
    spent = {name: [of[name].cpu_seconds for of in figures.values()] for name in next(iter(figures.values()))}
    return {name: fit(list(figures), of) for name, of in spent.items() if len(of) > 1 and min(of) > LEAST_SECONDS}


def document(figures: Mapping[int, Mapping[str, Figure]]) -> dict[str, Any]:
    """Returns the figures by size and component, and the lines by component, for JSON."""
    by_size = {str(count): {name: of._asdict() for name, of in row.items()} for count, row in figures.items()}
    by_component = {name: line._asdict() for name, line in lines(figures).items()}
    return {"cpus": os.cpu_count(), "figures": by_size, "lines": by_component}


def recorded(path: Path) -> dict[int, dict[str, Figure]]:
    """The figures of a `document`."""
    by_size = json.loads(path.read_text())["figures"]
    return {int(count): {name: Figure(**of) for name, of in row.items()} for count, row in by_size.items()}


def table(figures: Mapping[int, Mapping[str, Figure]]) -> Table:
    """Returns a table with a row for each component: columns for each size, and its line."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column("")
    for count in figures:
        for name in (f"{count:,}\nseconds", "\nCPU", "\nMiB"):
            shown.add_column(name, justify="right")
    fitted_lines = lines(figures)
    for name in ("CPU\nof none", "\n1,000 more", "\noff by") if fitted_lines else ():
        shown.add_column(name, justify="right")
    for name in next(iter(figures.values())):
        cells = []
        for seconds, cpu_seconds, memory in (of[name] for of in figures.values()):
            cells += [f"{seconds:.1f}", f"{cpu_seconds:.1f}", f"{memory:,.0f}" if memory else ""]
        if line := fitted_lines.get(name):
            cells += [f"{line.start:.1f}", f"{line.thousand:.2f}", f"{line.off:.0%}"]
        shown.add_row(name, *cells)
    return shown


if __name__ == "__main__":
    main()
