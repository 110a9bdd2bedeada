from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from data.repository import REPOSITORY
from pipeline.config import Config, load_config
from pipeline.running import record
from pipeline.running.record import describe
from pipeline.sources import fingerprint
from pipeline.workspace import Workspace
from trainer_module import reader


@pytest.fixture
def formulas(tmp_path: Path) -> Path:
    for split in ("train", "eval", "test"):
        folder = tmp_path / "formulas" / split
        folder.mkdir(parents=True)
        (folder / "data.tfrecord").write_bytes(split.encode())
    return tmp_path / "formulas"


def config(formulas: Path, *settings: str) -> Config:
    return load_config("small", settings=[f"data.source={formulas}", *settings])


def test_the_conditions_of_a_run_are_described(formulas: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "home")
    record = describe(config(formulas, "training.epochs=3"), workspace)
    assert all(isinstance(value, str | int) for value in record.values())
    knobs = json.loads(str(record["config"]))
    assert knobs["training.epochs"] == 3 and knobs["model.filters"] == [16, 32, 64, 64, 128, 256]
    assert record["config_sha256"] == hashlib.sha256(str(record["config"]).encode()).hexdigest()
    assert json.loads(str(record["packages"]))["numpy"] == version("numpy")
    assert record["python"] == platform.python_version()
    assert record["data"] == str(formulas) and record["workspace"] == str(workspace.home)
    hardware = json.loads(str(record["hardware"]))
    assert hardware["cores"] == len(os.sched_getaffinity(0)) and hardware["memory"] > 0.5 and hardware["processor"]
    assert isinstance(hardware["gpus"], list)


def test_the_stored_configuration_can_be_read(formulas: Path, tmp_path: Path) -> None:
    first = config(formulas, "training.epochs=3", 'evaluation.gate=["bleu >= 0.2"]')
    knobs = json.loads(str(describe(first, Workspace(tmp_path))["config"]))
    (tmp_path / "again.toml").write_text(
        "\n".join(f"{knob} = {json.dumps(value)}" for knob, value in knobs.items() if value != {}), "utf-8"
    )
    assert load_config(path=tmp_path / "again.toml") == first


def test_the_stored_configuration_lacks_the_metadata_section(formulas: Path, tmp_path: Path) -> None:
    local = describe(config(formulas), Workspace(tmp_path))
    remote = describe(config(formulas, "metadata.connection=mysql://me@host/db"), Workspace(tmp_path))
    other = describe(config(formulas, "training.epochs=3"), Workspace(tmp_path))
    assert local["config_sha256"] == remote["config_sha256"] != other["config_sha256"]
    assert "mysql" not in json.dumps(remote)


def test_the_fingerprint_of_data_depends_on_bytes_and_not_on_the_folder(formulas: Path, tmp_path: Path) -> None:
    def of(folder: Path) -> object:
        return describe(config(folder), Workspace(tmp_path))["data_fingerprint"]

    first = of(formulas)
    moved = Path(shutil.copytree(formulas, tmp_path / "moved"))
    assert of(moved) == first
    (moved / "test" / "data.tfrecord").write_bytes(b"tset")
    assert of(moved) != first
    (moved / "test" / "data.tfrecord").write_bytes(b"test")
    (moved / "test" / "data.tfrecord").rename(moved / "test" / "other.tfrecord")
    assert of(moved) != first


def test_a_fingerprint_covers_names_and_digests(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * (3 << 20))
    line = f"a\0{hashlib.sha256(b'x' * (3 << 20)).hexdigest()}\n"
    assert fingerprint(tmp_path, [tmp_path / "a"]) == hashlib.sha256(line.encode()).hexdigest()


@pytest.mark.skipif(not shutil.which("git"), reason="not installed: git")
def test_the_commit_of_the_checkout_is_recorded_with_changed_files(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "inner").mkdir()
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "--message", "first")
    assert record._commit(tmp_path) == {"code_commit": git("rev-parse", "HEAD"), "code_changed": 0}
    (tmp_path / "file").write_text("2")
    assert record._commit(tmp_path)["code_changed"] == 1
    # Code inside the checkout of another project has no commit.
    assert record._commit(tmp_path / "inner") == {}


def test_code_without_git_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert record._commit(tmp_path) == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert record._commit(REPOSITORY) == {}


def test_packages_do_not_depend_on_what_was_imported(
    formulas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = describe(config(formulas), Workspace(tmp_path))["packages"]
    vendored = tmp_path / "setuptools" / "_vendor"
    (vendored / "packaging-1.0.dist-info").mkdir(parents=True)
    (vendored / "packaging-1.0.dist-info" / "METADATA").write_text("Name: packaging\nVersion: 1.0\n", "utf-8")
    monkeypatch.syspath_prepend(vendored)
    assert describe(config(formulas), Workspace(tmp_path))["packages"] == before


def test_variables_that_affect_computations_are_stored(
    formulas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in record.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    monkeypatch.setenv("IM2LATEX_METADATA_PASSWORD", "secret")
    stored = describe(config(formulas), Workspace(tmp_path))["environment"]
    assert json.loads(str(stored)) == {"TF_NUM_INTRAOP_THREADS": "1"}


def test_the_start_of_a_training_is_fingerprinted_by_its_bytes(formulas: Path, tmp_path: Path) -> None:
    assert "start_fingerprint" not in describe(config(formulas), Workspace(tmp_path))
    start = tmp_path / "start" / "variables"
    start.mkdir(parents=True)
    stored = []
    for content in (b"weights", b"others"):
        (start / "variables.index").write_bytes(content)
        record = describe(config(formulas, f"training.start_from={start.parent}"), Workspace(tmp_path))
        stored.append(record["start_fingerprint"])
    assert stored[0] != stored[1]
    file = start / "variables.index"
    record = describe(config(formulas, f"training.start_from={file}"), Workspace(tmp_path))
    file.write_bytes(b"third")
    other = describe(config(formulas, f"training.start_from={file}"), Workspace(tmp_path))
    assert record["start_fingerprint"] != other["start_fingerprint"]
    record = describe(
        load_config("reader", settings=[f"data.source={formulas}", "training.start_from=reader"]), Workspace(tmp_path)
    )
    assert record["start_fingerprint"] == hashlib.sha256(reader.weights_file().read_bytes()).hexdigest()
