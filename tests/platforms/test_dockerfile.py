"""Runs the Dockerfile step by step in Debian 13 roots, because tests seldom have a container engine."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.repository import REPOSITORY
from kubeflow.entrypoint import NodeSpec
from pipeline.config import load_config
from pipeline.pipeline import create_pipeline

pytestmark = pytest.mark.one_stack

RECIPE = REPOSITORY / "kubeflow" / "Dockerfile"
BASE = "debian:trixie-slim"

needs_roots = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("debootstrap") or not shutil.which("unshare"),
    reason="the image's steps are run in a Debian 13 root, which needs root, debootstrap and unshare",
)


def instructions() -> list[tuple[str, str]]:
    """Returns (name, arguments) of each instruction, with continued lines joined."""
    lines = [line for line in RECIPE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def ignored(path: str) -> bool:
    """Returns whether .dockerignore excludes a file or one of its folders."""
    patterns = [line for line in (REPOSITORY / ".dockerignore").read_text().split("\n") if line and line[0] != "#"]
    folders = [path, *(str(parent) for parent in Path(path).parents)]
    return any(fnmatch.fnmatchcase(f"/{part}", "*/" + p.removeprefix("**/")) for p in patterns for part in folders)


class Build:
    """Executes instructions, with one root for each stage."""

    def __init__(self, base: Path, folder: Path) -> None:
        self._base, self._folder = base, folder
        self._stages: dict[str, Path] = {}
        self.root = folder
        self.environment: dict[str, str] = {}
        self.directory = "/"
        self.user = ""
        self.checked: list[str] = []

    def carry_out(self, name: str, rest: str) -> None:
        match name:
            case "FROM":
                image, _, stage = rest.partition(" AS ")
                assert image == BASE
                self.root = self._folder / (stage or "image")
                self._stages[stage] = self.root
                subprocess.run(["cp", "--archive", "--reflink=auto", str(self._base), str(self.root)], check=True)
                self.environment, self.directory = {}, "/"
            case "ARG":
                variable, _, value = rest.partition("=")
                self.environment[variable] = value
            case "ENV":
                self.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
            case "WORKDIR":
                self.directory = rest
                self.path(rest).mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(rest.split())
            case "RUN":
                self.run(["sh", "-c", rest])
            case "USER":
                self.user = rest.partition(":")[0]
            case "HEALTHCHECK":
                self.checked = json.loads(rest[rest.index("[") :])
            case "ENTRYPOINT":
                pass
            case _:
                raise AssertionError(f"what does {name} do?")

    def path(self, inside: str) -> Path:
        return self.root / inside.lstrip("/")

    def run(self, command: list[str], user: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command in the root of a stage, as root or as a user without a name."""
        prefix = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"] if user else []
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        inside = ["sh", "-c", f'cd {self.directory} && exec "$@"', "sh", *command]
        ended = subprocess.run(
            [REPOSITORY / ".ci" / "enter", self.root, *prefix, "env", *variables, *inside],
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert ended.returncode == 0, f"{command}: {ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
        return ended

    def _copy(self, words: list[str]) -> None:
        if words[0].startswith("--from="):
            source = self._stages[words[0].removeprefix("--from=")] / words[1].lstrip("/")
            self.path(words[2]).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, self.path(words[2]))
            return
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        sent = [name for name in listed if not ignored(name) and (REPOSITORY / name).is_file()]
        wanted = sent if words[:-1] == ["."] else words[:-1]
        assert set(wanted) <= set(sent)
        for name in wanted:
            target = self.path(self.directory) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, target)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "im2latex"
    base = cache / "debian-13-minimal"
    subprocess.run([REPOSITORY / ".ci" / "debian-root", base], check=True)
    folder = tmp_path_factory.mktemp("stages")
    build = Build(base, folder)
    for name, rest in instructions():
        build.carry_out(name, rest)
    yield build
    shutil.rmtree(folder)  # gigabytes


@needs_roots
def test_the_image_is_healthy_and_runs_the_entry_point_as_anyone(image: Build) -> None:
    assert image.user == "1000"
    image.run(image.checked, user="4711")
    pipeline = create_pipeline(load_config(), data="/data", pipeline_root="", serving="/serving")
    node = next(
        NodeSpec.of(component, "im2latex") for component in pipeline.components if component.id == "ImportSchemaGen"
    )
    task = {
        "inputs": {"parameterValues": {"schema_file": "pipeline/schema/schema.pbtxt", "code": ""}},
        "outputs": {
            "artifacts": {"schema": {"artifacts": [{"uri": "gs://bucket/schema"}]}},
            "outputFile": "/tmp/kfp_outputs/output_metadata.json",
        },
    }
    image.path("gcs/bucket").mkdir(parents=True)
    image.path("gcs/bucket").chmod(0o777)  # as the launcher's volume is
    image.path("tmp").chmod(0o1777)
    command = ["python", "-m", "kubeflow.entrypoint", "--node", node.to_json(), "--executor-input", json.dumps(task)]
    image.run(command, user=image.user)
    schema = image.path("gcs/bucket/schema/schema.pbtxt").read_text(encoding="utf-8")
    assert schema == (REPOSITORY / "pipeline/schema/schema.pbtxt").read_text(encoding="utf-8")
    assert json.loads(image.path("tmp/kfp_outputs/output_metadata.json").read_text(encoding="utf-8"))["artifacts"]
    assert "1.21" in image.run(["python", "-c", "import tfx; print(tfx.__version__)"], user=image.user).stdout
    image.run(["sh", "-c", "command -v latex && command -v dvipng && im2latex --help"], user=image.user)
    tools = subprocess.run(["ls", image.path("opt/im2latex/.venv/bin")], capture_output=True, text=True).stdout.split()
    assert not {"pytest", "ruff", "mypy"} & set(tools)


def test_the_build_context_has_the_committed_files_that_it_needs() -> None:
    for name in (
        "kubeflow/entrypoint.py",
        "pipeline/schema/schema.pbtxt",
        "requirements.lock",
        "data/dataset/record.py",
    ):
        assert not ignored(name)
    for name in (
        "tests/kubeflow/test_runner.py",
        ".git/config",
        "workspace/lock",
        ".venv/bin/python",
        "data/__pycache__/a.pyc",
    ):
        assert ignored(name)
