from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from im2latex.errors import UserError
from pipeline import cli
from pipeline.config import load_config
from pipeline.lineage.graph import Artifact
from pipeline.lineage.store import read
from pipeline.reproduction import reproduce as module
from pipeline.reproduction.reproduce import reproduce
from pipeline.running import launch
from pipeline.running.examples import prepare_examples
from pipeline.running.record import VARIABLES, describe
from pipeline.workspace import Workspace
from tests.pipeline.lineage.conftest import FIRST, THIRD, make_three_runs, store_properties


class Past:
    """A workspace in which the conditions of the run FIRST are stored, and the folder of its data."""

    def __init__(self, folder: Path) -> None:
        self.workspace = make_three_runs(folder)
        self.data = folder / "formulas"
        for split in ("train", "eval", "test"):
            (self.data / split).mkdir()
            (self.data / split / "data.tfrecord.gz").write_bytes(split.encode())
        config = load_config("small", settings=[f"data.source={self.data}"])
        self.properties = describe(config, self.workspace)
        store_properties(self.workspace, FIRST, self.properties)

    def store(self, **properties: str | int) -> None:
        store_properties(self.workspace, FIRST, properties)


@pytest.fixture
def past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Past:
    past = Past(tmp_path)
    monkeypatch.setenv("IM2LATEX_HOME", str(past.workspace.home))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return past


