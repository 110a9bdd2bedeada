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

# Beside the settings of all small pipelines: checkpoints to be killed between.
KNOBS = ("training.epochs=8", "training.checkpoint_minutes=1e-6")
# A run that takes so long hangs, on a busy machine too.
HANGS_SECONDS = 900
# From a run's log to its first component, where nothing has to be imported.
STARTS_SECONDS = 2.0
ALL, COMMAND, PIPELINE = "all", "command", "pipeline"
DRAWING, STARTING = "drawing data", "starting"
_BEGUN = re.compile(r"^INFO:absl:Component (\w+) is running\.$")


@dataclass(frozen=True)
class Moment:
    """When a run is killed."""

    name: str
    component: str = ""  # not before this component is running; "" for before the first
    pattern: str = ""  # and not before it has written what this matches in the workspace
    seconds: float = 0.0  # and up to so long after that
    trap: processes.Trap | None = None  # in place of all of these


@dataclass(frozen=True)
class Kill:
    """What came of it."""

    moment: str
    victim: str  # ALL of the process group, the COMMAND's process, or the PIPELINE's
    where: str  # the component that was running, or what comes before the first
    left: tuple[str, ...]  # what was half done
    late: bool  # the run had ended before


def moments(seconds: Mapping[str, float]) -> list[Moment]:
    """The moments of a round, in the order in which a run comes to them.

    Args:
        seconds: how long each component takes.
    """
    names = list(seconds)
    found = before_components()
    for name in names:
        if name == "Trainer":
            found.append(Moment("writing a checkpoint", name, "checkpoints/*/checkpoint.npz.writing", 0.01))
            found.append(Moment("behind a checkpoint", name, "checkpoints/*/checkpoint.npz", 1.0))
        if name == "Pusher":
            found += pushing()
        found.append(Moment("random", name, seconds=seconds[name]))
    found.append(Moment("writing metadata", random.choice(names), "metadata.sqlite-journal", 0.002))
    return sorted(found, key=lambda moment: names.index(moment.component) if moment.component else -1)


def before_components() -> list[Moment]:
    """The moments before the first component."""
    return [
        Moment("random", pattern="data/.*.partial", seconds=0.5),
        Moment("random", pattern="logs/*.log", seconds=STARTS_SECONDS),
    ]


def pushing() -> list[Moment]:
    """The moments of a push, in their order."""
    return [
        Moment("copying a version", "Pusher", trap=processes.Trap("copy", random.randint(1, 4))),
        Moment("before it is served", "Pusher", trap=processes.Trap("rename")),
        Moment("before it is recorded", "Pusher", trap=processes.Trap("rename", after=True)),
    ]


def dangerous() -> list[Moment]:
    """The moments that leave most behind, of a first run too."""
    return [
        Moment("writing metadata", pattern="metadata.sqlite-journal", seconds=0.002),
        Moment("writing metadata", "StatisticsGen", "metadata.sqlite-journal", 0.002),
        Moment("writing a checkpoint", "Trainer", "checkpoints/*/checkpoint.npz.writing", 0.005),
        *pushing(),
    ]


