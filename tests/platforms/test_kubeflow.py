"""The compiled pipeline, task by task in processes of their own, against the local runner's run of the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from kfp.kubernetes import kubernetes_executor_config_pb2
from ml_metadata import MetadataStore

from components.evaluator.summary import BASELINE, CANDIDATE, read_evaluation
from kubeflow.following import was_pushed
from kubeflow.runner import RECORD, RESOLVED, compile_pipeline, task_name
from pipeline.config import load_config
from pipeline.config.sections import COMPONENTS
from pipeline.lineage.address import PASSWORD
from pipeline.lineage.graph import read_runs
from pipeline.lineage.store import connection, run_ids
from pipeline.reproduction.comparison import SAME, compare
from pipeline.running.examples import examples_folder
from pipeline.workspace import Workspace
from tests.kubeflow.backend import CREDENTIALS, Backend, Result
from tests.kubeflow.object_store import ObjectStore
from tests.platforms import mariadb
from tests.project import SETTINGS, Project, after_first_run

MADE = [
    ("ImportExampleGen", "examples"),
    ("Transform", "transform_graph"),
    ("Transform", "transformed_examples"),
    ("Trainer", "model"),
    ("Evaluator", "evaluation"),
]
ALWAYS = {"import-data", RECORD, *(f"resolve-{task_name(component)}" for component in RESOLVED)}
FIRST, SECOND, THIRD, KILLED, BESIDE = (f"{digit * 8}-2d48-4c4d-8c36-d42ae5234680" for digit in "abcde")

RECORDED = mariadb.INSTALLED and hasattr(kubernetes_executor_config_pb2, "FieldPathAsEnv")
RECORDS = "s3://formulas/data"  # in another bucket than the pipeline root


class Cluster:
    """A backend with the project's records in a bucket, and a volume."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        self.volume = folder / "volume"
        self.volume.mkdir(parents=True)
        secrets = {"store/id": "key-id", "store/key": "secret", "database/password": mariadb.PASSWORD}
        self.backend = Backend(folder, secrets=secrets)
        records = examples_folder(load_config(path=project.config).data, Workspace(project.home))
        shutil.copytree(records, self.backend.object(RECORDS))
        self.store = ObjectStore(self.backend.buckets / "s3", "key-id", "secret")

    def run(self, *settings: str, run_id: str = "") -> dict[str, Result]:
        return self.backend.run(self.compiled(*settings), run_id=run_id)

    def compiled(self, *settings: str) -> str:
        key, secret, region = CREDENTIALS
        cluster = (
            "image=registry/im2latex:1",
            "volume=models",
            f"mount={self.volume}",
            f"data={RECORDS}",
            f"pipeline_root={self.backend.root}",
            f'secrets={{{key} = "store/id", {secret} = "store/key", {PASSWORD} = "database/password"}}',
            f'environment={{{region} = "here", AWS_ENDPOINT_URL = "{self.store.url}"}}',
        )
        config = load_config(path=self.project.config, settings=[*(f"kubeflow.{k}" for k in cluster), *settings])
        return compile_pipeline(config)

    def output(self, run: dict[str, Result], task: str, key: str) -> Path:
        return self.backend.object(run[task].artifacts[key]["uri"])

    def versions(self) -> list[str]:
        return sorted(path.name for path in (self.volume / "serving" / "im2latex").iterdir())


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a MariaDB for the metadata, "" where none is installed; its password is in the environment."""
    if not RECORDED:
        yield ""
        return
    with mariadb.running(tmp_path_factory.mktemp("mariadb")) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(PASSWORD, mariadb.PASSWORD)
        yield server.address()


@pytest.fixture(scope="module")
def project(database: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return after_first_run(tmp_path_factory.mktemp("project"), f'{SETTINGS}\n[metadata]\nconnection = "{database}"\n')


@pytest.fixture(scope="module")
def cluster(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(project, tmp_path_factory.mktemp("cluster"))
    with made.store:
        yield made


@pytest.fixture(scope="module")
def first(cluster: Cluster) -> dict[str, Result]:
    return cluster.run(run_id=FIRST)


@pytest.fixture(scope="module")
def second(cluster: Cluster, first: dict[str, Result]) -> dict[str, Result]:
    """Another training."""
    return cluster.run("training.learning_rate=0.001", run_id=SECOND)


@pytest.fixture(scope="module")
def third(cluster: Cluster, second: dict[str, Result]) -> dict[str, Result]:
    """The same again."""
    return cluster.run("training.learning_rate=0.001", run_id=THIRD)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_comes_to_what_the_local_runner_comes_to(
    cluster: Cluster, first: dict[str, Result], project: Project
) -> None:
    tasks = {task_name(component) for component in COMPONENTS} | ALWAYS | {"import-data"}
    assert set(first) - {RECORD} == tasks - {RECORD}
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


def test_what_a_run_leaves_names_addresses_and_no_paths_of_the_launcher(
    cluster: Cluster, first: dict[str, Result]
) -> None:
    model = first["trainer"].artifacts["model"]["uri"]
    assert first["evaluator"].artifacts["blessing"]["metadata"]["current_model"] == model
    told = json.dumps([[artifact["metadata"] for artifact in result.artifacts.values()] for result in first.values()])
    report = (cluster.output(first, "reporter", "report") / "report.html").read_text(encoding="utf-8")
    assert model in report and RECORDS in report
    for text in (told, report):
        assert "/s3/" not in text and str(cluster.backend.pods) not in text


def test_another_training_is_compared_with_the_model_that_serves(
    cluster: Cluster, first: dict[str, Result], second: dict[str, Result]
) -> None:
    serving, _ = cluster.versions()
    ran = {name for name, result in second.items() if result.state == "ran"}
    again = {"trainer", "baseline", "evaluator", "serving-check", "pusher", "reporter"}
    assert ran - ALWAYS == again
    assert second["baseline"].artifacts["baseline"]["metadata"]["serving_version"] == serving
    evaluation = read_evaluation(str(cluster.output(second, "evaluator", "evaluation")))
    before = read_evaluation(str(cluster.output(first, "evaluator", "evaluation")))
    assert evaluation.slices[""][BASELINE] == before.slices[""][CANDIDATE]
    report = (cluster.output(second, "reporter", "report") / "report.html").read_text(encoding="utf-8")
    assert serving in report


def test_the_same_again_comes_from_the_cache(cluster: Cluster, third: dict[str, Result]) -> None:
    assert {name for name, result in third.items() if result.state == "ran"} <= ALWAYS
    assert len(cluster.versions()) == 2


# --- Lineage: the cluster's runs and the local one in one database ---------------------------------------------------

needs_database = pytest.mark.skipif(not RECORDED, reason=f"{mariadb.MISSING}, or kfp-kubernetes is 1.0")


@pytest.fixture(scope="module")
def metadata(database: str, project: Project) -> MetadataStore:
    return MetadataStore(connection(database, Workspace(project.home)))


@pytest.fixture(scope="module")
def pair(cluster: Cluster, third: dict[str, Result], metadata: MetadataStore) -> None:
    """Two runs at once; the trainer of one is killed when it has begun, and tried again."""

    def begun() -> bool:
        context = metadata.get_context_by_type_and_name("pipeline_run", KILLED)
        return any(one.type.endswith(".Trainer") for one in metadata.get_executions_by_context(context.id))

    cluster.backend.killed[f"{KILLED}/trainer"] = begun
    retried = "kubeflow.pods={Trainer = {retries = 1}}"
    texts = {
        run: cluster.compiled(f"training.learning_rate={rate}", retried)
        for run, rate in ((KILLED, 0.002), (BESIDE, 0.003))
    }
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(cluster.backend.run, text, run_id=run) for run, text in texts.items()]
        for run in running:
            run.result()
    assert cluster.backend.killed == {}


def graph_of(store: MetadataStore, run: str) -> dict[str, tuple[str, str, set[str], dict[str, str], dict[str, str]]]:
    """Of each component: type, state, names of properties, and types of inputs and outputs."""
    graph = read_runs(store, [run])
    return {
        one.component: (
            one.type,
            one.state,
            set(one.properties),
            *({key: graph.artifacts[i].type for key, (i,) in side.items()} for side in (one.inputs, one.outputs)),
        )
        for one in graph.of_run[run]
    }


def states(store: MetadataStore, run: str) -> dict[str, str]:
    executions = read_runs(store, [run]).of_run[run]
    assert len(executions) == len({one.component for one in executions})
    return {one.component: one.state for one in executions}


@needs_database
def test_a_run_is_recorded_as_the_local_runner_records_it(
    metadata: MetadataStore, first: dict[str, Result], project: Project
) -> None:
    local, *_ = run_ids(metadata)
    assert graph_of(metadata, FIRST) == graph_of(metadata, local)
    ours, theirs = (read_runs(metadata, [run]).runs[run].properties for run in (FIRST, local))
    assert set(ours) == set(theirs)
    assert {name for name in ours if ours[name] != theirs[name]} <= {
        *("config", "config_sha256", "data", "host", "workspace", "environment")
    }
    assert (ours["data"], ours["host"]) == (RECORDS, "kubeflow")
    made = read_runs(metadata, [FIRST]).outputs(FIRST)
    properties = {key: set(artifact.properties) for key, artifact in made.items()}
    assert properties == {key: set(a.properties) for key, a in read_runs(metadata, [local]).outputs(local).items()}
    blessing = made["Evaluator", "blessing"].properties
    assert blessing["current_model_id"] == made["Trainer", "model"].id
    assert blessing["current_model"] == made["Trainer", "model"].uri == first["trainer"].artifacts["model"]["uri"]


@needs_database
def test_what_comes_from_the_cache_is_recorded_as_cached(
    metadata: MetadataStore, second: dict[str, Result], third: dict[str, Result]
) -> None:
    again = {"Trainer", "Baseline", "Evaluator", "ServingCheck", "Pusher", "Reporter"}
    assert states(metadata, SECOND) == {name: "ran" if name in again else "cached" for name in COMPONENTS}
    assert states(metadata, THIRD) == dict.fromkeys(COMPONENTS, "cached")
    graph = read_runs(metadata, [SECOND, THIRD])
    assert {key: a.id for key, a in graph.outputs(SECOND).items()} == {
        key: a.id for key, a in graph.outputs(THIRD).items()
    }
    fingerprints = {run.properties["data_fingerprint"] for run in read_runs(metadata, run_ids(metadata)).runs.values()}
    assert len(fingerprints) == 1
    baseline = graph.outputs(SECOND)["Baseline", "baseline"]
    assert baseline.copy_of == read_runs(metadata, [FIRST]).outputs(FIRST)["Pusher", "pushed_model"].id


@needs_database
def test_two_runs_at_once_and_a_killed_task_leave_one_execution_for_each_component(
    metadata: MetadataStore, pair: None
) -> None:
    again = {"Trainer", "Baseline", "Evaluator", "ServingCheck", "Pusher", "Reporter"}
    for run in (KILLED, BESIDE):
        assert states(metadata, run) == {name: "ran" if name in again else "cached" for name in COMPONENTS}
        graph = graph_of(metadata, run)
        assert {name: graph[name][3:] for name in COMPONENTS} == {
            name: graph_of(metadata, SECOND)[name][3:] for name in COMPONENTS
        }
    names = [one.name for one in metadata.get_executions()]
    assert len(names) == len(set(names))


@needs_database
def test_the_verdict_is_read_from_the_database(database: str, first: dict[str, Result]) -> None:
    def verdict(run: str, state: str) -> bool | None:
        return was_pushed(None, SimpleNamespace(run_id=run, state=state), [], print, connection=database)

    assert verdict(FIRST, "SUCCEEDED") is True
    assert verdict(FIRST, "FAILED") is None
    assert verdict("unknown", "SUCCEEDED") is None


def command(cluster: Cluster, *arguments: str, volume: bool = False) -> str:
    """What a command prints, on a machine that may read the bucket, or in a pod with the volume."""
    key, secret, region = CREDENTIALS
    variables = {key: "key-id", secret: "secret", region: "here", "AWS_ENDPOINT_URL": cluster.store.url}
    environment = cluster.project.environment() | ({"IM2LATEX_HOME": str(cluster.volume)} if volume else variables)
    told = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments], capture_output=True, text=True, timeout=300, env=environment
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


@needs_database
def test_the_commands_on_lineage_know_the_runs_of_the_cluster(
    cluster: Cluster, pair: None, database: str, tmp_path: Path
) -> None:
    listed = json.loads(command(cluster, "lineage", "runs", "--json"))["runs"]
    assert [run["run"] for run in listed][1:4] == [FIRST, SECOND, THIRD]
    local, *clustered = listed
    assert {run["state"] for run in listed} == {"done"}
    assert clustered[0]["scores"] == local["scores"]
    assert {run["pushed"] for run in clustered} == set(cluster.versions())
    told = command(cluster, "lineage", clustered[1]["pushed"])
    for part in (f"run {SECOND}", "from the cache, made by run", "kept    bleu >= 0 ", RECORDS, "48 train + 8 eval"):
        assert part in told
    assert "learning_rate" in command(cluster, "lineage", "diff", FIRST[:4], SECOND[:4])
    assert command(cluster, "lineage", "check") == "nothing is broken\n"
    command(cluster, "lineage", "page", "--out", str(tmp_path / "page.html"))
    assert SECOND in (tmp_path / "page.html").read_text("utf-8")
    command(cluster, "report", SECOND[:4], "--out", str(tmp_path / "report.html"))
    report = (tmp_path / "report.html").read_text("utf-8")
    assert SECOND in report and cluster.versions()[0] in report
    again = json.loads(command(cluster, "reproduce", FIRST[:4], "--to", "Transform", "--json"))
    assert again["same"], again
    command(cluster, "rollback", "--connection", database, volume=True)
    told = command(cluster, "rollback", "--list", "--json", "--connection", database, volume=True)
    assert [one["version"] for one in json.loads(told) if one["status"] == "withdrawn"]
