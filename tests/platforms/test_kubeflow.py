"""The compiled pipeline, task by task in processes of their own, against the local runner's run of the same.

All runs, that of the local runner too, are recorded in one MariaDB, if one is installed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kfp.kubernetes import kubernetes_executor_config_pb2
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from typer.testing import CliRunner

from components.evaluator.summary import BASELINE, CANDIDATE, read_evaluation
from kubeflow.runner import RECORD, RESOLVED, compile_pipeline, task_name
from pipeline.cli import app
from pipeline.config import load_config
from pipeline.config.sections import COMPONENTS
from pipeline.lineage.address import PASSWORD
from pipeline.lineage.graph import NODE, PIPELINE_RUN, ROLLBACK, read_runs, read_store
from pipeline.lineage.store import connection, run_ids
from pipeline.reproduction.comparison import SAME, compare
from pipeline.running.examples import examples_folder
from pipeline.workspace import Workspace
from tests.kubeflow.api_server import ApiServer
from tests.kubeflow.backend import CREDENTIALS, Backend, Result, TaskFailed
from tests.kubeflow.object_store import ObjectStore
from tests.kubeflow.recorded_runs import states
from tests.pipeline.lineage.page.test_lineage_page import content
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
AGAIN = {"Trainer", "Baseline", "Evaluator", "ServingCheck", "Pusher", "Reporter"}  # for another training
FIRST, SECOND, LOST, THIRD, FOURTH = (f"{digit * 8}-2d48-4c4d-8c36-d42ae5234680" for digit in "abcde")

# The settings of another training, whose Trainer may be killed once.
ANOTHER = ("training.learning_rate=0.001", "kubeflow.pods={Trainer = {retries = 1}}")
RECORDS = "s3://formulas/data"  # in another bucket than the pipeline root
# Kfp for Python 3.10 does not support metadata.connection.
RECORDED = mariadb.INSTALLED and hasattr(kubernetes_executor_config_pb2, "FieldPathAsEnv")
needs_database = pytest.mark.skipif(not RECORDED, reason=f"{mariadb.MISSING}, or kfp is too old")


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

    def run(self, *settings: str, run_id: str = "") -> dict[str, Result]:
        return self.backend.run(self.compiled(*settings), run_id=run_id)

    def output(self, run: dict[str, Result], task: str, key: str) -> Path:
        return self.backend.object(run[task].artifacts[key]["uri"])

    def versions(self) -> list[str]:
        return sorted(path.name for path in (self.volume / "serving" / "im2latex").iterdir())

    def environment(self, home: Path | None = None) -> dict[str, str]:
        """The environment of a command of a person who may read the bucket and the database."""
        key, secret, region = CREDENTIALS
        credentials = {key: "key-id", secret: "secret", region: "here", "AWS_ENDPOINT_URL": self.store.url}
        return self.project.environment() | credentials | ({"IM2LATEX_HOME": str(home)} if home else {})

    def command(self, *arguments: str, home: Path | None = None, status: int = 0) -> str:
        """Returns what a command prints. Its workspace is the local one, if no other is given."""
        result = CliRunner(env=self.environment(home)).invoke(app, list(arguments))
        assert result.exit_code == status, (arguments, result.output, result.exception)
        return result.stdout


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a MariaDB for the metadata, whose password is in the environment; "" if none is installed."""
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
    cluster = Cluster(project, tmp_path_factory.mktemp("cluster"))
    with cluster.store:
        yield cluster


@pytest.fixture(scope="module")
def first(cluster: Cluster) -> dict[str, Result]:
    return cluster.run(run_id=FIRST)


