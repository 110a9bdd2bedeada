"""A Flink cluster on loopback: a job manager and two task managers, each a process of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam

# Of the versions for which both stacks' Beams publish a job server, the newest.
VERSION = "1.20.5"
LINE = VERSION.rpartition(".")[0]
JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
# Flink reads and copies private fields of these packages, which Java has closed since version 16.
OPENED = (
    "java.base/java.lang", "java.base/java.lang.invoke", "java.base/java.lang.reflect", "java.base/java.io",
    "java.base/java.net", "java.base/java.nio", "java.base/java.text", "java.base/java.time", "java.base/java.util",
    "java.base/java.util.concurrent", "java.base/java.util.concurrent.atomic", "java.base/java.util.concurrent.locks",
)  # fmt: skip
# What Flink's scripts work out from the machine's memory; the entry class wants all of it said.
MEMORY = {
    "taskmanager.cpu.cores": "2.0",
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.task.heap.size": "384m",
    "taskmanager.memory.task.off-heap.size": "0m",
    "taskmanager.memory.managed.size": "128m",
    "taskmanager.memory.network.min": "64m",
    "taskmanager.memory.network.max": "64m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "128m",
    "taskmanager.memory.jvm-overhead.max": "128m",
}


class NotToBeHad(Exception):
    """What the cluster is made of is not on this machine and cannot be fetched; one sentence says what."""


def job_server_jar(cache: Path) -> Path:
    """Beam's job server for this Flink, of the version of the installed Beam, from the Maven index into the cache.

    Raises:
        NotToBeHad: Java or Maven is missing, or the index has no such jar.
    """
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise NotToBeHad(f"{program} is missing (on Debian and Ubuntu: apt-get install openjdk-17-jre maven)")
    name = f"beam-runners-flink-{LINE}-job-server"
    jar = cache / f"{name}-{apache_beam.__version__}.jar"
    if not jar.exists():
        cache.mkdir(parents=True, exist_ok=True)
        artifact = f"org.apache.beam:{name}:{apache_beam.__version__}"
        command = ["mvn", "-B", "-q", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={cache}"]
        subprocess.run(command, cwd=cache, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        if not jar.exists():
            raise NotToBeHad(f"the index that Maven reaches, if it reaches one, has no {artifact}")
    return jar


def libraries(cache: Path) -> Path:
    """The folder of Flink's jars, from the package index into the cache.

    Raises:
        NotToBeHad: the index has no such package.
    """
    folder = cache / f"flink-{VERSION}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        package = f"apache-flink-libraries=={VERSION}"
        fetched = subprocess.run([*command, "--dest", str(cache), package], capture_output=True, text=True)
        archives = list(cache.glob(f"apache?flink?libraries-{VERSION}.tar.gz"))
        if not archives:
            raise NotToBeHad(f"pip does not bring {package}: {fetched.stderr.strip()[-300:]}")
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        with tarfile.open(archives[0]) as archive:
            for member in archive:
                # The Table API's jars, half of it all, are of no use to Beam.
                name = Path(member.name).name
                if "/deps/lib/" in member.name and name.startswith(("flink-dist", "log4j")):
                    source = archive.extractfile(member)
                    assert source is not None
                    with source, (partial / name).open("wb") as jar:
                        shutil.copyfileobj(source, jar)
        partial.rename(folder)
        archives[0].unlink()
    return folder


class Cluster:
    """A running cluster; `cluster` starts and stops one."""

    def __init__(self, folder: Path, jars: Path) -> None:
        self._folder = folder
        self._jars = jars
        self._port, rpc = _free_ports(2)
        self._processes: dict[str, subprocess.Popen] = {}
        settings = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": rpc,
            "jobmanager.bind-host": "127.0.0.1",
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": self._port,
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            # Each can do all of it, should it be left alone.
            "taskmanager.numberOfTaskSlots": 2,
            "taskmanager.network.memory.buffers-per-channel": 2,
            # A lost task manager is noticed in seconds, not in most of a minute.
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 8000,
            "io.tmp.dirs": folder / "tmp",
            **MEMORY,
        }
        (folder / "tmp").mkdir(parents=True)
        (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
        (folder / "log4j2.properties").write_text(
            "rootLogger.level = INFO\nrootLogger.appenderRef.out.ref = out\n"
            "appender.out.type = Console\nappender.out.name = out\nappender.out.layout.type = PatternLayout\n"
            "appender.out.layout.pattern = %d{HH:mm:ss} %-5p %c{1} %m%n\n"
        )

    @property
    def page(self) -> str:
        """Address of Flink's page, which is what jobs are sent to as well."""
        return f"http://127.0.0.1:{self._port}"

    def start(self, name: str, entry: str, memory: str, *arguments: str) -> None:
        """Starts a process of the cluster."""
        opened = [f"--add-opens={package}=ALL-UNNAMED" for package in OPENED]
        log4j = f"-Dlog4j2.configurationFile={self._folder / 'log4j2.properties'}"
        command = ["java", f"-Xmx{memory}", log4j, *opened, "-cp", f"{self._jars}/*", entry]
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [*command, "--configDir", str(self._folder), *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def start_task_manager(self, name: str) -> None:
        """Starts a task manager that goes by this name."""
        self.start(name, TASK_MANAGER, "512m", f"-Dtaskmanager.resource-id={name}")

    def kill(self, name: str) -> None:
        """kill -9."""
        self._processes[name].kill()
        self._processes[name].wait()

    def close(self) -> None:
        """Ends every process."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def ask(self, path: str) -> Any:
        """The answer of Flink's REST API."""
        with urllib.request.urlopen(f"{self.page}{path}", timeout=10) as answer:
            return json.load(answer)

    def task_managers(self) -> set[str]:
        """Names of the task managers that the job manager knows."""
        return {manager["id"] for manager in self.ask("/taskmanagers")["taskmanagers"]}

    def wait_for(self, names: set[str], seconds: float = 60) -> None:
        """Until the job manager knows just these task managers."""
        deadline = time.monotonic() + seconds
        known: set[str] = set()
        while known != names:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the cluster has the task managers {sorted(known)} (logs: {self._folder})")
            time.sleep(0.3)
            with contextlib.suppress(OSError):  # not answering yet
                known = self.task_managers()

    def wait_for_task(self, seconds: float) -> tuple[str, str]:
        """Until a task runs: its job and the name of its task manager."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for job in self.ask("/jobs")["jobs"]:
                for vertex in self.ask(f"/jobs/{job['id']}")["vertices"] if job["status"] == "RUNNING" else ():
                    for task in self.ask(f"/jobs/{job['id']}/vertices/{vertex['id']}")["subtasks"]:
                        if task["status"] == "RUNNING":
                            return job["id"], task["taskmanager-id"]
            time.sleep(0.05)
        raise TimeoutError(f"no task runs (logs: {self._folder})")

    def failures(self, job: str) -> list[dict]:
        """What went wrong in a job, whether it was started again or not."""
        return self.ask(f"/jobs/{job}/exceptions")["exceptionHistory"]["entries"]


@contextlib.contextmanager
def cluster(folder: Path, jars: Path) -> Iterator[Cluster]:
    """A job manager and the task managers `one` and `two`, ready for jobs."""
    made = Cluster(folder, jars)
    try:
        made.start("job-manager", JOB_MANAGER, "512m")
        for name in ("one", "two"):
            made.start_task_manager(name)
        made.wait_for({"one", "two"})
        yield made
    finally:
        made.close()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]
