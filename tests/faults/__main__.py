"""Kills runs at random moments and checks what they leave: `make faults`, or `make faults ARGS="--kills 20 --seed 7"`.

Each round uses new data, so that no component comes from the cache, and kills one run after another: while it draws the
data, while it starts, in every component, during and after a checkpoint, during a push, and while it writes to ML
Metadata. Every run continues where the previous one was killed; the last run of a round is not killed. Most kills hit
the whole process group, some only the process of the command or of the pipeline. At the same time, a server predicts an
image with every pushed version.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from pipeline.options import hush

if TYPE_CHECKING:
    from tests.faults.audit import Audit
    from tests.faults.killing import Kill, Killer

# Processes to kill, with relative frequencies.
VICTIMS = {"all": 8, "command": 1, "pipeline": 1}
REPAIR_SHARE = 0.3
KINDS = {
    "kill": "runs, at random moments",
    "dangerous": "runs, at the moments that leave the most files behind; a small test",
    "disk": "fill the disk while each component works; as root",
    "interrupt": "Ctrl-C in each component",
}
_REPAIRED = re.compile(r"^Repaired +(\d+) execution", re.MULTILINE)


def main() -> int:
    """Runs the chosen kind of test. Returns 0 if it found no faults, else 1."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument(
        "kind",
        nargs="?",
        choices=KINDS,
        default="kill",
        metavar="KIND",
        help="; ".join(f"{kind}: {what}" for kind, what in KINDS.items()),
    )
    parser.add_argument("--kills", type=int, default=100, help="number of runs to kill, for the kind `kill`")
    parser.add_argument("--seed", type=int, help="random seed of the moments; by default, another one each time")
    parser.add_argument("--folder", type=Path, help="folder to work in, which is kept")
    arguments = parser.parse_args()
    if arguments.kind == "disk":
        from tests.faults.disk import enter_namespace

        enter_namespace()
    # The environment variables of `im2latex run`, set before TensorFlow is imported, and no log lines of TensorFlow.
    os.environ |= {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    hush()
    seed = random.randrange(1000) if arguments.seed is None else arguments.seed
    random.seed(seed)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="im2latex-faults-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.kind == "kill":
            return kill_and_judge(folder, arguments.kills)
        return {"dangerous": kill_few, "disk": fill_disks, "interrupt": interrupt_all}[arguments.kind](folder)


def kill_and_judge(folder: Path, count: int) -> int:
    """Kills runs in a folder and prints the results. Returns 0 if there were no faults, else 1."""
    from data.dataset.tfrecords import read_records
    from pipeline.config.sections import COMPONENTS

    began = time.monotonic()
    killer = prepare(folder)
    took, _ = killer.finish("data.seed=0")
    print(f"an undisturbed run took {took:.0f} s", flush=True)
    done = {
        execution.component: execution.seconds for execution in killer.audit.look(finished=True).executions.values()
    }
    seconds = {name: done[name] for name in COMPONENTS}
    image = next(iter(read_records(next(killer.workspace.data.glob("*/test"))))).image
    server = start_server(killer, image)
    rounds: list[Round] = []
    while (missing := count - sum(len(round_.kills) for round_ in rounds)) > 0:
        rounds.append(kill_a_round(killer, seconds, len(rounds) + 1, missing, began))
        tell(killer.audit)
    killer.audit.again()
    versions = judge_server(*server, killer.audit)
    tell(killer.audit)
    report(rounds, versions, len(killer.audit.faults), time.monotonic() - began)
    return int(bool(killer.audit.faults))


def kill_few(folder: Path) -> int:
    """Kills the first runs in a folder at the moments that leave the most files behind."""
    from tests.faults.killing import ALL, dangerous

    killer = prepare(folder)
    for moment in dangerous():
        kill = killer.kill(moment, ALL)
        print(kill, flush=True)
        look(killer, kill, repair=False)
    return end(killer)


def fill_disks(folder: Path) -> int:
    """Fills the disk while each component works."""
    from pipeline.config.sections import COMPONENTS
    from tests.faults import disk

    disk.mount(folder / "workspace")
    killer = prepare(folder)
    for component in COMPONENTS:
        print(disk.fill_while(killer, component), flush=True)
    return end(killer)


def interrupt_all(folder: Path) -> int:
    """Stops runs with Ctrl-C while they draw the data, while they start, and in each component."""
    from pipeline.config.sections import COMPONENTS
    from tests.faults.killing import Moment, before_components

    killer = prepare(folder)
    in_components = [Moment("random", name, seconds=5.0 if name == "Trainer" else 0.5) for name in COMPONENTS]
    for moment in (*before_components(), *in_components):
        print(f"{moment.component or moment.pattern}: {killer.interrupt(moment)}", flush=True)
    return end(killer)


def end(killer: Killer) -> int:
    """Lets a run finish. Returns 0 if there were no faults, else 1."""
    took, _ = killer.finish()
    killer.audit.look(finished=True)
    if findings := killer.check():
        killer.audit.faults.append(f"lineage check finds {findings}")
    tell(killer.audit)
    print(f"then a run finished in {took:.0f} s; {len(killer.audit.faults) or 'no'} faults found")
    return int(bool(killer.audit.faults))


def prepare(folder: Path) -> Killer:
    """Returns a Killer for a workspace in a folder. Imports everything that a run needs, and starts no thread."""
    from pipeline.running import process  # noqa: F401  every run needs it
    from pipeline.workspace import Workspace
    from tests.faults import processes
    from tests.faults.killing import Killer
    from tests.project import SETTINGS

    processes.adopt_orphans()
    processes.remember_descriptors()
    config = folder / "run.toml"
    config.write_text(SETTINGS, "utf-8")
    return Killer(Workspace(folder / "workspace"), config, folder)


class Round:
    """The result of a round."""

    def __init__(self, kills: Sequence[Kill], seconds: float, repaired: int, size: int) -> None:
        """
        Args:
            kills: the kills of runs that had not ended before.
            seconds: the duration of the last run, which was not killed.
            repaired: number of executions that this run marked as cancelled, from its output.
            size: bytes of the workspace afterwards.
        """
        self.kills, self.seconds, self.repaired, self.size = kills, seconds, repaired, size


def kill_a_round(killer: Killer, seconds: dict[str, float], number: int, most: int, began: float) -> Round:
    """Kills runs on new data at every moment, then lets one finish."""
    from tests.faults.audit import size
    from tests.faults.killing import moments

    setting = f"data.seed={random.randrange(1, 1 << 31)}"
    kills: list[Kill] = []
    for moment in moments(seconds):
        if len(kills) == most:
            break
        (victim,) = random.choices(list(VICTIMS), list(VICTIMS.values())) if moment.trap is None else ["all"]
        kill = killer.kill(moment, victim, setting)
        print(f"{time.monotonic() - began:>6.0f} s  {number}.{len(kills) + 1:<3}{kill}", flush=True)
        if not kill.late:
            kills.append(kill)
        look(killer, kill, repair=random.random() < REPAIR_SHARE)
        tell(killer.audit)
    took, message = killer.finish(setting)
    if findings := killer.check():
        killer.audit.faults.append(f"after round {number} lineage check finds {findings}")
    killer.audit.look(finished=True)
    repaired = int(match[1]) if (match := _REPAIRED.search(message)) else 0
    print(f"{time.monotonic() - began:>6.0f} s  {number}: a run finished in {took:.0f} s", flush=True)
    return Round(kills, took, repaired, size(killer.workspace.home))


def look(killer: Killer, kill: Kill, repair: bool) -> None:
    """Checks the state that a kill left behind."""
    for finding in killer.check(repair):
        if finding["kind"] != "killed":
            killer.audit.faults.append(f"{kill}: lineage check finds {finding}")
    if repair and (findings := killer.check()):
        killer.audit.faults.append(f"{kill}: after --repair, lineage check finds {findings}")
    killer.audit.look(finished=False)


def start_server(killer: Killer, image: bytes) -> tuple[int, Path, Path]:
    """Starts the server. Returns its process id, the file of its events, and the file that stops it."""
    from tests.faults import audit, processes

    events, stop = killer.folder / "server.jsonl", killer.folder / "stop"
    pid = processes.fork(lambda: audit.serve(killer.workspace, image, events, stop))
    killer.kept.add(pid)
    return pid, events, stop


def judge_server(pid: int, events: Path, stop: Path, audit: Audit) -> int:
    """Stops the server, and adds its faults to the audit. Returns the number of versions that it served."""
    stop.touch()
    _, status = os.waitpid(pid, 0)
    if status:
        audit.faults.append(f"the server ended with status {os.waitstatus_to_exitcode(status)}")
    lines = [json.loads(line) for line in events.read_text("utf-8").splitlines()]
    audit.faults += [line["fault"] for line in lines if "fault" in line]
    digests = {line["version"]: line["digest"] for line in lines if "version" in line}
    for version, digest in digests.items():
        if audit.versions.get(version) != digest:
            audit.faults.append(f"version {version} was not yet whole when it appeared")
    if silent := set(digests) - {line["answered"] for line in lines if "answered" in line}:
        audit.faults.append(f"the versions {', '.join(sorted(silent))} never answered")
    return len(digests)


def tell(audit: Audit) -> None:
    """Prints the new faults."""
    for sentence in audit.faults[audit.printed :]:
        print(f"FAULT  {sentence}", flush=True)
    audit.printed = len(audit.faults)


def report(rounds: Sequence[Round], versions: int, faults: int, seconds: float) -> None:
    """Prints the tables at the end."""
    kills = [kill for round_ in rounds for kill in round_.kills]
    victims = {victim: Counter(kill.where for kill in kills if kill.victim == victim) for victim in VICTIMS}
    table = Table("killed in", *(f"of {victim}" for victim in VICTIMS), "left half done", box=None, pad_edge=False)
    for where in dict.fromkeys(kill.where for kill in sorted(kills, key=lambda kill: kill.late)):
        left = Counter(what for kill in kills if kill.where == where for what in kill.left)
        unfinished = ", ".join(f"{what} {times}" for what, times in left.items())
        table.add_row(where, *(str(victims[victim][where] or "") for victim in VICTIMS), unfinished)
    ends = Table("round", "kills", "then a run finished in", "it repaired", "workspace", box=None, pad_edge=False)
    for number, round_ in enumerate(rounds, 1):
        size = f"{round_.size / 1e6:.1f} MB"
        ends.add_row(str(number), str(len(round_.kills)), f"{round_.seconds:.0f} s", str(round_.repaired), size)
    console = Console(highlight=False)
    console.print(table)
    console.print(ends)
    console.print(
        f"{len(kills)} kills in {seconds / 60:.0f} minutes, {versions} versions served, {faults or 'no'} faults found"
    )


if __name__ == "__main__":
    sys.exit(main())