@pytest.fixture(scope="module")
def second(cluster: Cluster, first: dict[str, Result], database: str) -> dict[str, Result]:
    """Another training. With a database, the Trainer is killed and tried again, beside a run whose Trainer is lost."""
    text = cluster.compiled(*ANOTHER)
    if not RECORDED:
        return cluster.backend.run(text, run_id=SECOND)
    for run in (SECOND, LOST):
        cluster.backend.killed[f"{run}/trainer"] = begun(database, f"{run}.Trainer")
    lost_text = cluster.compiled("training.learning_rate=0.002")
    with ThreadPoolExecutor() as pool:
        lost = pool.submit(cluster.backend.run, lost_text, run_id=LOST)
        retried = pool.submit(cluster.backend.run, text, run_id=SECOND)
        with pytest.raises(TaskFailed, match="trainer: status -9"):
            lost.result()
        assert not cluster.backend.killed
        return retried.result()


@pytest.fixture(scope="module")
def third(cluster: Cluster, second: dict[str, Result]) -> dict[str, Result]:
    """The same again; with a database, twice at once."""
    text = cluster.compiled(*ANOTHER)
    runs = (THIRD, FOURTH) if RECORDED else (THIRD,)
    with ThreadPoolExecutor() as pool:
        futures = [pool.submit(cluster.backend.run, text, run_id=run) for run in runs]
        return [one.result() for one in futures][0]


def begun(database: str, execution: str) -> Callable[[], bool]:
    """The condition that an execution is recorded as running."""
    store = MetadataStore(connection(database, Workspace(Path())))  # of its own, because a store is not for threads
    running = metadata_store_pb2.Execution.RUNNING

    def is_begun() -> bool:
        return any(e.name == execution and e.last_known_state == running for e in store.get_executions())

    return is_begun


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_has_the_same_result_as_with_the_local_runner(
    cluster: Cluster, first: dict[str, Result], project: Project
) -> None:
    assert set(first) | {RECORD} == {task_name(component) for component in COMPONENTS} | ALWAYS
    root = project.home / "pipeline_root"

    def both(component: str, key: str) -> tuple[Path, Path]:
        (local,) = (root / component / key).iterdir()
        return local, cluster.output(first, task_name(component), key)

    pairs = [both(*key) for key in MADE]
    compared = list(compare(*(dict(zip(MADE, folders, strict=True)) for folders in zip(*pairs, strict=True))))
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
    reported = json.dumps(
        [[artifact["metadata"] for artifact in result.artifacts.values()] for result in first.values()]
    )
    report = (cluster.output(first, "reporter", "report") / "report.html").read_text(encoding="utf-8")
    assert model in report and RECORDS in report
    for text in (reported, report):
        assert "/s3/" not in text and str(cluster.backend.pods) not in text


def test_another_training_is_compared_with_the_model_that_serves(
    cluster: Cluster, first: dict[str, Result], second: dict[str, Result]
) -> None:
    serving, _ = cluster.versions()
    ran = {name for name, result in second.items() if result.state == "ran"}
    assert ran - ALWAYS == {task_name(component) for component in AGAIN}
    assert second["baseline"].artifacts["baseline"]["metadata"]["serving_version"] == serving
    evaluation = read_evaluation(str(cluster.output(second, "evaluator", "evaluation")))
    before = read_evaluation(str(cluster.output(first, "evaluator", "evaluation")))
    assert evaluation.slices[""][BASELINE] == before.slices[""][CANDIDATE]
    report = (cluster.output(second, "reporter", "report") / "report.html").read_text(encoding="utf-8")
    assert serving in report


def test_the_same_again_comes_from_the_cache(cluster: Cluster, third: dict[str, Result]) -> None:
    assert {name for name, result in third.items() if result.state == "ran"} | {RECORD} == ALWAYS
    assert len(cluster.versions()) == 2


# --- Lineage: the runs of the cluster and the local one in one database ----------------------------------------------


@pytest.fixture(scope="module")
def metadata(database: str, project: Project) -> MetadataStore:
    return MetadataStore(connection(database, Workspace(project.home)))


def kinds(properties: Mapping[str, metadata_store_pb2.Value]) -> dict[str, str | None]:
    return {name: value.WhichOneof("value") for name, value in properties.items()}


