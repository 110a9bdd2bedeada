"""A temporary MariaDB server on this machine, for tests with metadata in a database."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

# Of a path, a URL and a shell nothing in it is safe.
PASSWORD = "p@ss/w:rd '#1%41"
START_SECONDS = 60
# Debian keeps the server where only root's path leads.
PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
INSTALLED = shutil.which("mariadbd", path=PLACES) is not None
MISSING = "not installed: mariadbd (Debian's mariadb-server)"


class Server(NamedTuple):
    """A MariaDB in which the user `writer` with PASSWORD can use the database `lineage`."""

    port: int

    def address(self, database: str = "lineage") -> str:
        return f"mysql://writer@127.0.0.1:{self.port}/{database}"


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Starts the server, with all its files in an empty folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quoted = PASSWORD.replace("'", "''")
    users = [f"'writer'@'{host}'" for host in ("localhost", "127.0.0.1")]
    statements = [f"CREATE USER {user} IDENTIFIED BY '{quoted}';" for user in users]
    statements += [f"GRANT ALL ON lineage.* TO {user};" for user in users]
    (folder / "users.sql").write_text("\n".join(statements) + "\n", "utf-8")
    common = ["--no-defaults", f"--datadir={folder / 'data'}", *(["--user=root"] if os.getuid() == 0 else [])]
    install = str(shutil.which("mariadb-install-db", path=PLACES))
    subprocess.run([install, *common, "--auth-root-authentication-method=normal"], check=True, capture_output=True)
    command = [
        str(shutil.which("mariadbd", path=PLACES)), *common, f"--port={port}", "--bind-address=127.0.0.1",
        # In the data folder; a whole path may be longer than a socket's may be.
        "--socket=socket", f"--pid-file={folder / 'pid'}",
        f"--init-file={folder / 'users.sql'}", "--skip-log-bin",
    ]  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait(process, folder / "server.log")
        yield Server(port)
    finally:
        process.terminate()
        process.wait(60)


def _wait(process: subprocess.Popen, log: Path) -> None:
    """Waits until the server reports that it is ready, which is after its users are created."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if b"ready for connections" in log.read_bytes():
            return
        time.sleep(0.1)
    raise AssertionError(f"MariaDB did not start: {log.read_text('utf-8', errors='replace')[-2000:]}")
