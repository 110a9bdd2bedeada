"""The installer in a separate process; Python, uv and the compiler are scripts on the PATH of the test."""

from __future__ import annotations

import ast
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".environment" / "install.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install = load()

# The script without its check of the disk space, because a temporary folder may be small.
RUN = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import install; install.NEEDED = 0; install.main()"


class System:
    """A checkout, and a PATH that contains only the programs of the test."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self.bin = folder / "bin"
        self.calls = folder / "calls"
        self.environ: dict[str, str] = {}
        for path in (self.root, self.bin, folder / "home"):
            path.mkdir()
        self.home = folder / "home"
        (self.root / "requirements.lock").write_text(
            "uv==1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nzip==1\n"
        )
        (self.root / "im2latex").mkdir()
        for project in (self.root, self.root / "im2latex"):
            (project / "pyproject.toml").write_text("[project]\n")

    def program(self, path: str | Path, script: str) -> Path:
        executable = self.bin / path
        executable.parent.mkdir(parents=True, exist_ok=True)
        executable.write_text(f"#!/bin/sh\n{script}\n")
        executable.chmod(0o755)
        return executable

    def python(self, path: str, version: tuple[int, ...], glibc: list[int] | None, **fields: object) -> Path:
        executable = self.bin / path
        answer = {"path": str(executable), "version": version, "glibc": glibc, "machine": "x86_64", "headers": True}
        return self.program(path, f"echo '{json.dumps({**answer, 'venv': True, **fields})}'")

    def uv(self, on_install: str = "") -> None:
        """A fake uv that logs its arguments and makes a folder for `venv`."""
        self.program(
            "uv",
            f'echo "$*" >> {self.calls}\n'
            'case "$1" in\n'
            '  venv) for last; do :; done; /bin/mkdir -p "$last/bin";;\n'
            f"  cache) echo {self.home};;\n"
            f"  pip) {on_install or ':'};;\n"
            "esac",
        )

    def install(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", RUN, "--root", str(self.root), *arguments],
            env={"PATH": str(self.bin), "HOME": str(self.home), **self.environ},
            capture_output=True,
            text=True,
        )

    def installations(self) -> int:
        """Returns how often the lock was installed."""
        return self.calls.read_text().count("--require-hashes") if self.calls.exists() else 0


@pytest.fixture
def system(tmp_path: Path) -> System:
    system = System(tmp_path)
    system.program("g++", "")
    system.uv()
    return system


def refused(ran: subprocess.CompletedProcess[str]) -> str:
    """Returns the error, which must be one sentence."""
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1 and ran.stderr.endswith("\n"), ran.stderr
    assert "Traceback" not in ran.stderr
    return ran.stderr


@pytest.mark.parametrize(
    ("python", "glibc", "expected"),
    [
        ((3, 10, 0), (2, 17), "1.16"),
        ((3, 11, 9), (2, 36), "1.16"),
        ((3, 11, 9), (2, 41), "1.16"),
        ((3, 12, 0), (2, 39), "1.21"),
        ((3, 13, 5), (2, 41), "1.21"),
    ],
)
def test_python_version_decides_the_stack(python: tuple[int, ...], glibc: tuple[int, ...], expected: str) -> None:
    assert install.stack(python, glibc)[0] == expected


@pytest.mark.parametrize(
    ("python", "glibc", "words"),
    [
        ((3, 9, 18), (2, 36), ["3.9.18"]),
        ((3, 14, 0), (2, 41), ["3.14.0"]),
        ((3, 12, 1), (2, 38), ["3.12.1", "2.38", "2.39"]),
        ((2, 7, 18), (2, 36), ["2.7.18"]),
    ],
)
def test_a_python_that_fits_no_stack_is_named_with_its_versions(
    python: tuple[int, ...], glibc: tuple[int, ...], words: list[str]
) -> None:
    with pytest.raises(install.UnfitPython) as refusal:
        install.stack(python, glibc)
    assert all(word in str(refusal.value) for word in words)


def test_another_c_library_and_another_processor_are_refused() -> None:
    with pytest.raises(install.CannotInstall, match="glibc"):
        install.stack((3, 11, 0), None)
    with pytest.raises(install.CannotInstall, match="aarch64"):
        install.stack((3, 11, 0), (2, 36), "aarch64")


def test_probe_tells_the_python_that_runs_this_test() -> None:
    python = install.probe(sys.executable)
    assert python.version == sys.version_info[:3]
    assert python.glibc == tuple(map(int, platform.libc_ver()[1].split(".")))
    assert subprocess.check_output([python.path, "-c", "import sys; print(sys.prefix == sys.base_prefix)"]) == b"True\n"


def test_python_3_6_can_read_the_installer() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


def test_refusal_names_a_python_of_this_system_that_fits(system: System) -> None:
    system.python("python3", (3, 12, 1), [2, 36])
    other = system.python("python3.11", (3, 11, 7), [2, 36])
    sentence = refused(system.install())
    assert "3.12.1" in sentence and "2.36" in sentence and f"PYTHON={other}" in sentence


def test_the_error_names_the_supported_pythons_if_none_is_installed(system: System) -> None:
    system.python("python3", (3, 9, 2), [2, 31])
    assert "install Python 3.10 or 3.11" in refused(system.install())


def test_shims_that_do_not_run_are_skipped_for_pyenv_s_own(system: System) -> None:
    system.python("python3", (3, 9, 2), [2, 31])
    system.program("python3.10", "echo 'pyenv: python3.10: command not found' >&2; exit 127")
    real = system.python("../home/.pyenv/versions/3.10.13/bin/python3.10", (3, 10, 13), [2, 31])
    ran = system.install("--python", "python3.10")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("Python 3.10.13, glibc 2.31: TFX 1.16 (Python below 3.12)\n")
    assert json.loads((system.root / ".venv/installed.json").read_text())["python"] == str(real)


def test_a_requested_python_that_is_not_there_is_named(system: System) -> None:
    system.python("python3", (3, 11, 7), [2, 36])
    assert "PYTHON=python3.77" in refused(system.install("--python", "python3.77"))
    assert "PYTHON=/no/python" in refused(system.install("--python", "/no/python"))


def test_everything_missing_is_named_at_once(system: System) -> None:
    system.python("python3", (3, 13, 5), [2, 41], headers=False, venv=False)
    for program in ("g++", "uv"):
        (system.bin / program).unlink()
    sentence = refused(system.install())
    assert "apt-get install g++ python3.13-dev python3.13-venv" in sentence


def test_uv_makes_venv_unneeded(system: System) -> None:
    system.python("python3", (3, 13, 5), [2, 41], venv=False)
    assert system.install().returncode == 0


def test_installs_by_hash_and_compiles(system: System) -> None:
    system.python("python3", (3, 11, 7), [2, 36])
    assert system.install().returncode == 0
    calls = system.calls.read_text().splitlines()
    lock = next(call for call in calls if "--require-hashes" in call)
    assert "--compile-bytecode" in lock and lock.endswith(f"-r {system.root}/requirements.lock")
    for project in (system.root, system.root / "im2latex"):
        assert any("--no-deps" in call and call.endswith(f"--editable {project}") for call in calls)
    assert not any("and-cuda" in call for call in calls)


def test_gpu_adds_cuda_and_is_remembered(system: System) -> None:
    system.python("python3", (3, 11, 7), [2, 36])
    assert system.install("--gpu").returncode == 0
    assert "tensorflow[and-cuda]" in system.calls.read_text()
    assert system.install().returncode == 0
    assert system.installations() == 1


def test_a_change_of_the_lock_the_project_or_the_python_reinstalls_only_what_it_affects(system: System) -> None:
    system.python("python3", (3, 11, 7), [2, 36])
    system.python("python3.10", (3, 10, 13), [2, 36])
    for lock, project, changed in [
        (1, 1, None),
        (1, 1, None),
        (1, 2, "pyproject.toml"),
        (1, 2, None),
        (2, 3, "requirements.lock"),
        (2, 3, None),
        (2, 4, "im2latex/pyproject.toml"),
    ]:
        if changed:
            with (system.root / changed).open("a") as file:
                file.write("# changed\n")
        assert system.install().returncode == 0
        assert (system.installations(), system.calls.read_text().count("--editable")) == (lock, 2 * project)
    assert system.install("--python", "python3.10").returncode == 0
    assert system.installations() == 3
    # It is remembered after the first call.
    assert "Python 3.10.13" in system.install().stdout
    assert system.installations() == 3
    # The system's Python is upgraded in place.
    system.python("python3.10", (3, 10, 14), [2, 36])
    assert "Python 3.10.14" in system.install().stdout
    assert system.installations() == 4


def test_a_moved_checkout_installs_again(system: System) -> None:
    system.python("python3", (3, 11, 7), [2, 36])
    assert system.install().returncode == 0
    system.root = system.root.rename(system.root.with_name("moved"))
    assert system.install().returncode == 0
    assert system.installations() == 2


def test_an_interrupted_installation_starts_over(system: System) -> None:
    system.python("python3", (3, 11, 7), [2, 36])
    system.uv(on_install="kill -9 $PPID $$")
    assert system.install().returncode == -9
    assert (system.root / ".venv").is_dir()
    leftover = system.root / ".venv" / "half"
    leftover.touch()
    system.uv()
    assert system.install().returncode == 0
    assert not leftover.exists()
    assert system.installations() == 2


# The output of uv and pip, shortened.
@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("error: Failed to fetch: `https://index/simple/x/`\n  cause: dns error\n", "network"),
        ("error: Request failed after 3 retries\n  cause: operation timed out\n", "network"),
        ("ERROR: ... after connection broken by 'NewConnectionError('<pip._vendor...", "network"),
        ("error: Failed to install: x.whl\n  cause: No space left on device (os error 28)\n", "disk is full"),
        ("error: Hash mismatch for `x==1`\nExpected:\n  sha256:aa\n", "requirements.lock"),
        ("Using Python 3.11\nerror: something new happened\nmore\n", "error: something new happened"),
    ],
)
def test_a_failed_installation_ends_in_one_sentence(system: System, message: str, advice: str) -> None:
    system.python("python3", (3, 11, 7), [2, 36])
    stderr_file = system.home / "stderr_file"
    stderr_file.write_text(message)
    system.uv(on_install=f"/bin/cat {stderr_file} >&2; exit 2")
    assert advice in refused(system.install())
    assert (system.root / ".venv/install.log").read_text() == message
    assert not (system.root / ".venv/installed.json").exists()


def test_a_disk_too_small_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    install.require_disk(tmp_path / "not" / "yet", 0, "The environment")
    with pytest.raises(install.CannotInstall, match="make room"):
        install.require_disk(tmp_path / "not" / "yet", 2 * free + 1, "The environment")


def test_without_uv_the_one_in_the_lock_is_fetched_by_hash(system: System) -> None:
    (system.bin / "uv").unlink()
    pip = f'echo "pip $*" >> {system.calls}; for last; do :; done; /bin/cat "$last" >> {system.calls}'
    uv = f'echo "uv $*" >> {system.calls}; [ "$1" != cache ] || echo {system.home}'
    # `python3 -m venv FOLDER` leaves a python whose pip leaves a uv.
    system.python("python3", (3, 11, 7), [2, 36])
    system.program("pip", f"{pip}\n/bin/cp {system.program('fake-uv', uv)} {system.root}/.venv/bin/uv")
    answer = (system.bin / "python3").read_text().splitlines()[1]
    system.program(
        "python3",
        f'[ "$2" = venv ] || {{ {answer}; exit; }}\n/bin/mkdir -p "$3/bin"; /bin/cp {system.bin}/pip "$3/bin/python"',
    )
    ran = system.install()
    assert ran.returncode == 0, ran.stderr
    calls = system.calls.read_text()
    assert "pip -m pip install --quiet --require-hashes -r" in calls
    assert "uv==1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nuv " in calls, "the lock's uv and nothing else"


def test_uv_uses_the_index_of_pip_if_it_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "global.index-url='https://index.example/simple'\nglobal.extra-index-url='https://a.example\\nhttps://b.example'"
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\ncat <<'END'\n{listed}\nEND\n")
    python.chmod(0o755)
    for variable in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_CONFIG_FILE"):
        monkeypatch.delenv(variable, raising=False)
    interpreter = install.Interpreter(str(python), (3, 11, 7), (2, 36), "x86_64", True, True)
    settings = install.Environment(tmp_path).settings(interpreter)
    assert settings["UV_DEFAULT_INDEX"] == "https://index.example/simple"
    assert settings["UV_INDEX"] == "https://a.example https://b.example"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own.example/simple")
    settings = install.Environment(tmp_path).settings(interpreter)
    assert settings["UV_DEFAULT_INDEX"] == "https://own.example/simple" and "UV_INDEX" not in settings