def as_recorded(store: MetadataStore, run: str) -> dict[str, Any]:
    """Returns what a run has in ML Metadata, by component, except for values, ids and times."""
    recorded = {}
    for execution in store.get_executions_by_context(store.get_context_by_type_and_name(PIPELINE_RUN, run).id):
        (kind,) = store.get_execution_types_by_id([execution.type_id])
        contexts = {c.type: c.name for c in store.get_contexts_by_execution(execution.id)}
        contexts.pop("execution_cache", None)  # TFX's own cache; that of the cluster is Kubeflow's
        assert contexts.pop(PIPELINE_RUN) == run
        events = []
        for event in store.get_events_by_execution_ids([execution.id]):
            (artifact,) = store.get_artifacts_by_id([event.artifact_id])
            (artifact_type,) = store.get_artifact_types_by_id([artifact.type_id])
            events.append(
                (
                    [step.key or step.index for step in event.path.steps],
                    event.type,
                    (artifact_type.name, artifact_type.base_type),
                    (artifact.state, kinds(artifact.properties), kinds(artifact.custom_properties)),
                )
            )
        assert contexts[NODE] not in recorded  # one execution of each component
        recorded[contexts[NODE]] = {
            "type": (kind.name, kind.base_type),
            "state": execution.last_known_state,
            "properties": (kinds(execution.properties), kinds(execution.custom_properties)),
            "contexts": contexts,
            "events": sorted(events, key=lambda event: str(event[:2])),
        }
    return recorded


@needs_database
def test_a_run_is_recorded_as_the_local_runner_records_it(
    metadata: MetadataStore, first: dict[str, Result], project: Project
) -> None:
    local = run_ids(metadata)[0]
    ours, theirs = as_recorded(metadata, FIRST), as_recorded(metadata, local)
    assert len(ours) == len(COMPONENTS)
    assert ours == theirs
    reported, expected = (read_runs(metadata, [run]).runs[run].properties for run in (FIRST, local))
    assert set(reported) == set(expected)
    assert {name for name in reported if reported[name] != expected[name]} <= {
        *("config", "config_sha256", "data", "host", "workspace", "environment")
    }
    assert (reported["data"], reported["host"]) == (RECORDS, "kubeflow")
    outputs = read_runs(metadata, [FIRST]).outputs(FIRST)
    model = outputs["Trainer", "model"]
    blessing = outputs["Evaluator", "blessing"].properties
    assert (blessing["current_model_id"], blessing["current_model"]) == (model.id, model.uri)
    assert model.uri == first["trainer"].artifacts["model"]["uri"]


@needs_database
def test_a_killed_task_is_tried_again_in_the_same_execution(
    metadata: MetadataStore, second: dict[str, Result], first: dict[str, Result]
) -> None:
    assert states(metadata, SECOND) == {name: "ran" if name in AGAIN else "cached" for name in COMPONENTS}
    events = [
        {node: [event[:3] for event in one["events"]] for node, one in as_recorded(metadata, run).items()}
        for run in (FIRST, SECOND)
    ]
    assert events[0] == events[1]
    graph = read_runs(metadata, [SECOND])
    pushed = read_runs(metadata, [FIRST]).outputs(FIRST)["Pusher", "pushed_model"]
    assert graph.outputs(SECOND)["Baseline", "baseline"].copy_of == pushed.id


@needs_database
def test_what_comes_from_the_cache_is_recorded_as_cached(
    metadata: MetadataStore, second: dict[str, Result], third: dict[str, Result]
) -> None:
    graph = read_store(metadata)
    artifact_ids = {key: artifact.id for key, artifact in graph.outputs(SECOND).items()}
    for run in (THIRD, FOURTH):  # at once
        assert states(metadata, run) == dict.fromkeys(COMPONENTS, "cached")
        assert {key: artifact.id for key, artifact in graph.outputs(run).items()} == artifact_ids
        inputs, before = ({one.component: one.inputs for one in graph.of_run[r]} for r in (run, SECOND))
        assert inputs == before
    fingerprints = {run: properties.properties.get("data_fingerprint") for run, properties in graph.runs.items()}
    assert len(fingerprints) == 6 and len(set(fingerprints.values())) == 1
    names = [e.name for e in metadata.get_executions() if e.name.partition(".")[0] in graph.runs]
    assert len(names) == len(set(names)) == 4 * len(COMPONENTS) + len(states(metadata, LOST))