class Log:
    """The log of the run that is started next, read while it is written."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._before = folder, set(folder.glob("*.log"))
        self._file: Path | None = None
        self._at = 0
        self._rest = b""
        self._begun: list[str] = []

    @property
    def running(self) -> str:
        """The component that was begun last, or what comes before the first."""
        self._read()
        return self._begun[-1] if self._begun else STARTING if self._file else DRAWING

    def begun(self, component: str) -> bool:
        """Whether a component was begun."""
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
        workspace: where they run.
        config: their configuration.
        folder: for what they print.
    """

    def __init__(self, workspace: Workspace, config: Path, folder: Path) -> None:
        self.workspace, self.config, self.folder = workspace, config, folder
        self.audit = Audit(workspace)
        self.kept: set[int] = set()  # processes that go on
        self._commands = 0

    def finish(self, *settings: str) -> tuple[float, str]:
        """`im2latex run` as a person starts it; the seconds it took and what it printed.

        Raises:
            RuntimeError: it did not finish.
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
            RuntimeError: the moment does not come, and the run does not end.
        """
        log = Log(self.workspace.logs)
        command = self._start_until(moment, log, settings)
        ended = command.poll()
        late = ended is not None and (moment.trap is None or ended != -signal.SIGKILL)
        if ended is None:
            {ALL: command.kill, COMMAND: command.kill_command, PIPELINE: command.kill_pipeline}[victim]()
        status = command.wait()
        said = command.output.read_text("utf-8")
        if late and status not in (0, 3):
            self.audit.faults.append(f"{moment}: a run failed by itself: {said}")
        of_pipeline = victim == PIPELINE and not late and status != -signal.SIGKILL
        if of_pipeline and (status != 1 or said.count("im2latex: ") != 1 or "Traceback" in said):
            self.audit.faults.append(f"{moment}: killed below it, the command ended with {status}: {said}")
        if remaining := processes.remaining(self.kept):
            self.audit.faults.append(f"{moment}: {victim} was killed, and there went on: {'; '.join(remaining)}")
        return Kill(moment.name, victim, log.running, tuple(self._left()), late)

    def interrupt(self, moment: Moment) -> str:
        """Starts a run and stops it as a person does by Ctrl-C.

        Returns:
            What it said at last.

        Raises:
            RuntimeError: as in `kill`.
        """
        command = self._start_until(moment, Log(self.workspace.logs), ())
        command.interrupt()
        status, said = command.wait(), command.output.read_text("utf-8")
        last = said.strip().rpartition("\n")[2]
        if status != 130 or not last.startswith("im2latex: stopped") or "Traceback" in said:
            self.audit.faults.append(f"Ctrl-C in {moment}: ended with {status}: {said}")
        if remaining := processes.remaining(self.kept):
            self.audit.faults.append(f"Ctrl-C in {moment}: there went on: {'; '.join(remaining)}")
        return last

    def _start_until(self, moment: Moment, log: Log, settings: Sequence[str]) -> processes.Command:
        """Starts a run and waits for a moment, or for its end."""
        before = self._written(moment)
        command = self.start(["run", *self.arguments(settings)], moment.trap)
        deadline = time.monotonic() + HANGS_SECONDS
        while command.poll() is None and not self._has_come(moment, log, before):
            if time.monotonic() > deadline:
                command.kill()
                raise RuntimeError(f"a run that was to come to {moment} hangs; see {command.output}")
            time.sleep(0.001 if moment.pattern else 0.01)
        until = time.monotonic() + random.uniform(0, moment.seconds)
        while command.poll() is None and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.01))
        return command

    def check(self, repair: bool = False) -> list[dict]:
        """What `im2latex lineage check` finds."""
        command = self.start(["lineage", "check", "--json", *(["--repair"] if repair else [])])
        status, said = command.wait(), command.output.read_text("utf-8")
        if status == 1 and "there are no runs" in said:
            return []
        if status not in (0, 4):
            self.audit.faults.append(f"lineage check ended with {status}: {said}")
            return []
        return json.loads(said[said.index("{") :])["findings"]

    def start(self, arguments: list[str], trap: processes.Trap | None = None) -> processes.Command:
        """Starts an `im2latex` command in the workspace."""
        self._commands += 1
        return processes.Command(arguments, self.workspace.home, self.folder / f"output-{self._commands}.txt", trap)

    def arguments(self, settings: Sequence[str]) -> list[str]:
        """The configuration, and knobs beside it; the disk may be a small one."""
        return [
            "--allow-full-disk",
            "--config",
            str(self.config),
            *(part for one in (*KNOBS, *settings) for part in ("--set", one)),
        ]

    def _written(self, moment: Moment) -> set[tuple[Path, int]]:
        """What a moment waits for, with the times of the last changes."""
        found = set()
        for path in self.workspace.home.glob(moment.pattern) if moment.pattern else ():
            with contextlib.suppress(FileNotFoundError):
                found.add((path, path.stat().st_mtime_ns))
        return found

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
