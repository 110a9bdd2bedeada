"""Runs the compiled pipeline, each task in a separate process, and compares it with a run of the local runner."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.evaluator.summary import BASELINE, CANDIDATE, read_evaluation
from kubeflow.runner import RESOLVED, compile_pipeline, task_name
from pipeline.config import load_config
from pipeline.config.sections import COMPONENTS
from pipeline.reproduction.comparison import SAME, compare
from pipeline.running.examples import examples_folder
from pipeline.workspace import Workspace
from tests.kubeflow.backend import CREDENTIALS, Backend, Result
from tests.kubeflow.object_store import ObjectStore
from tests.project import Project, after_first_run

MADE = [
    ("ImportExampleGen", "examples"),
    ("Transform", "transform_graph"),
    ("Transform", "transformed_examples"),
    ("Trainer", "model"),
    ("Evaluator", "evaluation"),
]
RESOLVERS = {f"resolve-{task_name(component)}" for component in RESOLVED}


RECORDS = "s3://formulas/data"  # in another bucket than the pipeline root


class Cluster:
    """A backend with the project's records in a bucket, and a volume."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        self.volume = folder / "volume"
        self.volume.mkdir(parents=True)
        self.backend = Backend(folder, secrets={"store/id": "key-id", "store/key": "secret"})
        records = examples_folder(load_config(path=project.config).data, Workspace(project.home))
        shutil.copytree(records, self.backend.object(RECORDS))
        self.store = ObjectStore(self.backend.buckets / "s3", "key-id", "secret")

    def run(self, *settings: str) -> dict[str, Result]:
        key, secret, region = CREDENTIALS
        cluster = (
            "image=registry/im2latex:1",
            "volume=models",
            f"mount={self.volume}",
            f"data={RECORDS}",
            f"pipeline_root={self.backend.root}",
            f'secrets={{{key} = "store/id", {secret} = "store/key"}}',
            f'environment={{{region} = "here", AWS_ENDPOINT_URL = "{self.store.url}"}}',
        )
        config = load_config(path=self.project.config, settings=[*(f"kubeflow.{k}" for k in cluster), *settings])
        return self.backend.run(compile_pipeline(config))

    def output(self, run: dict[str, Result], task: str, key: str) -> Path:
        return self.backend.object(run[task].artifacts[key]["uri"])

    def versions(self) -> list[str]:
        return sorted(path.name for path in (self.volume / "serving" / "im2latex").iterdir())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return after_first_run(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def cluster(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(project, tmp_path_factory.mktemp("cluster"))
    with made.store:
        yield made


@pytest.fixture(scope="module")
def first(cluster: Cluster) -> dict[str, Result]:
    return cluster.run()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_has_the_same_result_as_with_the_local_runner(
    cluster: Cluster, first: dict[str, Result], project: Project
) -> None:
    assert set(first) == {task_name(component) for component in COMPONENTS} | RESOLVERS | {"import-data"}
    root = project.home / "pipeline_root"

    def both(component: str, key: str) -> tuple[Path, Path]:
        (local,) = (root / component / key).iterdir()
        return local, cluster.output(first, task_name(component), key)

    made = [both(*key) for key in MADE]
    compared = list(compare(*(dict(zip(MADE, folders, strict=True)) for folders in zip(*made, strict=True))))
    assert [one.what for one in compared if one.verdict != SAME] == [], compared
    assert {one.component for one in compared} == {component for component, _ in MADE}
    (version,) = cluster.versions()
    _, model = both("Trainer", "model")
    assert files(cluster.volume / "serving" / "im2latex" / version) == files(model / "Format-Serving")
    assert first["pusher"].artifacts["pushed_model"]["metadata"]["pushed_version"] == version
    assert first["import-example-gen"].artifacts["examples"]["metadata"]["input_fingerprint"]


def test_the_records_are_listed_to_look_for_changes_and_not_downloaded(
    cluster: Cluster, first: dict[str, Result]
) -> None:
    assert cluster.backend.downloaded["resolve-import-example-gen"] == []
    assert cluster.backend.downloaded["import-example-gen"] == [RECORDS]


def test_the_records_of_a_run_have_addresses_and_no_paths_of_the_launcher(
    cluster: Cluster, first: dict[str, Result]
) -> None:
    model = first["trainer"].artifacts["model"]["uri"]
    assert first["evaluator"].artifacts["blessing"]["metadata"]["current_model"] == model
    told = json.dumps([[artifact["metadata"] for artifact in result.artifacts.values()] for result in first.values()])
    report = (cluster.output(first, "reporter", "report") / "report.html").read_text(encoding="utf-8")
    assert model in report and RECORDS in report
    for text in (told, report):
        assert "/s3/" not in text and str(cluster.backend.pods) not in text


def test_another_training_is_compared_with_the_model_that_serves(cluster: Cluster, first: dict[str, Result]) -> None:
    (serving,) = cluster.versions()
    second = cluster.run("training.learning_rate=0.001")
    ran = {name for name, result in second.items() if result.state == "ran"}
    again = {"trainer", "baseline", "evaluator", "serving-check", "pusher", "reporter"}
    assert ran - {"import-data"} == again | RESOLVERS
    assert second["baseline"].artifacts["baseline"]["metadata"]["serving_version"] == serving
    evaluation = read_evaluation(str(cluster.output(second, "evaluator", "evaluation")))
    before = read_evaluation(str(cluster.output(first, "evaluator", "evaluation")))
    assert evaluation.slices[""][BASELINE] == before.slices[""][CANDIDATE]
    assert len(cluster.versions()) == 2
    report = (cluster.output(second, "reporter", "report") / "report.html").read_text(encoding="utf-8")
    assert serving in report

    third = cluster.run("training.learning_rate=0.001")
    assert {name for name, result in third.items() if result.state == "ran"} - {"import-data"} == RESOLVERS
    assert len(cluster.versions()) == 2


def test_a_search_on_the_cluster_has_the_same_result_as_with_the_local_runner(
    cluster: Cluster, first: dict[str, Result], project: Project
) -> None:
    settings = ("tuning.trials=2", "tuning.epochs=1", "training.warmup_steps=0")
    local = project.run("--to", "Trainer", *(part for one in settings for part in ("--set", one)))
    assert local.returncode == 0, local.stderr
    found = cluster.run(*settings)
    assert found["transform"].state == "cached" and found["tuner"].state == "ran"
    outputs = [("Tuner", "tuner_results"), ("Trainer", "model")]
    sides = [
        {
            key: max((project.home / "pipeline_root" / key[0] / key[1]).iterdir(), key=lambda f: int(f.name))
            for key in outputs
        },
        {key: cluster.output(found, task_name(key[0]), key[1]) for key in outputs},
    ]
    assert [(one.what, one.verdict) for one in compare(*sides)] == [("trials", SAME), ("weights", SAME)]
    assert found["tuner"].artifacts["best_hyperparameters"]["metadata"]["trials"] == 2
    assert not list((cluster.volume / "checkpoints").iterdir())
    report = (cluster.output(found, "reporter", "report") / "report.html").read_text(encoding="utf-8")
    assert "<caption>Trials</caption>" in report
