"""The commands `im2latex run`, `tfx` and `im2latex reproduce`, on a reduced quickstart."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.dataset.record import Record, encode
from data.dataset.tfrecords import read_records
from data.dataset.writer import DatasetWriter
from data.pictures.synthetic import draw_png
from pipeline.config.sections import COMPONENTS
from pipeline.reproduction.comparison import OTHER, SAME
from tests.project import Project, after_first_run, read_only
from trainer_module.trained import load_weights


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A workspace for all tests in this file; they do not change its first run."""
    return after_first_run(tmp_path_factory.mktemp("project"))


def fields(output: str) -> dict[str, str]:
    """Returns the table at the end of a run."""
    rows = output[output.rindex("\nexamples ") :].strip().splitlines()
    return {name.strip(): value.strip() for name, value in (re.split(r"\s{2,}", row, maxsplit=1) for row in rows)}


def states(executions: list[tuple[str, str]]) -> dict[str, str]:
    assert len(dict(executions)) == len(executions), executions
    return dict(executions)


def test_the_first_run_executes_every_component_and_pushes(project: Project) -> None:
    output = (project.config.parent / "first_run.txt").read_text(encoding="utf-8")
    lines = [line.split()[0] for line in output.split("\nexamples ")[0].splitlines() if line]
    assert [line for line in lines if line in COMPONENTS] == list(COMPONENTS)
    training = re.compile(r"^Epoch 1/1, step 6/6: loss [\d.]+, perplexity [\d.]+, on validation [\d.]+", re.MULTILINE)
    assert training.search(output)
    assert re.search(r"^ExampleValidator .* no anomalies; nothing serves to compare with$", output, re.MULTILINE)
    table = fields(output)
    assert table["examples"] == "48 train, 8 eval, 16 test"
    assert int(table["vocabulary"].split()[0]) > 10
    assert 0 <= float(table["BLEU"]) <= 1
    assert table["blessed"] == "yes"
    assert Path(table["pushed to"]) == project.home / "serving" / "im2latex" / project.versions()[0]
    assert "<h1" in Path(table["report"]).read_text(encoding="utf-8")
    log = Path(table["log"]).read_text("utf-8")
    assert training.search(log) and "INFO:trainer_module.trainer:padding: " in log
    assert len(log) > 10_000
    assert states(project.executions()[: len(COMPONENTS)]) == dict.fromkeys(COMPONENTS, "COMPLETE")


def test_a_run_writes_only_to_the_workspace(project: Project) -> None:
    assert sorted(path.name for path in project.config.parent.iterdir()) == ["first_run.txt", "run.toml", "workspace"]


def test_a_second_run_takes_everything_from_the_cache(project: Project) -> None:
    before, versions = len(project.executions()), project.versions()
    second = project.run()
    assert second.returncode == 0, second.stderr
    assert states(project.executions()[before:]) == dict.fromkeys(COMPONENTS, "CACHED")
    first = (project.config.parent / "first_run.txt").read_text(encoding="utf-8")
    same = ("examples", "vocabulary", "BLEU", "exact match", "blessed", "pushed to")
    assert [fields(second.stdout)[name] for name in same] == [fields(first)[name] for name in same]
    assert project.versions() == versions


