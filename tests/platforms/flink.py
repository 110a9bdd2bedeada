"""Flink clusters on loopback: a job manager and one or two task managers, each a process of its own.

Task managers number their workers alike, and Beam's worker pool identifies a worker by that number, so each task
manager needs a pool of its own. All find their pool at the same address, because Beam passes on only one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.platforms.beam_runs import wait_for_server, with_python

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "im2latex" / "flink"
# Of the versions for which both stacks' Beams publish a job server, one.
VERSION = "1.19.3"
LINE = VERSION.rpartition(".")[0]
BEAM_VERSION = "2.62.0"
JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>im2latex</groupId>
  <artifactId>job-server</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.beam</groupId>
      <artifactId>beam-runners-flink-{LINE}</artifactId>
      <version>{BEAM_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""
JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
POOL = "worker-pool.test"
TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
# Flink reads and copies private fields of these packages, which Java has closed since version 16.
OPENED = (
    "java.base/java.lang", "java.base/java.lang.invoke", "java.base/java.lang.reflect", "java.base/java.io",
    "java.base/java.net", "java.base/java.nio", "java.base/java.text", "java.base/java.time", "java.base/java.util",
    "java.base/java.util.concurrent", "java.base/java.util.concurrent.atomic", "java.base/java.util.concurrent.locks",
)  # fmt: skip
# Values that Flink's scripts compute from the machine's memory; the entry class needs all of them.
MEMORY = {
    "taskmanager.cpu.cores": "2.0",
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.task.heap.size": "384m",
    "taskmanager.memory.task.off-heap.size": "0m",
    "taskmanager.memory.managed.size": "128m",
    "taskmanager.memory.network.min": "128m",
    "taskmanager.memory.network.max": "128m",
    "taskmanager.memory.jvm-metaspace.size": "512m",
    "taskmanager.memory.jvm-overhead.min": "128m",
    "taskmanager.memory.jvm-overhead.max": "128m",
}


class NotToBeHad(Exception):
    """A part of the cluster is missing and cannot be downloaded; the message names it."""


def job_server_jar(cache: Path) -> Path:
    """Beam's job server for this Flink, from the Maven index into the cache.

    Beam also publishes it with all that it needs in one jar, which not every index has; these are the same classes in
    the jars of each project, and one beside them that names them.

    Raises:
        NotToBeHad: Java or Maven is missing, or the index lacks a jar.
    """
    if shutil.which("java") is None:
        raise NotToBeHad("java is missing (on Debian and Ubuntu: apt-get install default-jre-headless)")
    folder = cache / f"beam-runners-flink-{LINE}-{BEAM_VERSION}"
    jar = folder / "job-server.jar"
    if not folder.exists():
        if shutil.which("mvn") is None:
            raise NotToBeHad("mvn is missing (on Debian and Ubuntu: apt-get install maven)")
        with _whole_or_not_at_all(folder) as partial:
            (partial / "pom.xml").write_text(POM, encoding="utf-8")
            command = ["mvn", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=."]
            fetched = subprocess.run(command, cwd=partial, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if fetched.returncode:
                errors = [line for line in fetched.stdout.splitlines() if line.startswith("[ERROR]")]
                raise NotToBeHad(f"Maven does not bring Beam's runner: {errors[0] if errors else fetched.stderr}")
            _name_jars(sorted(path.name for path in partial.glob("*.jar")), partial / jar.name)
    return jar


def _name_jars(names: list[str], jar: Path) -> None:
    """Writes a jar that starts the job server from these jars beside it."""
    # A line of a manifest has at most 72 bytes without the line break; a space continues it on the next line.
    text = " ".join(["Class-Path:", *names])
    lines = [text[:72], *(f" {text[at : at + 71]}" for at in range(72, len(text), 71))]
    with zipfile.ZipFile(jar, "w") as archive:
        manifest = "\n".join(["Manifest-Version: 1.0", f"Main-Class: {JOB_SERVER}", *lines])
        archive.writestr("META-INF/MANIFEST.MF", f"{manifest}\n")


@contextlib.contextmanager
def _whole_or_not_at_all(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder to fill, which gets its name when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial)
        raise


def libraries(cache: Path) -> Path:
    """Downloads Flink's jars from the package index into the cache. Returns their folder.

    Raises:
        NotToBeHad: the index has no such package.
    """
    folder = cache / f"flink-{VERSION}"
    if not folder.exists():
        package = f"apache-flink-libraries=={VERSION}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        with _whole_or_not_at_all(folder) as partial:
            fetched = subprocess.run([*command, "--dest", str(partial), package], capture_output=True, text=True)
            if fetched.returncode:
                raise NotToBeHad(f"pip does not bring {package}: {fetched.stderr.strip()[-300:]}")
            (package_file,) = partial.iterdir()
            with tarfile.open(package_file) as archive:
                for member in archive:
                    # The Table API's jars, half of it all, are of no use to Beam.
                    name = Path(member.name).name
                    if "/deps/lib/" in member.name and name.startswith(("flink-dist", "log4j")):
                        source = archive.extractfile(member)
                        assert source is not None
                        with source, (partial / name).open("wb") as jar:
                            shutil.copyfileobj(source, jar)
            package_file.unlink()
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
            # By default every branch of a pipeline takes 512 buffers of 32 KiB, and there are dozens of branches.
            "taskmanager.network.sort-shuffle.min-buffers": 64,
            # With the default of 10 s, a slow machine misses answers when it starts the tasks of a large pipeline.
            "pekko.ask.timeout": "120 s",
            # A task manager that is gone is noticed in seconds; one that is slow has the usual 50.
            "heartbeat.interval": 1000,
            # Beam passes on no wish of a job's own for being started again.
            "restart-strategy.type": "exponential-delay",
            "restart-strategy.exponential-delay.attempts-before-reset-backoff": 5,
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
        """Address of Flink's web page and of its REST API."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def settings(self) -> list[str]:
        """Settings of a run on this cluster, with two tasks at a time."""
        jar = job_server_jar(CACHE)
        return ["beam.runner=flink", f"beam.flink_master={self.page}", f"beam.job_server_jar={jar}", "beam.workers=2"]

    def start(self, name: str, entry: str, memory: str, *arguments: str, options: tuple[str, ...] = ()) -> None:
        """Starts a Java process of the cluster."""
        opened = [f"--add-opens={package}=ALL-UNNAMED" for package in OPENED]
        log4j = f"-Dlog4j2.configurationFile={self._folder / 'log4j2.properties'}"
        # A process that runs for a minute does not benefit from the optimising compiler.
        java = ["java", f"-Xmx{memory}", "-XX:TieredStopAtLevel=1", log4j, *opened, *options]
        self._start(name, [*java, "-cp", f"{self._jars}/*", entry, "--configDir", str(self._folder), *arguments])

    def start_task_manager(self, name: str, slots: int = 2, hosts: Mapping[str, str] | None = None) -> None:
        """Starts a task manager.

        Args:
          name: its name in Flink.
          slots: number of tasks at a time.
          hosts: addresses by host name, if it is to have others than this machine.
        """
        options: tuple[str, ...] = ()
        if hosts is not None:
            file = self._folder / f"{name}.hosts"
            file.write_text("".join(f"{address} {host}\n" for host, address in hosts.items()), encoding="utf-8")
            options = (f"-Djdk.net.hosts.file={file}",)
        settings = [f"-Dtaskmanager.resource-id={name}", f"-Dtaskmanager.numberOfTaskSlots={slots}"]
        self.start(name, TASK_MANAGER, "512m", *settings, options=options)

    def start_worker_pool(self, name: str, host: str, port: int) -> None:
        """Starts a pool of Python workers, which write into its log."""
        self._start(name, [sys.executable, "-m", "tests.platforms.worker_pool", f"{host}:{port}"])
        wait_for_server(self._processes[name], host, port)

    def _start(self, name: str, command: list[str]) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=with_python(),
                start_new_session=True,
            )  # fmt: skip

    def log(self, name: str) -> str:
        """Returns the log of a process."""
        return (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def kill(self, name: str) -> None:
        """kill -9."""
        self._processes[name].kill()
        self._processes[name].wait()

    def close(self) -> None:
        """Stops all processes, also those that they have started."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes.values():
            process.wait()

    def ask(self, path: str) -> Any:
        """The answer of Flink's REST API."""
        with urllib.request.urlopen(f"{self.page}{path}", timeout=10) as answer:
            return json.load(answer)

    def task_managers(self) -> set[str]:
        """Names of the task managers that the job manager knows."""
        return {manager["id"] for manager in self.ask("/taskmanagers")["taskmanagers"]}

    def wait_for(self, names: set[str], seconds: float = 300) -> None:
        """Waits until the job manager knows exactly these task managers."""
        deadline = time.monotonic() + seconds
        known: set[str] = set()
        while known != names:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the cluster has the task managers {sorted(known)} (logs: {self._folder})")
            time.sleep(0.3)
            with contextlib.suppress(OSError):  # not answering yet
                known = self.task_managers()

    def wait_for_task(self, seconds: float) -> tuple[str, str]:
        """Waits until a task runs. Returns its job and the name of its task manager."""
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
        """Returns the errors of a job, including those after which it was restarted."""
        return self.ask(f"/jobs/{job}/exceptions")["exceptionHistory"]["entries"]

    def jobs(self) -> list[dict]:
        """Returns the jobs (jid, name, state, start-time, ...), in the order of their start."""
        return sorted(self.ask("/jobs/overview")["jobs"], key=lambda job: job["start-time"])

    def records(self, job: str) -> Counter[str]:
        """Returns the number of records that a job's tasks read and wrote, by name of the task manager."""
        records: Counter[str] = Counter()
        for vertex in self.ask(f"/jobs/{job}")["vertices"]:
            for manager in self.ask(f"/jobs/{job}/vertices/{vertex['id']}/taskmanagers")["taskmanagers"]:
                metrics = manager["metrics"]
                records[manager["taskmanager-id"]] += metrics["read-records"] + metrics["write-records"]
        return records


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A job manager and the task manager `one` with two slots, ready for jobs."""
    with _job_manager(folder) as started:
        started.start_task_manager("one")
        started.wait_for({"one"})
        yield started


@contextlib.contextmanager
def cluster_of_two(folder: Path) -> Iterator[tuple[Cluster, str]]:
    """A job manager and the task managers `one` and `two` with one slot each, and the address of their worker pools.

    The task managers look up the same name, each in its own file of hosts, and get the address of their own pool.
    """
    pools = {"one": "127.0.0.2", "two": "127.0.0.3"}
    (port,) = _free_ports(1, *pools.values())
    with _job_manager(folder) as started:
        for name, address in pools.items():
            hosts = {"localhost": "127.0.0.1", socket.gethostname(): "127.0.0.1", POOL: address}
            started.start_task_manager(name, slots=1, hosts=hosts)
        for name, address in pools.items():
            started.start_worker_pool(f"pool-{name}", address, port)
        started.wait_for(set(pools))
        yield started, f"{POOL}:{port}"


@contextlib.contextmanager
def _job_manager(folder: Path) -> Iterator[Cluster]:
    """Starts a job manager, or skips the test if there is no Flink."""
    try:
        job_server_jar(CACHE)
        jars = libraries(CACHE)
    except NotToBeHad as reason:
        pytest.skip(f"no Flink: {reason}")
    started = Cluster(folder, jars)
    try:
        started.start("job-manager", JOB_MANAGER, "512m")
        yield started
    finally:
        started.close()


def _free_ports(count: int, *hosts: str) -> list[int]:
    """Returns ports that are free on 127.0.0.1 and on all these addresses."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        ports = [each.getsockname()[1] for each in sockets]
        for host in hosts:
            for port in ports:
                stack.enter_context(socket.create_server((host, port)))
        return ports