def verdict(cluster: Cluster, run: str, state: str, status: int) -> str:
    """What `kubeflow status --follow` prints, which ends as `kubeflow deploy` does; only the database has verdicts."""
    with ApiServer() as api:
        api.pushed = None
        api.add_run(run, [(state, [])])
        host = ("--host", api.url, "--config", str(cluster.project.config))
        printed = cluster.command("kubeflow", "status", run, "--follow", *host, status=status)
        assert not api.problems
        return printed


@needs_database
def test_the_verdict_on_a_run_comes_from_the_database(
    cluster: Cluster, metadata: MetadataStore, third: dict[str, Result]
) -> None:
    for run in (SECOND, THIRD):
        assert verdict(cluster, run, "SUCCEEDED", status=0).split()[-1] == "pushed"
    cached = dict.fromkeys(("ImportExampleGen", "ImportSchemaGen", "Transform"), "cached")
    assert states(metadata, LOST) == {**cached, "Trainer": "running"}
    verdict(cluster, LOST, "FAILED", status=1)
    assert states(metadata, LOST) == {**cached, "Trainer": "failed"}


@needs_database
def test_the_commands_on_lineage_know_the_runs_of_the_cluster(
    cluster: Cluster, third: dict[str, Result], database: str, tmp_path: Path
) -> None:
    local, *clustered = json.loads(cluster.command("lineage", "runs", "--json"))["runs"]
    by_run = {run["run"]: run for run in clustered}
    assert set(by_run) == {FIRST, SECOND, LOST, THIRD, FOURTH}
    assert {run: (one["ran"], one["cached"]) for run, one in by_run.items() if run != LOST} == {
        FIRST: (len(COMPONENTS), 0),
        SECOND: (len(AGAIN), len(COMPONENTS) - len(AGAIN)),
        **dict.fromkeys((THIRD, FOURTH), (0, len(COMPONENTS))),
    }
    assert {one["state"] for run, one in by_run.items() if run != LOST} == {"done"} == {local["state"]}
    assert by_run[FIRST]["scores"] == local["scores"]
    before, after = cluster.versions()
    pushed = {FIRST: before, LOST: "", **dict.fromkeys((SECOND, THIRD, FOURTH), after)}
    assert {run: one["pushed"] for run, one in by_run.items()} == pushed
    assert SECOND[:8] in cluster.command("lineage", "runs")

    for story in (
        cluster.command("lineage", after),
        cluster.command("lineage", "--connection", database, home=cluster.volume),  # the model that serves
    ):
        for part in (f"run {SECOND}", f"made by run {FIRST[:19]}", "passed  bleu >= 0 ", RECORDS, "48 train + 8 eval"):
            assert part in story
        assert f"version {before}, pushed as artifact " in story
    assert f"version {local['pushed']} serves now" in cluster.command("lineage")
    for of_all in (cluster.command("lineage", RECORDS, "--down"), cluster.command("lineage", "--down", RECORDS + "/")):
        assert all(f"serving/im2latex/{version}" in of_all for version in (before, after))
    drawn = json.loads(cluster.command("lineage", after, "--json"))
    assert {run["id"] for run in drawn["runs"]} == {FIRST, SECOND}
    for form in ("--dot", "--mermaid"):
        assert "Trainer" in cluster.command("lineage", after, form)

    compared = json.loads(cluster.command("lineage", "diff", FIRST[:4], SECOND[:4], "--json"))["differences"]
    assert {(one["section"], one["name"]) for one in compared} >= {
        ("outcome", "pushed"),
        ("configuration", "training.learning_rate"),
    }
    assert {one["section"] for one in compared} <= {"outcome", "metrics", "configuration"}
    compared = json.loads(cluster.command("lineage", "diff", local["run"], FIRST, "--json"))["differences"]
    assert not {one["section"] for one in compared} & {"metrics", "code", "packages"}
    assert cluster.command("lineage", "check") == "no problems\n"
    assert cluster.command("lineage", "check", "--connection", database, home=cluster.volume) == "no problems\n"

    cluster.command("lineage", "page", "--out", str(tmp_path / "page.html"))
    page = content((tmp_path / "page.html").read_text("utf-8"))
    assert {run["run"] for run in page["runs"]} == {local["run"], *by_run}
    assert page["about"]["source"] == database
    for run in (SECOND, THIRD):
        cluster.command("report", run[:4], "--out", str(tmp_path / "report.html"))
        report = (tmp_path / "report.html").read_text("utf-8")
        assert run in report and before in report and RECORDS in report
    cluster.command("report", LOST[:4], "--out", str(tmp_path / "report.html"))