def test_the_pushed_model_reads_a_new_image_in_a_fresh_process(project: Project, tmp_path: Path) -> None:
    (folder,) = (project.home / "data").iterdir()
    image = Image.open(io.BytesIO(next(iter(read_records(folder / "test"))).image)).convert("L")
    canvas = Image.new("L", (image.width + 90, image.height + 60), 255)
    canvas.paste(image, (70, 20))
    image.save(tmp_path / "0.png")
    canvas.save(tmp_path / "1.png")
    program = """
import json, sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = tf.constant([open(path, "rb").read() for path in sys.argv[2:]])
answer = model.signatures["predict_images"](images=images)
print(json.dumps({name: value.numpy().astype(str).tolist() for name, value in answer.items()}))
"""
    version = project.home / "serving" / "im2latex" / project.versions()[-1]
    answer = subprocess.run(
        [sys.executable, "-c", program, str(version), str(tmp_path / "0.png"), str(tmp_path / "1.png")],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    read = json.loads(answer.stdout)
    assert len(read["latex"]) == 2
    assert read["latex"][0] == read["latex"][1]  # the margin of a formula does not matter
    first, second = (float(value) for value in read["log_probability"])
    assert first == pytest.approx(second, abs=1e-3) and first < 0


def test_an_exported_model_says_which_run_made_it_and_how_good_it_is(project: Project, tmp_path: Path) -> None:
    version = project.home / "serving" / "im2latex" / project.versions()[0]
    command = [sys.executable, "-m", "pipeline.cli", "export", "--model", str(version), "--format", "weights"]
    exported = subprocess.run(
        [*command, "--out", str(tmp_path / "weights.npz")],
        capture_output=True, text=True, timeout=300, env=project.environment(),
    )  # fmt: skip
    assert exported.returncode == 0, exported.stderr
    provenance = load_weights(tmp_path).provenance
    first = (project.config.parent / "first_run.txt").read_text(encoding="utf-8")
    assert provenance["scores"] == f"BLEU {fields(first)['BLEU']}"
    shown = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "lineage", "runs", "--json"],
        capture_output=True, text=True, timeout=300, env=project.environment(),
    )  # fmt: skip
    assert provenance["run"] in shown.stdout and len(provenance["run"]) > 20


def test_the_tfx_commands_run_the_same_pipeline(project: Project, tmp_path: Path) -> None:
    before = len(project.executions())
    repository = Path(__file__).resolve().parents[2]
    tfx = Path(sys.executable).with_name("tfx")
    environment = {**project.environment(), "LOCAL_HOME": str(tmp_path / "tfx")}
    environment["PATH"] = f"{tfx.parent}{os.pathsep}{environment['PATH']}"  # tfx runs `pip` and `python`
    for arguments in (
        ["pipeline", "create", "--engine=local", f"--pipeline_path={repository}/pipeline/running/tfx_dsl.py"],
        ["run", "create", "--engine=local", "--pipeline_name=im2latex"],
    ):
        done = subprocess.run(
            [tfx, *arguments], capture_output=True, text=True, timeout=600, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # It is the same workspace, so the outputs of `im2latex run` are in the cache.
    assert states(project.executions()[before:]) == dict.fromkeys(COMPONENTS, "CACHED")


def test_a_model_that_fails_the_gate_is_not_pushed(project: Project) -> None:
    before, versions = len(project.executions()), project.versions()
    refused = project.run("--set", "evaluation.gate=['bleu >= 0.99']")
    assert refused.returncode == 3, refused.stderr
    table = fields(refused.stdout)
    assert re.fullmatch(r"no: BLEU 0(\.\d+)? is below 0\.99", table["blessed"]), table
    assert "pushed to" not in table
    assert project.versions() == versions
    fresh = {name for name, state in project.executions()[before:] if state == "COMPLETE"}
    assert fresh == {"Evaluator", "Pusher", "Reporter"}


@pytest.mark.usefixtures("mounts")
@pytest.mark.one_stack
def test_a_read_only_serving_folder_is_reported_and_the_next_run_pushes(project: Project) -> None:
    versions, other = project.versions(), ("--set", "training.learning_rate=0.002")
    refused = project.run(*other, before=read_only(project.home / "serving"))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"im2latex: Pusher: {project.home}/serving/im2latex/"), refused.stderr
    assert " cannot be written: make it writable, and the same command continues from here (" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert project.versions() == versions
    again = project.run(*other)
    assert again.returncode == 0, again.stderr
    assert "Trainer               cached" in again.stdout
    assert len(project.versions()) == len(versions) + 1


