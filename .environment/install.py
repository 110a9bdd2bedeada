"""Makes .venv, the environment of this checkout, from requirements.lock. The Makefile runs this before each target.

The lock holds two stacks, split by Python version: TFX 1.16 below 3.12, TFX 1.21 from 3.12 on, whose wheels need
glibc 2.39. The Python of the system selects the stack; --python selects another Python. If .venv was made from the same
lock, pyproject.toml and Python, nothing is done. Errors that a user can correct print one sentence, with exit status 1.

uv installs the packages. This script does what uv does not: it selects a Python that fits the packages and this system,
checks for a compiler, headers and disk space, gets uv if it is missing, and uses the package index of pip's settings.
It uses only the standard library and the syntax of Python 3.6, so that a Python too old for the pipeline can run it.
"""

import argparse
import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, NoReturn, Optional, Tuple

ROOT = Path(__file__).resolve().parent.parent
GIGABYTE = 10**9
NEEDED = 5 * GIGABYTE  # 3.8 GB of environment, and wheels while they are unpacked.

Version = Tuple[int, ...]


class CannotInstall(Exception):
    """The environment cannot be made; the message says what is wrong and what to do."""


class UnfitPython(CannotInstall):
    """This Python does not fit; the message says why. Another Python may fit."""


class Interpreter(NamedTuple):
    path: str
    """The base interpreter, even if a virtual environment or a shim was given."""
    version: Version
    glibc: Optional[Version]
    """None on a C library other than glibc."""
    machine: str
    headers: bool
    """Whether Python.h is there, to compile extensions."""
    venv: bool
    """Whether the venv module can make an environment with pip in it."""


PROBE = """
import json, os, platform, sys, sysconfig
base = os.path.join(sys.base_prefix, "bin", "python%d.%d" % sys.version_info[:2])
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION")
except (OSError, ValueError):
    libc = None
try:
    import ensurepip, venv
except ImportError:
    ensurepip = None
print(json.dumps({
    "path": base if os.path.exists(base) else sys.executable,
    "version": sys.version_info[:3],
    "glibc": [int(part) for part in libc.split()[1].split(".")[:2]] if libc else None,
    "machine": platform.machine(),
    "headers": os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")),
    "venv": ensurepip is not None,
}))
"""


def dotted(version: Version) -> str:
    return ".".join(str(part) for part in version)


def probe(path: str) -> Optional[Interpreter]:
    """Returns the properties of the Python at `path`; None if it does not run, such as an inactive pyenv shim."""
    try:
        answer = subprocess.run(
            [path, "-c", PROBE], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60
        )
        fields = json.loads(answer.stdout.decode())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    fields["version"] = tuple(fields["version"])
    fields["glibc"] = fields["glibc"] and tuple(fields["glibc"])
    return Interpreter(**fields)


def interpreters(name: str) -> Iterator[Interpreter]:
    """Yields each working Python of this name (or path): those on PATH, then those of pyenv, which shims may hide."""
    if os.sep in name:
        paths = [os.path.expanduser(name)]
    else:
        pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
        paths = [os.path.join(folder, name) for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)]
        paths += sorted(glob.glob(os.path.join(pyenv, "versions", "*", "bin", name)), reverse=True)
    for path in paths:
        python = probe(path) if os.access(path, os.X_OK) and not os.path.isdir(path) else None
        if python:
            yield python


def choose(requested: Optional[str], previous: Optional[str]) -> Interpreter:
    """Returns the requested Python, else the one that .venv was made with, else that of the system."""
    if requested:
        python = next(interpreters(requested), None)
        if not python:
            raise CannotInstall(
                "No Python runs under PYTHON={}: give the path of one, or a name that is on PATH.".format(requested)
            )
        return python
    for name in filter(None, [previous, "python3", sys.executable]):
        python = next(interpreters(name), None)
        if python:
            return python
    raise CannotInstall("No Python was found: install Python 3.10, 3.11, 3.12 or 3.13, or name one with PYTHON=.")


def stack(python: Version, glibc: Optional[Version], machine: str = "x86_64") -> Tuple[str, str]:
    """Returns the TFX version for this Python, and the reason.

    Raises:
        UnfitPython: this Python does not fit, but another one may.
        CannotInstall: no Python fits on this system.
    """
    if machine != "x86_64":
        raise CannotInstall("TFX has packages for x86_64 only and this machine is {}: use another.".format(machine))
    if glibc is None:
        raise CannotInstall("TFX needs glibc and this system has another C library: use Debian, Ubuntu or their like.")
    if not (3, 10) <= python[:2] <= (3, 13):
        raise UnfitPython("Python {} has no TFX, which takes 3.10 to 3.13".format(dotted(python)))
    if python[:2] < (3, 12):
        return "1.16", "Python below 3.12"
    if glibc < (2, 39):
        raise UnfitPython(
            "Python {} takes TFX 1.21, which needs glibc 2.39, and this system has {}".format(
                dotted(python), dotted(glibc)
            )
        )
    return "1.21", "Python 3.12 or newer"