@needs_database
def test_a_run_of_the_cluster_is_reproduced_at_home(cluster: Cluster, first: dict[str, Result]) -> None:
    again = json.loads(cluster.command("reproduce", FIRST[:4], "--to", "Trainer", "--json"))
    assert again["same"] and "weights" in {one["what"] for one in again["made"]}, again
    assert {one["name"] for one in again["with"] if one["verdict"] != SAME} <= {"variables"}


@needs_database
def test_a_rollback_on_the_volume_is_recorded_with_the_runs(
    cluster: Cluster, metadata: MetadataStore, third: dict[str, Result], database: str
) -> None:
    before, after = cluster.versions()
    options = ("--connection", database)
    cluster.command("rollback", "--name", "im2latex", *options, home=cluster.volume)
    listed = json.loads(cluster.command("rollback", "--list", "--json", *options, home=cluster.volume))
    assert [(str(one["number"]), one["state"], one["run"]) for one in listed] == [
        (before, "serves", FIRST),
        (after, "withdrawn", SECOND),
    ]
    (rollback,) = metadata.get_executions_by_type(ROLLBACK)
    graph = read_store(metadata)
    pushed = {
        key: [graph.artifacts[i].properties["pushed_version"] for i in ids]
        for key, ids in graph.executions[rollback.id].inputs.items()
    }
    assert pushed == {"serves": [before], "withdrawn": [after]}
    assert f"version {before} serves, {after} withdrawn" in cluster.command("lineage", after, "--down")
    cluster.command("rollback", "--to", after, *options, home=cluster.volume)
    assert cluster.versions() == [before, after]


# --- Without a database ----------------------------------------------------------------------------------------------


@pytest.mark.one_stack
def test_a_search_on_the_cluster_finds_what_the_local_runner_finds(
    cluster: Cluster, first: dict[str, Result], project: Project
) -> None:
    settings = ("tuning.trials=2", "tuning.epochs=1", "training.warmup_steps=0")
    local = project.run("--to", "Trainer", *(part for one in settings for part in ("--set", one)))
    assert local.returncode == 0, local.stderr
    results = cluster.run(*settings, "metadata.connection=")
    assert results["tuner"].state == "ran" and RECORD not in results
    outputs = [("Tuner", "tuner_results"), ("Trainer", "model")]
    sides = [
        {
            key: max((project.home / "pipeline_root" / key[0] / key[1]).iterdir(), key=lambda f: int(f.name))
            for key in outputs
        },
        {key: cluster.output(results, task_name(key[0]), key[1]) for key in outputs},
    ]
    assert [(one.what, one.verdict) for one in compare(*sides)] == [("trials", SAME), ("weights", SAME)]
    assert results["tuner"].artifacts["best_hyperparameters"]["metadata"]["trials"] == 2
    assert not list((cluster.volume / "checkpoints").iterdir())
    report = (cluster.output(results, "reporter", "report") / "report.html").read_text(encoding="utf-8")
    assert "<caption>Trials</caption>" in report