@pytest.fixture
def started(past: Past, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Records the arguments of the pipeline, which then raises an error."""
    arguments: dict[str, Any] = {}

    def start(config: Any, **options: Any) -> int:
        arguments.update(options, config=config, cores=os.sched_getaffinity(0), environment=dict(os.environ))
        raise UserError("started")

    monkeypatch.setattr(module, "run_pipeline", start)
    return arguments


def test_the_recorded_configuration_and_data_are_used_in_another_workspace(past: Past, started: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="started"):
        reproduce(FIRST)
    assert started["config"] == load_config("small", settings=[f"data.source={past.data}"])
    assert started["cache"] is False
    assert started["workspace"].home != past.workspace.home and not started["workspace"].home.exists()


def test_relative_data_paths_are_resolved(past: Past, started: dict[str, Any]) -> None:
    knobs = json.loads(str(past.properties["config"])) | {"data.source": past.data.name}
    past.store(config=json.dumps(knobs))
    with pytest.raises(UserError, match="started"):
        reproduce(FIRST)
    assert started["config"].data.source == str(past.data)


def test_the_log_in_an_error_message_is_kept(past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: Any, workspace: Workspace, **options: Any) -> int:
        workspace.logs.mkdir()
        raise UserError(f"Trainer failed (the full log is {workspace.logs / 'run.log'})")

    monkeypatch.setattr(module, "run_pipeline", fail)
    with pytest.raises(UserError, match="the full log is"):
        reproduce(FIRST)
    (kept,) = tmp_path.glob("im2latex-*")
    assert (kept / "logs").is_dir()


def test_the_run_ends_at_the_last_recorded_component(past: Past, started: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="started"):
        reproduce(FIRST)
    assert started["last"] == "Pusher"  # the recorded run has no report
    with pytest.raises(UserError, match="started"):
        reproduce(FIRST, last="transform")
    assert started["last"] == "Transform"


def test_changed_data_is_refused_unless_allowed(past: Past, started: dict[str, Any]) -> None:
    (past.data / "train" / "data.tfrecord.gz").write_bytes(b"changed")
    with pytest.raises(UserError, match=f"the data of run {FIRST} has changed: {past.data} .* --allow-changed-data"):
        reproduce(FIRST)
    assert not started
    with pytest.raises(UserError, match="started"):
        reproduce(FIRST, allow_changed_data=True)
    (past.data / "train" / "data.tfrecord.gz").unlink()
    with pytest.raises(UserError, match="contains no TFRecords"):
        reproduce(FIRST, allow_changed_data=True)


def test_a_disk_that_seems_too_small_is_refused_unless_allowed(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*arguments: Any) -> None:
        raise UserError("begun")

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**7, 10**7))
    monkeypatch.setattr(launch, "_follow", begin)
    refused = CliRunner().invoke(cli.app, ["reproduce", FIRST])
    assert isinstance(refused.exception, UserError)
    assert str(refused.exception).endswith("or try it with --allow-full-disk")
    allowed = CliRunner().invoke(cli.app, ["reproduce", FIRST, "--allow-full-disk"])
    assert str(allowed.exception) == "begun"


def test_differing_conditions_are_reported(
    past: Past, started: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    packages = json.loads(str(past.properties["packages"])) | {"keras": "1.0"}
    past.store(python="3.1.4", packages=json.dumps(packages), code_sha256="0" * 64)
    with pytest.raises(UserError, match="started"):
        reproduce(FIRST, settings=["training.seed=5"])
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[-1] for line in lines[3:] if line.strip()}
    other = {name for name, verdict in rows.items() if verdict == "other"}
    assert other == {"training.seed", "code", "Python", "keras"}
    assert {"data", "packages", "processor", "cores"} <= {name for name, verdict in rows.items() if verdict == "same"}


def test_the_same_cores_and_variables_are_used(
    past: Past, started: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    hardware = json.loads(str(past.properties["hardware"])) | {"cores": 1, "gpus": []}
    past.store(hardware=json.dumps(hardware), environment=json.dumps({"TF_ENABLE_ONEDNN_OPTS": "0"}))
    monkeypatch.setattr(module, "gpus", lambda: ["H100"])
    cores, before = os.sched_getaffinity(0), dict(os.environ)
    with pytest.raises(UserError, match="started"):
        reproduce(FIRST)
    assert len(started["cores"]) == 1
    assert {name: started["environment"].get(name) for name in VARIABLES if name in started["environment"]} == {
        "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"
    }  # fmt: skip
    assert os.sched_getaffinity(0) == cores and dict(os.environ) == before


def test_the_precision_chosen_by_auto_is_reused(past: Past, started: dict[str, Any]) -> None:
    model_run = past.workspace.home / "model_run"
    model_run.mkdir()
    (model_run / "precision").write_text("bfloat16\n")
    knobs = json.loads(str(past.properties["config"])) | {"training.precision": "auto"}
    past.store(config=json.dumps(knobs))
    recorded = read(past.workspace, lambda store: module._recorded(store, FIRST))
    artifact = Artifact(99, "ModelRun", str(model_run))
    recorded = recorded._replace(outputs={**recorded.outputs, ("Trainer", "model_run"): artifact})
    assert module._config(recorded, ()).training.precision == "bfloat16"


def test_a_run_without_a_stored_configuration_is_refused(past: Past) -> None:
    with pytest.raises(UserError, match=f"run {THIRD} was recorded without its configuration"):
        reproduce(THIRD)


def test_a_removed_knob_is_reported_with_the_commit_of_the_run(past: Past) -> None:
    knobs = json.loads(str(past.properties["config"])) | {"training.momentum": 0.9}
    past.store(config=json.dumps(knobs), code_commit="c0ffee" * 6 + "beef")
    with pytest.raises(UserError, match=r"there is no knob 'training.momentum'.*commit c0ffeec0ffee"):
        reproduce(FIRST)


@pytest.mark.parametrize("folder", ["home", "home/pipeline_root"])
def test_a_folder_that_is_not_empty_is_refused(folder: str, past: Past, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already and is not empty"):
        reproduce(FIRST, out=tmp_path / folder)


def test_synthetic_formulas_are_drawn_again_or_read_from_the_original_folder(past: Past, tmp_path: Path) -> None:
    sizes = ["data.train=3", "data.eval=1", "data.test=1"]
    config = load_config(settings=sizes)
    other = Workspace(tmp_path / "other")
    folder = prepare_examples(config.data, other)
    recorded = module.Recorded(FIRST, describe(config, other), ["ImportExampleGen"], {})
    assert module._with_data(config, recorded, Workspace(tmp_path / "again")) == config
    # Simulates code that draws other formulas.
    (folder / "train" / "more.tfrecord.gz").write_bytes(b"")
    recorded = recorded._replace(properties=describe(config, other))
    again = module._with_data(config, recorded, Workspace(tmp_path / "again"))
    assert again.data.source == str(folder)
    changed = load_config(settings=[*sizes, "data.seed=2"])
    assert module._with_data(changed, recorded, Workspace(tmp_path / "asked")) == changed