def fitting_stack(python: Interpreter) -> Tuple[str, str]:
    """Calls `stack`; its error also names a Python of this system that fits, if there is one."""
    try:
        return stack(python.version, python.glibc, python.machine)
    except UnfitPython as problem:
        for name in ["python3.11", "python3.10", "python3.13", "python3.12"]:
            for other in interpreters(name):
                try:
                    stack(other.version, other.glibc, other.machine)
                except CannotInstall:
                    continue
                raise CannotInstall("{}: run make with PYTHON={}".format(problem, other.path)) from None
        raise CannotInstall(
            "{}: install Python 3.10 or 3.11 and run make with PYTHON= and its path.".format(problem)
        ) from None


def require_tools(python: Interpreter) -> None:
    """Checks for a compiler (both stacks need pyfarmhash, which has no wheel), and for uv or the means to get it."""
    compiler = (os.environ.get("CXX") or "g++").split()[0]
    own = "python{}".format(dotted(python.version[:2]))
    needed = [
        (shutil.which(compiler), "a C++ compiler ({})".format(compiler), "g++"),
        (python.headers, "the headers of {}".format(python.path), own + "-dev"),
        (python.venv or shutil.which("uv"), "the venv module of {}".format(python.path), own + "-venv"),
    ]
    missing = [what for exists, what, _ in needed if not exists]
    packages = [package for exists, _, package in needed if not exists]
    if missing:
        raise CannotInstall(
            "This system lacks {}: install what is missing (on Debian and Ubuntu: apt-get install {}) "
            "and run make again.".format(", ".join(missing), " ".join(packages))
        )


def require_disk(folder: Path, needed: int, what: str) -> None:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(str(folder)).free
    if free < needed:
        raise CannotInstall(
            "{} needs {:.1f} GB in {} and {:.1f} GB are free: make room and run make again.".format(
                what, needed / GIGABYTE, folder, free / GIGABYTE
            )
        )


