"""Starts runs of a tiny pipeline and kills them at chosen moments."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.workspace import Workspace
from tests.faults import processes
from tests.faults.audit import Audit

# Additional settings: many checkpoints, so that kills happen between them.
KNOBS = ("training.epochs=8", "training.checkpoint_minutes=1e-6")
# A run that takes longer hangs, even on a busy machine.
HANGS_SECONDS = 900
# Time from the creation of a run's log to its first component, without imports.
STARTS_SECONDS = 2.0
ALL, COMMAND, PIPELINE = "all", "command", "pipeline"
DRAWING, STARTING = "drawing data", "starting"
_BEGUN = re.compile(r"^INFO:absl:Component (\w+) is running\.$")


@dataclass(frozen=True)
class Moment:
    """When a run is killed."""

    name: str
    component: str = ""  # wait until this component runs; "" for a moment before the first one
    pattern: str = ""  # then wait for a new file that matches this pattern in the workspace
    seconds: float = 0.0  # then wait for a random time up to this
    trap: processes.Trap | None = None  # instead of all of these


@dataclass(frozen=True)
class Kill:
    """The result of a kill."""

    moment: str
    victim: str  # ALL of the process group, the COMMAND's process, or the PIPELINE's
    where: str  # the running component, DRAWING or STARTING
    left: tuple[str, ...]  # kinds of unfinished outputs
    late: bool  # whether the run had ended before the kill


def moments(seconds: Mapping[str, float]) -> list[Moment]:
    """Returns the moments of a round, in the order in which they occur in a run.

    Args:
        seconds: how long each component takes.
    """
    names = list(seconds)
    all_moments = before_components()
    for name in names:
        if name == "Trainer":
            all_moments.append(Moment("writing a checkpoint", name, "checkpoints/*/checkpoint.npz.writing", 0.01))
            all_moments.append(Moment("after a checkpoint", name, "checkpoints/*/checkpoint.npz", 1.0))
        if name == "Pusher":
            all_moments += pushing()
        all_moments.append(Moment("random", name, seconds=seconds[name]))
    all_moments.append(Moment("writing metadata", random.choice(names), "metadata.sqlite-journal", 0.002))
    return sorted(all_moments, key=lambda moment: names.index(moment.component) if moment.component else -1)


def before_components() -> list[Moment]:
    """Returns the moments before the first component."""
    return [
        Moment("random", pattern="data/.*.partial", seconds=0.5),
        Moment("random", pattern="logs/*.log", seconds=STARTS_SECONDS),
    ]


def pushing() -> list[Moment]:
    """Returns the moments of a push, in order."""
    return [
        Moment("copying a version", "Pusher", trap=processes.Trap("copy", random.randint(1, 4))),
        Moment("before it is served", "Pusher", trap=processes.Trap("rename")),
        Moment("before it is recorded", "Pusher", trap=processes.Trap("rename", after=True)),
    ]


def dangerous() -> list[Moment]:
    """Returns the moments that leave the most files behind, also in a first run."""
    return [
        Moment("writing metadata", pattern="metadata.sqlite-journal", seconds=0.002),
        Moment("writing metadata", "StatisticsGen", "metadata.sqlite-journal", 0.002),
        Moment("writing a checkpoint", "Trainer", "checkpoints/*/checkpoint.npz.writing", 0.005),
        *pushing(),
    ]


class Log:
    """The log of the next run, which is read while the run writes it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._before = folder, set(folder.glob("*.log"))
        self._file: Path | None = None
        self._at = 0
        self._rest = b""
        self._begun: list[str] = []

    @property
    def running(self) -> str:
        """The component that started last, or DRAWING or STARTING before the first one."""
        self._read()
        return self._begun[-1] if self._begun else STARTING if self._file else DRAWING

    def begun(self, component: str) -> bool:
        """Returns whether a component has started."""
        self._read()
        return component in self._begun

    def _read(self) -> None:
        if self._file is None:
            self._file = next(iter(set(self._folder.glob("*.log")) - self._before), None)
        if self._file is None:
            return
        with self._file.open("rb") as file:
            file.seek(self._at)
            new = file.read()
        self._at += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            if match := _BEGUN.match(line.decode(errors="replace")):
                self._begun.append(match[1])


