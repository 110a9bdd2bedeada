"""The components on Beam give the same results on other runners as on the local one, with the real sample."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.dataset.record import SPLITS
from data.dataset.tfrecords import read_records
from data.dataset.writer import DatasetWriter
from data.importers.importing import import_dataset
from pipeline.config import load_config
from tests.platforms import flink
from tests.platforms.beam_runs import Results, arguments, latest, results, run, wait_for_server, with_python
from tests.project import Project

SAMPLE = Path(os.environ.get("IM2LATEX_SAMPLES", Path(__file__).parents[3] / "shared")) / "im2latex-100k"
COUNTS = {"train": 240, "eval": 40, "test": 40}
RULES = ["exact_match >= 0.4", "bleu >= 0.99"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred real formulas."""
    if not SAMPLE.is_dir():
        pytest.skip(f"{SAMPLE} is missing; IM2LATEX_SAMPLES names the folder with im2latex-100k in it")
    folder = tmp_path_factory.mktemp("sample")
    import_dataset(SAMPLE, folder / "all", workers=1)
    with DatasetWriter(folder / "few", source="sample") as writer:
        for split, count in COUNTS.items():
            for record in itertools.islice(read_records(folder / "all" / split), count):
                writer.write(split, record)
    return folder / "few"


@pytest.fixture(scope="module")
def project(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A workspace after the steps up to Transform were run in one process."""
    project = Project.of(tmp_path_factory.mktemp("runners"), f'preset = "small"\n[data]\nsource = "{data}"\n')
    run(project)
    return project


@pytest.fixture(scope="module")
def local(project: Project) -> Results:
    return results(project)


@contextlib.contextmanager
def server(module: str, option: str) -> Iterator[str]:
    """Starts one of Beam's servers in a separate process, at an address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", module, f"--{option}={port}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=with_python(),
    )  # fmt: skip
    try:
        wait_for_server(process, "localhost", port)
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def processes() -> list[str]:
    return ["beam.runner=multi_processing", "beam.workers=2"]


@pytest.fixture(scope="module")
def job_server() -> Iterator[list[str]]:
    """The Python part of Flink's runner, with Beam's Python job server instead of the one in Java."""
    with server("apache_beam.runners.portability.local_job_service_main", "job_port") as address:
        yield ["beam.runner=flink", f"beam.job_server={address}"]


@pytest.fixture(scope="module")
def pool() -> Iterator[str]:
    """Workers in other processes, which find this project only through their environment."""
    with server("apache_beam.runners.worker.worker_pool_main", "service_port") as address:
        yield f"beam.worker_pool={address}"


@pytest.fixture(scope="module")
def worker_pool(job_server: list[str], pool: str) -> list[str]:
    return [*job_server, pool]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[flink.Cluster]:
    """A real Flink: two Java processes of at most 1.5 GB each."""
    with flink.cluster(tmp_path_factory.mktemp("flink")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def on_flink(cluster: flink.Cluster) -> list[str]:
    return cluster.settings


@pytest.fixture(scope="module")
def on_flink_with_a_worker_pool(on_flink: list[str], pool: str) -> list[str]:
    return [*on_flink, pool]


def test_the_local_runner_has_made_something_to_compare_with(local: Results) -> None:
    assert {split: counter.total() for split, counter in local.examples.items()} == COUNTS
    assert all(set(features) == {"examples", "image", "latex", "name"} for features in local.statistics.values())
    assert local.vocabulary.count(b"\n") > 100
    assert {split: counter.total() for split, counter in local.transformed.items()} == {"train": 240, "eval": 40}


@pytest.mark.parametrize("runner", ["processes", "job_server"])
def test_examples_statistics_vocabulary_and_transformed_examples_are_those_of_one_process(
    runner: str, project: Project, local: Results, request: pytest.FixtureRequest
) -> None:
    before = len(project.executions())
    output = run(project, *request.getfixturevalue(runner))
    states = dict(project.executions()[before:])
    assert [states[step] for step in ("ImportExampleGen", "StatisticsGen", "Transform")] == ["COMPLETE"] * 3
    assert results(project) == local
    assert output.count("on Flink") == (runner != "processes")


def evaluate(project: Project, model: Path, settings: list[str], out: Path) -> dict:
    """Runs the Evaluator's executor as its component would. Returns summary.json without the times."""
    from tfx.types import standard_artifacts

    from components.evaluator.component import Executor
    from pipeline.running.beam import beam_arguments
    from tests.components.artifacts import artifact, trained

    context = Executor.Context(
        beam_pipeline_args=beam_arguments(load_config(settings=settings).beam), tmp_dir=str(out / "tmp"), unique_id="1"
    )
    examples = artifact(standard_artifacts.Examples, latest(project, "ImportExampleGen", "examples"))
    examples.split_names = json.dumps(list(SPLITS))
    outputs = {
        "evaluation": [artifact(standard_artifacts.ModelEvaluation, out / "evaluation")],
        "blessing": [artifact(standard_artifacts.ModelBlessing, out / "blessing")],
    }
    inputs = {"examples": [examples], "model": [trained(model)], "baseline_model": [trained(out / "none")]}
    properties = {"gate": json.dumps(RULES), "split": "test", "robustness": 0, "spelling": "normal"}
    Executor(context).Do(inputs, outputs, properties)
    summary = json.loads((out / "evaluation" / "summary.json").read_text())
    return {name: summary[name] for name in ("examples", "slices", "gate", "blessed")}


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reads every other formula of the test right, and of the rest the first tokens."""
    import tensorflow as tf

    from tests.components.evaluator.test_evaluation import Answers

    folder = tmp_path_factory.mktemp("model")
    answers = {
        record.image: record.latex if number % 2 else " ".join(record.latex.split()[:6])
        for number, record in enumerate(read_records(data / "test"))
    }
    module = Answers(answers)
    tf.saved_model.save(module, str(folder / "Format-Serving"), signatures={"predict_images": module.predict_images})
    return folder


@pytest.fixture(scope="module")
def evaluated(project: Project, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return evaluate(project, model, [], tmp_path_factory.mktemp("local"))


@pytest.mark.parametrize(
    "runner", ["processes", "job_server", "worker_pool", "on_flink", "on_flink_with_a_worker_pool"]
)
def test_scores_of_every_slice_and_the_verdict_are_those_of_one_process(
    runner: str, project: Project, model: Path, evaluated: dict, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # Some right and some wrong, in some rules and not in others.
    assert 0.4 < evaluated["slices"][""]["candidate"]["exact_match"] < 0.6
    assert [verdict["passed"] for verdict in evaluated["gate"]] == [True, False]
    assert evaluate(project, model, request.getfixturevalue(runner), tmp_path) == evaluated


def test_the_results_on_flink_are_those_of_one_process_even_if_a_task_manager_is_lost(
    project: Project, local: Results, cluster: flink.Cluster, on_flink: list[str]
) -> None:
    before = run(project, *on_flink, to="StatisticsGen")
    # Transform is the largest of these steps.
    command = project.command("--to", "Transform", *arguments(on_flink))
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=project.environment()
    )
    job, manager = cluster.wait_for_task(seconds=600)
    cluster.kill(manager)
    cluster.start_task_manager("two")
    output, _ = running.communicate(timeout=600)
    assert running.returncode == 0, output
    assert cluster.failures(job)
    assert f"on Flink {flink.VERSION}, 1 task manager, 2 slots: {cluster.page}" in before
    assert (manager, cluster.task_managers()) == ("one", {"two"})
    assert results(project) == local