def test_a_run_waits_for_a_store_that_is_locked_briefly(project: Project) -> None:
    running = subprocess.Popen(
        project.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**project.environment(), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert running.stdout is not None
    next(line for line in running.stdout if line.startswith("ImportExampleGen"))
    with contextlib.closing(sqlite3.connect(project.home / "metadata.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(timeout=5)  # ML Metadata gives up after 17 s at the earliest
        other.execute("ROLLBACK")
    output, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert "Pusher" in output


def test_an_anomaly_stops_the_run_and_is_named(tmp_path: Path) -> None:
    import tensorflow as tf

    data = tmp_path / "data"
    record = Record(draw_png("x", 10), "x", "x")
    with DatasetWriter(data, source="test") as writer:
        for split in ("train", "eval", "test"):
            writer.write(split, record)
    example = tf.train.Example.FromString(encode(record))
    example.features.feature["label"].bytes_list.value.append(b"what the schema does not know")
    with tf.io.TFRecordWriter(str(data / "train" / "more.tfrecord.gz"), "GZIP") as writer:
        writer.write(example.SerializeToString())
    project = Project.of(tmp_path, f'[data]\nsource = "{data}"\n')
    stopped = project.run()
    assert stopped.returncode == 1
    assert stopped.stderr.startswith("im2latex: ExampleValidator: the examples do not match the schema: train: label: ")
    assert stopped.stderr.count("\n") == 1 and ".log" in stopped.stderr
    assert dict(project.executions())["ExampleValidator"] == "FAILED"
    assert "Transform" not in dict(project.executions())


@pytest.mark.one_stack
def test_a_killed_training_continues_from_its_checkpoint(project: Project) -> None:
    versions = project.versions()
    longer = ("--set", "training.epochs=40")
    running = subprocess.Popen(
        project.command(*longer), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**project.environment(), "PYTHONUNBUFFERED": "1"}, start_new_session=True,
    )  # fmt: skip
    assert running.stdout is not None
    deadline = time.monotonic() + 300
    for line in running.stdout:
        if line.startswith("Epoch 4/"):
            break
        assert time.monotonic() < deadline, line
    else:
        pytest.fail("the run ended before it was killed")
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()

    resumed = project.run(*longer)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    epochs = [int(epoch) for epoch in re.findall(r"^Epoch (\d+)/", resumed.stdout, re.MULTILINE)]
    assert 3 <= epochs[0] <= 5, epochs
    assert epochs[-1] == 40
    assert "Transform             cached" in resumed.stdout
    assert len(project.versions()) == len(versions) + 1


def reproduce(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", "reproduce", "--json", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=project.environment())


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {one["what"]: one["verdict"] for one in document["made"]}


def first_run(project: Project) -> str:
    """Returns the id of the first run."""
    from pipeline.lineage.store import read, run_ids
    from pipeline.workspace import Workspace

    return read(Workspace(project.home), run_ids)[0]


def test_a_reproduced_run_has_the_same_results_bit_for_bit(project: Project, tmp_path: Path) -> None:
    before = project.executions(), project.versions()
    again = reproduce(project, first_run(project), "--out", str(tmp_path / "again"))
    assert again.returncode == 0, again.stdout + again.stderr
    document = json.loads(again.stdout)
    assert document["same"] is True
    assert verdicts(document) == dict.fromkeys(
        (
            "examples", "schema", "statistics", "anomalies", "vocabulary", "transformed examples", "weights",
            "model compared with", "predictions", "scores", "blessing",
        ),
        SAME,
    )  # fmt: skip
    assert {one["verdict"] for one in document["with"]} == {SAME}
    assert (project.executions(), project.versions()) == before
    assert (tmp_path / "again" / "serving" / "im2latex").is_dir()


@pytest.mark.one_stack
def test_changed_data_is_refused_or_if_allowed_gives_other_results(project: Project) -> None:
    other = (first_run(project), "--set", "data.seed=2")
    refused = reproduce(project, *other)
    assert refused.returncode == 1
    assert refused.stderr.startswith("im2latex: the data of run ") and "has changed" in refused.stderr
    assert refused.stderr.count("\n") == 1 and refused.stdout == ""
    allow_changed_data = reproduce(project, *other, "--allow-changed-data", "--to", "StatisticsGen")
    assert allow_changed_data.returncode == 4, allow_changed_data.stderr
    document = json.loads(allow_changed_data.stdout)
    assert verdicts(document) == {"examples": OTHER, "schema": SAME, "statistics": OTHER}
    assert [one["name"] for one in document["with"] if one["verdict"] == OTHER] == ["data", "data.seed"]