class Killer:
    """Starts runs in a workspace, and kills them or lets them finish.

    Args:
        workspace: the workspace of the runs.
        config: the configuration of the runs.
        folder: folder for their output.
    """

    def __init__(self, workspace: Workspace, config: Path, folder: Path) -> None:
        self.workspace, self.config, self.folder = workspace, config, folder
        self.audit = Audit(workspace)
        self.kept: set[int] = set()  # processes that must keep running
        self._commands = 0

    def finish(self, *settings: str) -> tuple[float, str]:
        """Runs `im2latex run` to its end. Returns its duration in seconds and its output.

        Raises:
            RuntimeError: the run failed.
        """
        began = time.monotonic()
        command = [sys.executable, "-m", "pipeline.cli", "run", *self.arguments(settings)]
        environment = {**os.environ, "IM2LATEX_HOME": str(self.workspace.home), "COLUMNS": "200"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=HANGS_SECONDS)
        if done.returncode:
            raise RuntimeError(f"a run did not finish, but ended with {done.returncode}: {done.stdout}{done.stderr}")
        return time.monotonic() - began, done.stdout

    def kill(self, moment: Moment, victim: str, *settings: str) -> Kill:
        """Starts a run and kills it.

        Raises:
            RuntimeError: the run neither reaches the moment nor ends.
        """
        log = Log(self.workspace.logs)
        command = self._start_until(moment, log, settings)
        ended = command.poll()
        late = ended is not None and (moment.trap is None or ended != -signal.SIGKILL)
        if ended is None:
            {ALL: command.kill, COMMAND: command.kill_command, PIPELINE: command.kill_pipeline}[victim]()
        status = command.wait()
        message = command.output.read_text("utf-8")
        if late and status not in (0, 3):
            self.audit.faults.append(f"{moment}: the run failed before the kill: {message}")
        of_pipeline = victim == PIPELINE and not late and status != -signal.SIGKILL
        if of_pipeline and (status != 1 or message.count("im2latex: ") != 1 or "Traceback" in message):
            self.audit.faults.append(
                f"{moment}: its pipeline process was killed, and the command ended with {status}: {message}"
            )
        if remaining := processes.remaining(self.kept):
            self.audit.faults.append(f"{moment}: {victim} was killed, still running: {'; '.join(remaining)}")
        return Kill(moment.name, victim, log.running, tuple(self._left()), late)

    def interrupt(self, moment: Moment) -> str:
        """Starts a run and stops it with Ctrl-C.

        Returns:
            The last line of its output.

        Raises:
            RuntimeError: as in `kill`.
        """
        command = self._start_until(moment, Log(self.workspace.logs), ())
        command.interrupt()
        status, message = command.wait(), command.output.read_text("utf-8")
        last = message.strip().rpartition("\n")[2]
        if status != 130 or not last.startswith("im2latex: stopped") or "Traceback" in message:
            self.audit.faults.append(f"Ctrl-C in {moment}: ended with {status}: {message}")
        if remaining := processes.remaining(self.kept):
            self.audit.faults.append(f"Ctrl-C in {moment}: still running: {'; '.join(remaining)}")
        return last

    def _start_until(self, moment: Moment, log: Log, settings: Sequence[str]) -> processes.Command:
        """Starts a run and waits for a moment, or for its end."""
        before = self._written(moment)
        command = self.start(["run", *self.arguments(settings)], moment.trap)
        deadline = time.monotonic() + HANGS_SECONDS
        while command.poll() is None and not self._has_come(moment, log, before):
            if time.monotonic() > deadline:
                command.kill()
                raise RuntimeError(f"a run hangs before {moment}; see {command.output}")
            time.sleep(0.001 if moment.pattern else 0.01)
        until = time.monotonic() + random.uniform(0, moment.seconds)
        while command.poll() is None and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.01))
        return command

    def check(self, repair: bool = False) -> list[dict]:
        """Returns the findings of `im2latex lineage check`."""
        command = self.start(["lineage", "check", "--json", *(["--repair"] if repair else [])])
        status, message = command.wait(), command.output.read_text("utf-8")
        if status == 1 and "there are no runs" in message:
            return []
        if status not in (0, 4):
            self.audit.faults.append(f"lineage check ended with {status}: {message}")
            return []
        return json.loads(message[message.index("{") :])["findings"]

    def start(self, arguments: list[str], trap: processes.Trap | None = None) -> processes.Command:
        """Starts an `im2latex` command in the workspace."""
        self._commands += 1
        return processes.Command(arguments, self.workspace.home, self.folder / f"output-{self._commands}.txt", trap)

    def arguments(self, settings: Sequence[str]) -> list[str]:
        """Returns the options of a run: the configuration, additional knobs, and --allow-full-disk for small disks."""
        return [
            "--allow-full-disk",
            "--config",
            str(self.config),
            *(part for one in (*KNOBS, *settings) for part in ("--set", one)),
        ]

    def _written(self, moment: Moment) -> set[tuple[Path, int]]:
        """Returns the files that match the pattern of a moment, with their modification times."""
        files = set()
        for path in self.workspace.home.glob(moment.pattern) if moment.pattern else ():
            with contextlib.suppress(FileNotFoundError):
                files.add((path, path.stat().st_mtime_ns))
        return files

    def _has_come(self, moment: Moment, log: Log, before: set[tuple[Path, int]]) -> bool:
        if moment.trap:
            return False
        if moment.component and not log.begun(moment.component):
            return False
        return not moment.pattern or bool(self._written(moment) - before)

    def _left(self) -> Iterator[str]:
        half_done = {
            "data": "data/.*.partial",
            "checkpoint": "checkpoints/*/*.writing",
            "version": "serving/*/*.partial",
            "transaction": "metadata.sqlite-journal",
        }
        for name, pattern in half_done.items():
            if any(self.workspace.home.glob(pattern)):
                yield name
