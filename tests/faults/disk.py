"""Fills the disk while each component works: the run ends with one sentence, and the next run continues."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.faults import processes
from tests.faults.killing import HANGS_SECONDS, Killer, Log

SIZE = 64 << 20
# Maximum number of bytes that a component can still write.
ROOM = 64 << 10
IN_NAMESPACE = "IM2LATEX_FAULTS_NAMESPACE"
_SENTENCE = re.compile(r"^im2latex: .*no space is left .*$", re.MULTILINE)


@dataclass(frozen=True)
class Full:
    """The result of a run whose disk was full."""

    component: str  # the component that was running
    room: int  # bytes that were left
    status: int
    message: str  # the last line of the output


def enter_namespace() -> None:
    """Restarts this command in its own mount namespace; does nothing if it runs in one already.

    Raises:
        SystemExit: the command does not run as root.
    """
    if os.environ.get(IN_NAMESPACE):
        return
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        sys.exit("this mounts a small disk in its own namespace, so it has to run as root")
    os.environ[IN_NAMESPACE] = "1"
    os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.orig_argv[1:]])


def mount(folder: Path) -> None:
    """Mounts a small file system in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], check=True)


def _fill(ballast: Path, room: int) -> None:
    """Fills the disk with a file, except for `room` bytes."""
    with ballast.open("wb") as file:
        while (free := shutil.disk_usage(ballast.parent).free) > room:
            with contextlib.suppress(OSError):  # the run has used the space in the meantime
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, free - room)


def fill_while(killer: Killer, component: str, *settings: str) -> Full:
    """Starts a run, and fills its disk when a component starts, except for a few bytes; frees the disk afterwards."""
    log = Log(killer.workspace.logs)
    command = killer.start(["run", *killer.arguments(settings)])
    deadline = time.monotonic() + HANGS_SECONDS
    while command.poll() is None and not log.begun(component):
        if time.monotonic() > deadline:
            command.kill()
            raise RuntimeError(f"a run whose disk was to be filled in {component} hangs; see {command.output}")
        time.sleep(0.005)
    ballast, room = killer.workspace.home / "ballast", random.randrange(ROOM)
    _fill(ballast, room)
    status = command.wait()
    ballast.unlink()
    if remaining := processes.remaining(killer.kept):
        killer.audit.faults.append(f"a full disk in {component}: still running: {'; '.join(remaining)}")
    message = command.output.read_text("utf-8")
    if status not in (0, 1) or "Traceback" in message or status == 1 and len(_SENTENCE.findall(message)) != 1:
        killer.audit.faults.append(f"a full disk in {component}, of {room:,} bytes, ended with {status}: {message}")
    return Full(component, room, status, message.strip().rpartition("\n")[2])
