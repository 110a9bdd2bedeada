"""Runs `im2latex` commands in forks of a process that has imported TFX, so that they start faster.

After its imports, a command does the same as usual: it starts the pipeline's process. The children of a killed process
become children of this one, which checks that they end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
# Maximum time in which a killed process and its children end.
GONE_SECONDS = 20


def adopt_orphans() -> None:
    """Makes this process the parent of the children of killed processes."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


@dataclass(frozen=True)
class Trap:
    """A call in a push at which a run kills itself and its children; it is too short to be hit from outside."""

    function: str  # of tfx.dsl.io.fileio: "copy" or "rename"
    calls: int = 1  # number of the call; a push with fewer calls is not killed
    after: bool = False  # kill after the call instead of before it


class Command:
    """An `im2latex` command in its own process group.

    Args:
        arguments: arguments of the command.
        home: the workspace.
        output: file for the output.
        trap: where the command kills itself.
    """

    def __init__(self, arguments: list[str], home: Path, output: Path, trap: Trap | None = None) -> None:
        self.output = output
        self.status: int | None = None
        self.pid = fork(lambda: _run_command(arguments, home, output, trap))

    def poll(self) -> int | None:
        """Returns the exit status, or the negative signal that killed it; None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def wait(self) -> int:
        """Waits for its end, and returns its exit status."""
        while (status := self.poll()) is None:
            time.sleep(0.02)
        return status

    def kill(self) -> None:
        """Kills the command and its children, like `kill -9`."""
        os.killpg(self.pid, signal.SIGKILL)

    def interrupt(self) -> None:
        """Sends the signal of Ctrl-C in a terminal."""
        os.killpg(self.pid, signal.SIGINT)

    def kill_command(self) -> None:
        """Kills only the process of the command, not its children."""
        os.kill(self.pid, signal.SIGKILL)

    def kill_pipeline(self) -> None:
        """Kills only the pipeline's process, as the kernel does if memory runs out; the command if there is none."""
        running = [child for child in children(self.pid) if b"pipeline.running.process" in _arguments(child)]
        os.kill(running[0] if running else self.pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Returns the running children of a process."""
    try:
        pids = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [child for child in pids if _state(child) not in ("Z", "")]
    except FileNotFoundError:
        return []


def _arguments(pid: int) -> bytes:
    """Returns the command line of a running process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def remaining(known: set[int]) -> list[str]:
    """Waits for the processes of killed commands to end, then kills the others and returns their command lines.

    Args:
        known: children of this process that must keep running.
    """
    deadline = time.monotonic() + GONE_SECONDS
    while left := [pid for pid in children(os.getpid()) if pid not in known]:
        if time.monotonic() > deadline:
            names = [_arguments(pid).replace(b"\0", b" ").decode() for pid in left]
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return names
        time.sleep(0.02)
    _reap(known)
    return []


def _reap(known: set[int]) -> None:
    for child in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        if int(child) not in known and _state(int(child)) == "Z":
            os.waitpid(int(child), 0)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def fork(run: Callable[[], int]) -> int:
    """Runs a function in a child process, which exits with the returned status. Returns the process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        status = run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run_command(arguments: list[str], home: Path, output: Path, trap: Trap | None) -> int:
    from pipeline import cli

    if trap is not None:
        _set(trap)

    os.setsid()
    _redirect(output)
    os.environ["IM2LATEX_HOME"] = str(home)
    sys.argv = ["im2latex", *arguments]
    # Runs start the pipeline's process with subprocess.Popen.
    subprocess.Popen = _Pipeline  # type: ignore[assignment,misc]
    cli.main()
    return 0


def _set(trap: Trap) -> None:
    """Sets a trap in this process and its forks."""
    from tfx.dsl.io import fileio

    function, calls = getattr(fileio, trap.function), 0

    def trapped(*paths: str, **options: Any) -> None:
        nonlocal calls
        # Both functions take a source and a destination; in a push, one of them has this suffix.
        calls += any(".partial" in path for path in paths)
        if calls == trap.calls and not trap.after:
            os.killpg(0, signal.SIGKILL)
        function(*paths, **options)
        if calls == trap.calls and trap.after:
            os.killpg(0, signal.SIGKILL)

    setattr(fileio, trap.function, trapped)


def _redirect(output: Path) -> None:
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, descriptor in ((nothing, 0), (target, 1), (target, 2)):
        os.dup2(source, descriptor)
    os.close(target)
    os.close(nothing)


class _Pipeline(subprocess.Popen):
    """`subprocess.Popen` that starts the pipeline's process with a fork."""

    def __init__(self, command: Any, **options: Any) -> None:
        if "pipeline.running.process" not in command:
            super().__init__(command, **options)
            return
        arguments = command[command.index("pipeline.running.process") + 1 :]
        read_output, write_output = os.pipe()
        self.args, self.returncode = command, None
        self.stdin, self.stderr, self.stdout = None, None, os.fdopen(read_output, "rb", buffering=0)
        self._child_created, self._waitpid_lock = True, threading.Lock()
        self._communication_started, self._input = False, None
        kept = {0, 1, 2, write_output, options["stderr"].fileno(), *options["pass_fds"]}
        self.pid = fork(lambda: _run_pipeline(arguments, kept, write_output, options))
        os.close(write_output)


def _run_pipeline(arguments: list[str], kept: set[int], output: int, options: dict[str, Any]) -> int:
    from pipeline.running import process

    for descriptor in _opened_by_the_command():
        if descriptor not in kept:
            os.close(descriptor)
    os.dup2(output, 1)
    os.dup2(options["stderr"].fileno(), 2)
    sys.stdout.reconfigure(line_buffering=False, write_through=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(options["env"])
    tempfile.tempdir = None
    sys.argv = ["process", *arguments]
    subprocess.Popen = _Pipeline.__base__  # type: ignore[assignment,misc]
    return process.main()


_FIRST: set[str] = set()


def remember_descriptors() -> None:
    """Stores the file descriptors that are open before the first command."""
    _FIRST.update(os.listdir("/proc/self/fd"))


def _opened_by_the_command() -> list[int]:
    names = [name for name in os.listdir("/proc/self/fd") if name not in _FIRST]
    return [int(name) for name in names if os.path.exists(f"/proc/self/fd/{name}")]