def explain(output: str, log: Path) -> str:
    """Returns one sentence about a failed installation, from the output of uv or pip."""
    lowered = output.lower()
    if "no space left" in lowered or "os error 28" in lowered:
        return "The disk is full: make room (about 5 GB are needed) and run make again."
    if "hash mismatch" in lowered or "do not match the hashes" in lowered:
        return "A package differs from requirements.lock: run make again, or make lock if this is intended."
    if re.search(
        "dns error|error sending request|failed to fetch|connection (refused|reset|error)|newconnectionerror|"
        "timed out|name resolution|could not connect|tunnel error|certificate",
        lowered,
    ):
        return (
            "The package index cannot be reached: check the network, the proxy and pip's or uv's settings, "
            "and run make again (the whole message is in {}).".format(log)
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    first = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
    return "The installation failed with '{}': the whole message is in {}.".format(first[:200], log)


class Environment:
    """The virtual environment of a checkout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.python = self.folder / "bin" / "python"
        self.lock = root / "requirements.lock"
        self.projects = [root / "pyproject.toml", root / "im2latex" / "pyproject.toml"]
        self.stamp = self.folder / "installed.json"

    def installed(self) -> Dict[str, object]:
        """Returns the inputs of the last complete installation; {} if there is none."""
        try:
            return dict(json.loads(self.stamp.read_text()))
        except (OSError, ValueError):
            return {}

    def current(self, python: Interpreter, gpu: bool) -> Dict[str, object]:
        """Returns the inputs of an installation now, with the checkout's path, which is in the scripts of .venv."""
        return {
            "project": hashlib.sha256(b"".join(file.read_bytes() for file in self.projects)).hexdigest(),
            "lock": hashlib.sha256(self.lock.read_bytes()).hexdigest(),
            "root": str(self.root),
            "python": python.path,
            "version": dotted(python.version),
            "gpu": gpu,
        }

    def make(self, python: Interpreter, gpu: bool) -> None:
        """Installs what is missing: nothing, only the project if only pyproject.toml changed, or everything."""
        installed, current = self.installed(), self.current(python, gpu)
        if installed == current:
            return
        if dict(installed, project=None) != dict(current, project=None):
            self.install_dependencies(python, gpu)
        # Without the stamp, an interrupted installation starts over.
        if self.stamp.exists():
            self.stamp.unlink()
        uv = shutil.which("uv") or str(self.folder / "bin" / "uv")
        # compat: the checkout goes on sys.path as a whole, so a new package needs no new installation.
        editable = ["--no-deps", "--no-build-isolation", "-C", "editable_mode=compat", "--editable", str(self.root)]
        pip = [uv, "pip", "install", "--python", str(self.python)]
        self.run(pip + editable, "Installing im2latex", self.settings(python))
        # The reader is a distribution of its own, with the command; its files are found by their package alone.
        reader = ["--no-deps", "--no-build-isolation", "--editable", str(self.root / "im2latex")]
        self.run(pip + reader, "Installing the command", self.settings(python))
        self.stamp.write_text(json.dumps(current, indent=1))

    def install_dependencies(self, python: Interpreter, gpu: bool) -> None:
        """Makes .venv again and installs the lock.

        Raises:
            CannotInstall: a compiler, Python's headers, venv, disk space or the network is missing.
        """
        require_tools(python)
        shutil.rmtree(str(self.folder), ignore_errors=True)
        require_disk(self.folder, NEEDED, "The environment")
        settings = self.settings(python)
        uv = shutil.which("uv")
        if uv:
            self.run([uv, "venv", "--quiet", "--python", python.path, str(self.folder)], "Making .venv", settings)
        else:
            uv = self.fetch_uv(python, settings)
        cache = subprocess.run([uv, "cache", "dir"], stdout=subprocess.PIPE, env=settings).stdout.decode().strip()
        require_disk(Path(cache or "/"), NEEDED, "uv's cache (UV_CACHE_DIR)")
        pip = [uv, "pip", "install", "--python", str(self.python), "--compile-bytecode"]
        self.run(pip + ["--require-hashes", "-r", str(self.lock)], "Installing requirements.lock", settings)
        if gpu:
            # Beside the lock: a CPU needs none of these 3 GB. TensorFlow itself names their versions.
            self.run(pip + ["-c", str(self.lock), "tensorflow[and-cuda]"], "Installing CUDA's libraries", settings)

    def fetch_uv(self, python: Interpreter, settings: Dict[str, str]) -> str:
        """Makes .venv with Python's own venv and pip, and installs the uv of the lock in it."""
        self.run([python.path, "-m", "venv", str(self.folder)], "Making .venv", settings)
        pinned = re.search(r"^uv==(?:.*\\\n)*.*\n", self.lock.read_text(), re.MULTILINE)
        if not pinned:
            raise CannotInstall("requirements.lock names no uv: run make lock where uv is installed.")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirement:
            requirement.write(pinned.group())
            requirement.flush()
            pip = [str(self.python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", requirement.name]
            self.run(pip, "Fetching uv", settings)
        return str(self.folder / "bin" / "uv")

    def settings(self, python: Interpreter) -> Dict[str, str]:
        """Returns the environment variables for uv: those of the user and, if these set no index, the index of pip."""
        settings = dict(os.environ, UV_PYTHON_DOWNLOADS="never")
        settings.pop("VIRTUAL_ENV", None)
        settings.setdefault("UV_HTTP_TIMEOUT", "180")
        settings.setdefault("UV_COMPILE_BYTECODE_TIMEOUT", "600")
        if not {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_CONFIG_FILE"} & set(settings):
            command = [python.path, "-m", "pip", "config", "list"]
            listed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()
            for option, variable in [("index-url", "UV_DEFAULT_INDEX"), ("extra-index-url", "UV_INDEX")]:
                values = re.findall(r"^\S+\.{}='(.*)'$".format(option), listed, re.MULTILINE)
                if values:
                    settings[variable] = values[0].replace(r"\n", " ").strip()
        return settings

    def run(self, command: List[str], what: str, settings: Dict[str, str]) -> None:
        """Runs one step, with a line that shows its progress; its output is used only if it fails."""
        start, terminal = time.time(), sys.stdout.isatty()
        print(what + " ", end="" if terminal else "\n", flush=True)
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=settings
            )
            while True:
                try:
                    status = process.wait(1)
                    break
                except subprocess.TimeoutExpired:
                    if terminal:
                        print("\r{} {:.0f} s ".format(what, time.time() - start), end="", flush=True)
                except KeyboardInterrupt:
                    process.wait()
                    raise
            if terminal:
                print("\r{} {:.0f} s ".format(what, time.time() - start), flush=True)
            if status:
                output.seek(0)
                printed = output.read()
                log = self.folder / "install.log"
                with contextlib.suppress(OSError):  # A full disk has no room for the log either.
                    self.folder.mkdir(exist_ok=True)
                    log.write_text(printed)
                raise CannotInstall(explain(printed, log))


def stop(sentence: str, status: int = 1) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(status)


def main(arguments: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", default="", help="name or path of the Python to use; default: the system's own")
    parser.add_argument("--gpu", action="store_true", help="install CUDA's libraries too")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    options = parser.parse_args(arguments)
    environment = Environment(options.root.resolve())
    try:
        # If two makes run at once, the second waits for the first, and then has nothing to do.
        guard = os.open(str(environment.root), os.O_RDONLY)
        fcntl.flock(guard, fcntl.LOCK_EX)
        installed = environment.installed()
        python = choose(options.python, str(installed["python"]) if "python" in installed else None)
        tfx, reason = fitting_stack(python)
        print(
            "Python {}, glibc {}: TFX {} ({})".format(dotted(python.version), dotted(python.glibc or ()), tfx, reason)
        )
        gpu = options.gpu or bool(installed.get("gpu"))
        environment.make(python, gpu)
    except CannotInstall as refusal:
        stop(str(refusal))
    except OSError as error:
        stop(
            "{}: {}; correct that and run make again.".format(
                error.filename or environment.root, error.strerror or error
            )
        )
    except KeyboardInterrupt:
        stop("\nInterrupted: run make again to start the installation over.", 130)


if __name__ == "__main__":
    main()
