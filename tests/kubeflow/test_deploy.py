# No `from __future__ import annotations`: kfp reads annotations as types when it compiles.
import copy
import dataclasses
import datetime
import importlib.util
import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kfp
import kfp_server_api
import pytest
import urllib3
from kfp import compiler, dsl, kubernetes

from kubeflow import cluster, following, specification
from pipeline import cli
from tests.kubeflow.api_server import BEGINNING, KUBE_PROXY, KUBE_PROXY_OF_PAGES, METADATA, ApiServer, Failure, play

TOKEN = "eyJ-a-token-that-nobody-may-see"
IMAGE = "registry.example/im2latex:1.0"
ROOT = "minio://mlpipeline/v2/artifacts"
DATA = "minio://mlpipeline/records"
GOOD_RUN = (
    ("import-example-gen", "cached"),
    ("trainer", "succeeded"),
    ("pusher", "succeeded"),
)
SETTINGS = (
    "kubeflow.image=registry.example/im2latex@sha256:" + 64 * "a",
    "kubeflow.volume=models",
    "kubeflow.data=s3://bucket/data",
)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result of a command."""

    status: int
    out: str
    err: str


Command = Callable[..., Answer]


@dsl.container_component
def import_example_gen(data: str):  # type: ignore[no-untyped-def]
    return dsl.ContainerSpec(image=IMAGE, command=["gen"], args=[data])


@dsl.container_component
def trainer(epochs: int, rate: float):  # type: ignore[no-untyped-def]
    return dsl.ContainerSpec(image=IMAGE, command=["train"], args=[epochs, rate])


@dsl.container_component
def pusher():  # type: ignore[no-untyped-def]
    return dsl.ContainerSpec(image=IMAGE, command=["push"])


@pytest.fixture(scope="module")
def pipeline_yaml(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small pipeline from kfp's own compiler, with two documents and parameters of all types."""

    @dsl.pipeline(name="im2latex")
    def small(
        data: str,
        epochs: int = 3,
        rate: float = 0.1,
        quick: bool = False,
        tags: list = [],  # noqa: B006
        extra: dict = {},  # noqa: B006
    ) -> None:
        first = import_example_gen(data=data)
        second = trainer(epochs=epochs, rate=rate).after(first)
        kubernetes.use_secret_as_env(second, secret_name="hub", secret_key_to_env={"token": "HF_TOKEN"})
        pusher().after(second)

    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compiler.Compiler().compile(small, str(path))
    return path.read_text()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, pipeline_yaml: str) -> SimpleNamespace:
    """Replaces kubeflow.runner, whose imports take many seconds; a test below uses the real one."""
    runner = SimpleNamespace(text=pipeline_yaml)
    runner.compile_pipeline = lambda config: runner.text
    monkeypatch.setitem(sys.modules, "kubeflow.runner", runner)
    return runner


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        running.frames = play(*GOOD_RUN)
        yield running
    assert not running.problems


@pytest.fixture
def guarded() -> Iterator[ApiServer]:
    """A server that requires a token."""
    with ApiServer(TOKEN) as running:
        running.frames = play(*GOOD_RUN)
        yield running
    assert not running.problems


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, compiled: SimpleNamespace
) -> Command:
    """Runs `im2latex kubeflow …` as in a shell, without this machine's configuration."""
    for variable in os.environ:
        if variable.startswith(("KF_PIPELINES_", "KFP_", "KUBE")) or variable in (
            "SSL_CERT_FILE",
            "REQUESTS_CA_BUNDLE",
        ):
            monkeypatch.delenv(variable)
    monkeypatch.setattr("kfp.client.client.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(following, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(following, "LONGEST_PAUSE", 0.1)

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["im2latex", "kubeflow", *arguments])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Answer(status, printed.out, printed.err)

    return run


@pytest.fixture
def deployed(command: Command, server: ApiServer) -> Command:
    """Runs `deploy` to the server, with the required options."""

    def run(*arguments: str) -> Answer:
        options = ("--host", server.url, "--pipeline-root", ROOT, "--param", f"data={DATA}", "--every", "0.01")
        return command("deploy", *options, *arguments)

    return run


def started_run(server: ApiServer) -> str:
    return server.state.runs[-1].run_id


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"display_name": 3}, "V2beta1Run.display_name = 3 is no str"),
        ({"runtime_config": {"root": ROOT}}, "V2beta1Run.runtime_config.root is not a field of V2beta1RuntimeConfig"),
        ({"state": "DONE"}, "V2beta1Run.state = 'DONE' is none of RUNTIME_STATE_UNSPECIFIED"),
        ({"state_history": {}}, "V2beta1Run.state_history = {} is no list"),
    ],
)
def test_the_server_of_these_tests_is_strict(body: dict, problem: str) -> None:
    with ApiServer() as strict:
        answer = urllib3.PoolManager().request(
            "POST", f"{strict.url}/apis/v2beta1/runs", body=json.dumps(body).encode()
        )
        assert answer.status == 400
        assert problem in strict.problems[0]
        for address in ("/apis/v2beta1/runs?sort=name", "/apis/v1beta1/runs"):
            assert urllib3.PoolManager().request("GET", strict.url + address).status == 400
        assert not strict.requests


# --- deploy ---


def test_the_first_deploy_creates_pipeline_experiment_and_run(deployed: Command, server: ApiServer) -> None:
    answer = deployed()
    assert (answer.status, answer.err) == (0, "")
    assert [pipeline.display_name for pipeline in server.state.pipelines] == ["im2latex"]
    assert [experiment.display_name for experiment in server.state.experiments] == ["im2latex"]
    (run,), (version,) = server.state.runs, server.state.versions
    assert run.experiment_id == server.state.experiments[0].experiment_id
    assert run.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
    assert "pipeline     im2latex, new, version im2latex" in answer.out
    assert "experiment   im2latex, new" in answer.out
    assert f"{server.url}/#/runs/details/{run.run_id}" in answer.out


def test_the_upload_is_the_compiled_pipeline(deployed: Command, server: ApiServer, compiled: SimpleNamespace) -> None:
    deployed()
    assert server.did("upload_pipeline")[0].file == compiled.text


def test_the_same_yaml_is_not_uploaded_again(deployed: Command, server: ApiServer) -> None:
    deployed()
    answer = deployed()
    assert answer.status == 0
    assert "im2latex, version im2latex, unchanged" in answer.out
    assert (len(server.did("upload_pipeline")), len(server.did("upload_pipeline_version"))) == (1, 0)
    assert len(server.state.runs) == 2


def test_changed_yaml_is_a_new_version(deployed: Command, server: ApiServer, compiled: SimpleNamespace) -> None:
    deployed()
    compiled.text = compiled.text.replace(IMAGE, "registry.example/im2latex:1.1")
    answer = deployed()
    (upload,) = server.did("upload_pipeline_version")
    assert upload.file == compiled.text
    assert upload.query["pipelineid"] == server.state.pipelines[0].pipeline_id
    assert f"new version {upload.query['name']}" in answer.out
    newest = server.state.versions[-1]
    assert server.state.runs[-1].pipeline_version_reference.pipeline_version_id == newest.pipeline_version_id


def test_an_older_version_with_the_same_yaml_is_reused(
    deployed: Command, server: ApiServer, compiled: SimpleNamespace
) -> None:
    deployed()
    first, compiled.text = compiled.text, compiled.text.replace(IMAGE, "registry.example/im2latex:1.1")
    deployed()
    compiled.text = first
    deployed()
    assert len(server.state.versions) == 2
    oldest = server.state.versions[0]
    assert server.state.runs[-1].pipeline_version_reference.pipeline_version_id == oldest.pipeline_version_id


def test_without_the_cache_every_task_is_executed(deployed: Command, server: ApiServer) -> None:
    deployed()
    assert deployed("--no-cache").status == 0
    cached, uncached = (
        version.pipeline_spec["pipeline_spec"]["root"]["dag"]["tasks"] for version in server.state.versions
    )
    assert {name: task["cachingOptions"] for name, task in uncached.items()} == dict.fromkeys(cached, {})
    assert all(task["cachingOptions"] == {"enableCache": True} for task in cached.values())


def test_an_existing_experiment_is_used(deployed: Command, server: ApiServer) -> None:
    deployed("--experiment", "nightly")
    deployed("--experiment", "nightly")
    deployed("--experiment", "other")
    assert [experiment.display_name for experiment in server.state.experiments] == ["nightly", "other"]
    nightly, other = (experiment.experiment_id for experiment in server.state.experiments)
    assert [run.experiment_id for run in server.state.runs] == [nightly, nightly, other]


def test_kfps_own_variables_name_the_experiment(
    deployed: Command, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_DEFAULT_EXPERIMENT_NAME", "by-default")
    deployed()
    monkeypatch.setenv("KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME", "in-any-case")
    deployed("--experiment", "nightly")
    assert [experiment.display_name for experiment in server.state.experiments] == ["by-default", "in-any-case"]


def test_pipeline_root_and_parameters_keep_their_types(deployed: Command, server: ApiServer) -> None:
    arguments = ("epochs=7", "rate=0.25", "quick=true", 'tags=["a", "b"]', 'extra={"k": 1}')
    assert deployed(*(part for setting in arguments for part in ("--param", setting))).status == 0
    (run,) = server.state.runs
    assert run.runtime_config.pipeline_root == ROOT
    assert run.runtime_config.parameters == {
        "data": DATA, "epochs": 7, "rate": 0.25, "quick": True, "tags": ["a", "b"], "extra": {"k": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("parameter", "sentence"),
    [
        ("epoch=7", "no parameter 'epoch'; did you mean epochs?"),
        ("epochs=many", "epochs=many is not valid: it takes a number"),
        ("quick=perhaps", "quick=perhaps is not valid: it takes true or false"),
        ("tags={}", "it takes a JSON list"),
        ("epochs", "--param takes NAME=VALUE"),
        ("data=s3://formulas", "'s3://formulas' is a bucket; give a folder in it, such as s3://formulas/records"),
        ("data=s3://formulas/records", "is in another bucket than the pipeline root minio://mlpipeline/v2/artifacts"),
    ],
)
def test_an_invalid_parameter_is_refused_before_the_upload(
    deployed: Command, server: ApiServer, parameter: str, sentence: str
) -> None:
    answer = deployed("--param", parameter)
    assert answer.status == 1
    assert sentence in answer.err
    assert not server.state.pipelines


def test_a_parameter_without_a_default_is_required(command: Command, server: ApiServer) -> None:
    answer = command("deploy", "--host", server.url)
    assert answer.status == 1
    assert "needs a value for data; give --param data=VALUE" in answer.err


def test_the_default_pipeline_root_is_that_of_the_cluster(command: Command, server: ApiServer) -> None:
    assert command("deploy", "--host", server.url, "--param", "data=d", "--every", "0.01").status == 0
    assert "pipeline_root" not in server.did("create_run")[0].body["runtime_config"]


def test_the_pipeline_root_of_the_configuration_is_used(command: Command, server: ApiServer) -> None:
    options = ("--host", server.url, "--param", f"data={DATA}", "--every", "0.01")
    assert command("deploy", *options, "--set", f"kubeflow.pipeline_root={ROOT}").status == 0
    assert server.state.runs[0].runtime_config.pipeline_root == ROOT


def test_a_pipeline_root_in_another_bucket_gives_a_warning(deployed: Command) -> None:
    assert "--no-cache" not in deployed("--no-follow").out
    elsewhere = ("--no-follow", "--pipeline-root", "minio://another/runs", "--param", "data=minio://another/records")
    answer = deployed(*elsewhere)
    assert f"im2latex: the pipeline root was {ROOT}, and outputs in the cache still lie there" in answer.out
    assert answer.status == 0
    for arguments in (
        elsewhere,  # the root of the last run
        ("--no-follow", "--no-cache"),
        ("--no-follow", "--pipeline-root", "minio://another", "--set", 'kubeflow.environment={AWS_REGION="here"}'),
    ):
        assert "outputs in the cache" not in deployed(*arguments).out


def test_no_follow_returns_after_the_start(deployed: Command, server: ApiServer) -> None:
    answer = deployed("--no-follow")
    assert answer.status == 0
    assert not server.did("get_run")
    assert f"`im2latex kubeflow status {started_run(server)} --follow --host {server.url}` follows it" in answer.out


def test_a_failed_start_keeps_the_uploaded_version(deployed: Command, server: ApiServer) -> None:
    server.failures.append(Failure("create_run", 400, '{"message": "the pipeline root is no address"}'))
    answer = deployed()
    assert answer.status == 1
    assert "the pipeline root is no address" in answer.err
    assert (
        "no run was started; the pipeline's version im2latex and the experiment im2latex exist and will be reused"
        in answer.err
    )
    assert deployed().status == 0
    assert (len(server.state.versions), len(server.state.experiments), len(server.state.runs)) == (1, 1, 1)


def test_a_lost_answer_to_the_start_is_reported(deployed: Command, server: ApiServer) -> None:
    server.failures.append(Failure("create_run", reset=True))
    answer = deployed()
    assert answer.status == 1
    assert "it is not known whether the run was started" in answer.err


# --- following ---


def test_each_task_has_a_line_when_it_starts_and_one_when_it_ends(deployed: Command) -> None:
    assert deployed().out.splitlines()[-7:] == [
        "import-example-gen                    started",
        "import-example-gen             8.0 s  cached",
        "trainer                               started",
        "trainer                       30.0 s  succeeded",
        "pusher                                started",
        "pusher                        30.0 s  succeeded",
        "done                        5 m 00 s  pushed",
    ]


def test_a_task_that_ran_while_another_came_from_the_cache_is_not_called_cached() -> None:
    nodes = play(("slow", "succeeded"), ("quick", "cached"))[-1][1]
    quick = next(node for node in nodes if node.display_name == "quick")
    slow = next(node for node in nodes if node.display_name == "slow")
    quick_container = next(node for node in nodes if node.display_name == "executor" and node.state == "SKIPPED")
    for node in (quick, quick_container):  # while the slow task runs
        node.start_time = node.end_time = slow.start_time + datetime.timedelta(seconds=5)
    run = SimpleNamespace(state="RUNNING", run_details=SimpleNamespace(task_details=list(nodes)), finished_at=None)
    for node in nodes:
        node.end_time = None if isinstance(node.end_time, str) else node.end_time
    assert [task.state for task in following.read_tasks(run, ["slow", "quick"])] == ["succeeded", "cached"]


def test_a_run_that_fails_names_the_task_the_cause_and_its_log(deployed: Command, server: ApiServer) -> None:
    server.frames = play(
        ("import-example-gen", "succeeded"), ("trainer", "failed", "main: Error (exit code 137)"), ("pusher", "skipped")
    )
    answer = deployed()
    assert answer.status == 1
    assert re.search(r"^trainer +30.0 s  failed: main: Error \(exit code 137\)$", answer.out, re.M)
    assert re.search(r"^pusher +skipped$", answer.out, re.M)
    run = started_run(server)
    assert answer.err.startswith("im2latex: trainer failed: main: Error (exit code 137); its log: `kubectl logs ")
    assert f"--selector pipeline/runid={run} --container main" in answer.err
    assert f"{server.url}/#/runs/details/{run}" in answer.err


@pytest.mark.parametrize("run_state", ["RUNNING", "FAILED"])
@pytest.mark.parametrize("nodes", [("pusher-driver",), ("pusher-driver", "pusher"), ("pusher",)])
def test_tasks_that_never_started_are_skipped(nodes: tuple[str, ...], run_state: str) -> None:
    details = [
        kfp_server_api.V2beta1PipelineTaskDetail(display_name=name, start_time=BEGINNING, end_time=BEGINNING)
        for name in nodes
    ]
    run = SimpleNamespace(
        state=run_state, run_details=SimpleNamespace(task_details=details), finished_at=BEGINNING, error=None
    )
    (task,) = following.read_tasks(run, ["pusher"])
    assert (task.state, task.started, task.ended) == ("skipped", None, None)


def test_a_run_that_fails_before_any_task_has_the_message_of_the_server(deployed: Command, server: ApiServer) -> None:
    server.frames = [("RUNNING", []), ("FAILED", [])]
    answer = deployed()
    assert answer.status == 1
    assert f"the run {started_run(server)} failed; its log:" in answer.err
    assert len(re.findall(r"skipped$", answer.out, re.M)) == 3


def test_a_run_whose_pusher_pushed_nothing_ends_with_status_3(
    deployed: Command, command: Command, server: ApiServer
) -> None:
    server.pushed = False
    answer = deployed()
    assert (answer.status, answer.err) == (3, "")
    assert answer.out.splitlines()[-1].endswith("not pushed: the model was not good enough or was withdrawn")
    shown = command("status", "--host", server.url)
    assert shown.status == 0
    assert shown.out.splitlines()[0].endswith(": not pushed: the model was not good enough or was withdrawn")
    assert json.loads(command("status", "--host", server.url, "--json").out)["pushed"] is False


def test_a_run_whose_pusher_was_skipped_ends_with_status_3(deployed: Command, server: ApiServer) -> None:
    server.frames = play(("import-example-gen", "succeeded"), ("trainer", "succeeded"), ("pusher", "skipped"))
    answer = deployed()
    assert (answer.status, answer.err) == (3, "")
    assert answer.out.splitlines()[-1].endswith("not pushed: the model was not good enough or was withdrawn")


def test_without_ml_metadata_the_push_is_reported_as_unknown(deployed: Command, server: ApiServer) -> None:
    server.pushed = None
    answer = deployed()
    assert answer.status == 0
    assert "it is not known whether the model was pushed" in answer.out
    assert "does not answer for ML Metadata (404): 404 page not found" in answer.out
    assert re.search(r"^done .* succeeded$", answer.out, re.M)


def test_ml_metadata_is_retried(deployed: Command, server: ApiServer) -> None:
    server.pushed = False
    server.failures.append(Failure("GetEventsByExecutionIDs", 503, "", times=2))
    answer = deployed()
    assert "cannot answer for ML Metadata for now (503); trying again" in answer.out
    assert answer.status == 3


def test_ml_metadata_is_at_the_address_of_the_web_page(
    deployed: Command, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pushed = None
    with ApiServer() as pages:
        pages.pushed = False
        pages.state = server.state
        monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", f"{pages.url}/pipeline")
        answer = deployed()
    assert answer.status == 3
    assert f"{pages.url}/pipeline/#/runs/details/{started_run(server)}" in answer.out


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (Failure("get_run", 503, "<html>no healthy upstream</html>", times=3, after=2), "cannot show the run"),
        (Failure("get_run", 502, '{"message": "bad gateway"}', times=3, after=2), "(502): bad gateway"),
        (Failure("get_run", 504, "", times=1, after=1), "(504)"),
        (Failure("get_run", reset=True, times=4, after=2), "cannot be reached"),
    ],
    ids=["unavailable", "bad gateway", "gateway time-out", "reset"],
)
def test_following_survives_an_outage_of_the_server(
    deployed: Command, server: ApiServer, failure: Failure, sentence: str
) -> None:
    server.failures.append(failure)
    answer = deployed()
    assert answer.status == 0, answer.err
    (line, *_) = [line for line in answer.out.splitlines() if "trying again" in line]
    assert sentence in line
    assert "<html>" not in answer.out
    assert "the server answers again" in answer.out
    assert answer.out.splitlines()[-1].endswith("pushed")


def test_following_survives_a_lost_answer(
    deployed: Command, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "TIMEOUT", (1, 1))
    server.failures.append(Failure("get_run", seconds=1.3, times=4, after=2))
    answer = deployed()
    assert answer.status == 0, answer.err
    assert "does not answer in time" in answer.out


def test_following_gives_up_after_a_long_outage(
    deployed: Command, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PATIENCE", 0.4)
    server.failures.append(Failure("get_run", 503, "", times=1000, after=2))
    answer = deployed()
    assert answer.status == 1
    assert (
        f"(the run continues; `im2latex kubeflow status {started_run(server)} --follow --host {server.url}` follows it)"
        in answer.err
    )


def test_a_token_that_expires_while_following_is_reported(
    command: Command, guarded: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_EXISTING_TOKEN", TOKEN)
    get_run = guarded.get_run

    def last_time(request: object) -> object:
        guarded.token = "another"
        return get_run(request)

    monkeypatch.setattr(guarded, "get_run", last_time)
    answer = command("deploy", "--host", guarded.url, "--param", "data=d", "--every", "0.01")
    assert answer.status == 1
    assert "does not take the token, which may have expired (401): Unauthenticated" in answer.err
    assert "kubectl create token" in answer.err
    assert f"`im2latex kubeflow status {started_run(guarded)} --follow --host {guarded.url}` follows it" in answer.err
    assert answer.err.count("\n") == 1
    assert TOKEN not in answer.out + answer.err


def test_a_renewed_token_file_is_read_again(
    command: Command, guarded: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    get_run = guarded.get_run

    def renewing(request: object) -> object:
        guarded.token = f"{TOKEN}-renewed"
        file.write_text(guarded.token)
        return get_run(request)

    monkeypatch.setattr(guarded, "get_run", renewing)
    answer = command(
        "deploy", "--host", guarded.url, "--param", "data=d", "--every", "0.01", "--token-file", str(file)
    )  # fmt: skip
    assert (answer.status, answer.err) == (0, "")
    assert {request.authorization for request in guarded.did("get_run")[1:]} == {f"Bearer {TOKEN}-renewed"}


def test_a_token_file_that_vanishes_is_reported(
    command: Command, guarded: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    get_run = guarded.get_run

    def removing(request: object) -> object:
        file.unlink(missing_ok=True)
        return get_run(request)

    monkeypatch.setattr(guarded, "get_run", removing)
    answer = command(
        "deploy", "--host", guarded.url, "--param", "data=d", "--every", "0.01", "--token-file", str(file)
    )  # fmt: skip
    assert answer.status == 1
    assert f"cannot read the token in {file}: No such file or directory" in answer.err


def test_a_login_is_retried_once(deployed: Command, server: ApiServer) -> None:
    server.failures.append(Failure("get_run", 401, "", times=1, after=2))
    before = len(server.did("get_healthz"))
    assert deployed().status == 0
    assert len(server.did("get_healthz")) == before + 2  # each new client sends one request


@pytest.mark.integration
def test_ctrl_c_leaves_the_run_and_says_how_to_follow_it(deployed: Command, server: ApiServer, tmp_path: Path) -> None:
    server.frames = play(*GOOD_RUN)[:-1]
    server.frames = [*server.frames, ("RUNNING", server.frames[-1][1])]
    deployed("--no-follow")
    run = started_run(server)
    child = subprocess.Popen(
        [sys.executable, "-u", "-m", "pipeline.cli", "kubeflow", "status", run, "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "KF_PIPELINES_ENDPOINT": server.url, "HOME": str(tmp_path)},
    )
    assert child.stdout is not None
    assert "started" in child.stdout.readline()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err == (
        f"im2latex: the run continues in the cluster; `im2latex kubeflow status {run} --follow` follows it, "
        f"`im2latex kubeflow cancel {run}` stops it\n"
    )
    assert not server.did("terminate_run")


# --- refusals of the server ---


@pytest.mark.parametrize(
    ("operation", "status", "sentence"),
    [
        ("get_healthz", 401, "wants a token (401): because; get one, such as `kubectl create token"),
        ("list_pipelines", 403, "does not list pipelines (403): because; use the token of someone who may"),
        ("upload_pipeline", 409, "does not take the pipeline im2latex (409): because; someone else was doing the same"),
        ("upload_pipeline", 400, "does not take the pipeline im2latex (400): because; put right what it names"),
        ("create_experiment", 404, "does not make the experiment im2latex (404): because; look whether the name"),
        ("list_pipelines", 500, "cannot list pipelines for now (500): because; give the same command again"),
    ],
)
@pytest.mark.parametrize("form", ['{{"message": "{}"}}', '{{"error_message": "{}", "error_details": "x"}}', "{}\n"])
def test_a_refusal_is_one_sentence_with_what_to_do(
    deployed: Command, server: ApiServer, operation: str, status: int, sentence: str, form: str
) -> None:
    server.failures.append(Failure(operation, status, form.format("because")))
    answer = deployed()
    assert answer.status == 1
    assert sentence in answer.err
    assert answer.err.count("\n") == 1
    assert not server.state.runs


def test_an_unreachable_server_is_one_sentence(command: Command) -> None:
    answer = command("status", "--host", "http://127.0.0.1:9")
    assert answer.status == 1
    assert answer.err.startswith("im2latex: http://127.0.0.1:9 cannot be reached (")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize("host", ["http://", "http://:x", "http://a b"])
def test_an_invalid_address_is_refused(command: Command, host: str) -> None:
    answer = command("status", "--host", host)
    assert answer.status == 1
    assert answer.err.startswith("im2latex: ")


def test_a_missing_address_is_reported_in_one_sentence_with_how_to_get_one(command: Command) -> None:
    answer = command("status")
    assert (answer.status, answer.out) == (1, "")
    assert answer.err.startswith(
        "im2latex: no address of Kubeflow Pipelines is known: give --host or set KF_PIPELINES_ENDPOINT"
    )
    assert answer.err.count("\n") == 1


def test_other_messages_of_kfps_client_go_to_stderr(
    command: Command, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = kfp.Client._load_config

    def load_with_messages(self: kfp.Client, *arguments: Any, **options: Any) -> Any:
        print("log in at https://example.com")
        print("Failed to load kube config.")
        print("")
        return load(self, *arguments, **options)

    monkeypatch.setattr(kfp.Client, "_load_config", load_with_messages)
    answer = command("status", "--host", server.url)
    assert answer.out == ""
    first, second, *others = answer.err.splitlines()
    assert (first, second) == ("log in at https://example.com", "")
    assert len(others) == 1 and others[0].startswith("im2latex: there is no pipeline im2latex")


def test_the_address_comes_from_kfps_own_variable(
    command: Command, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
    answer = command("status")
    assert "there is no pipeline im2latex; `im2latex kubeflow deploy` creates it" in answer.err


def test_a_kubeconfig_with_a_token_uses_the_api_of_kubernetes(
    command: Command, guarded: ApiServer, tmp_path: Path
) -> None:
    entries = {
        "clusters": [{"name": "here", "cluster": {"server": guarded.url}}],
        "users": [{"name": "me", "user": {"token": TOKEN}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }
    document = {"apiVersion": "v1", "kind": "Config", "current-context": "here", **entries}
    (tmp_path / "kubeconfig").write_text(json.dumps(document))
    guarded.pushed = False
    answer = command("deploy", "--param", "data=d", "--every", "0.01")
    assert answer.status == 3, answer.err
    metadata = [path for path in guarded.paths if METADATA in path]
    assert all(path.startswith(KUBE_PROXY_OF_PAGES) for path in metadata)
    assert all(path.startswith(KUBE_PROXY) for path in guarded.paths if path not in metadata)
    assert (len(metadata), len(guarded.paths)) == (4, len(guarded.requests) + 4)
    assert {request.authorization for request in guarded.requests} == {f"Bearer {TOKEN}"}
    guarded.token = "another"  # this server repeats the token it got
    refused = command("status")
    assert "(the token)" in refused.err
    assert TOKEN not in refused.err


def test_a_login_page_is_not_parsed_as_an_empty_answer(deployed: Command, server: ApiServer) -> None:
    server.failures.append(Failure("list_pipelines", page=True))
    answer = deployed()
    assert answer.status == 1
    assert "answers with a web page instead of the API" in answer.err
    assert not server.state.pipelines


def test_a_private_certificate_is_accepted_with_its_authority(command: Command, tmp_path: Path) -> None:
    if importlib.util.find_spec("cryptography") is None:
        pytest.skip("needs cryptography, to make a certificate")
    certificate, key = self_signed(tmp_path)
    with ApiServer(certificate=(certificate, key)) as server:
        server.frames = play(*GOOD_RUN)
        arguments = ("deploy", "--host", server.url, "--param", "data=d", "--every", "0.01")
        refused = command(*arguments)
        assert refused.status == 1
        assert "its certificate is not trusted" in refused.err
        assert command(*arguments, "--ca-cert", str(certificate)).status == 0
    missing = command(*arguments, "--ca-cert", str(tmp_path / "none.pem"))
    assert "there is no certificate" in missing.err


def self_signed(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "certificate.pem", folder / "key.pem"


# --- secrets ---


def test_no_token_is_printed(
    command: Command, guarded: ApiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KFP_EXISTING_TOKEN", TOKEN)
    options = ("--host", guarded.url.replace("http://", "http://someone:a-password@"), "--every", "0.01")
    answers = [command("deploy", *options, "--param", "data=d"), command("status", *options)]
    assert [answer.status for answer in answers] == [0, 0]
    assert {request.authorization for request in guarded.requests} == {f"Bearer {TOKEN}"}
    guarded.token = "another"  # this server repeats the token it got
    answers.append(command("status", *options))
    assert "Unauthenticated: Bearer (the token)" in answers[-1].err
    for answer in answers:
        for secret in (TOKEN, "a-password"):
            assert secret not in answer.out + answer.err
    assert TOKEN not in json.dumps([request.file or request.query for request in guarded.requests])


def test_a_server_that_requires_a_token_is_recognised(command: Command, guarded: ApiServer) -> None:
    answer = command("status", "--host", guarded.url)
    assert "wants a token (401)" in answer.err
    assert "set KFP_EXISTING_TOKEN or give --token-file" in answer.err


# --- status and cancel ---


def test_status_shows_the_last_run_with_tasks_that_have_not_started(
    deployed: Command, command: Command, server: ApiServer
) -> None:
    server.frames = play(*GOOD_RUN)[:5]
    deployed("--no-follow")
    deployed("--no-follow")
    for _ in range(4):
        command("status", "--host", server.url)
    answer = command("status", "--host", server.url)
    assert answer.status == 0
    assert started_run(server) in answer.out
    lines = [line.split() for line in answer.out.splitlines()]
    assert [line[:2] for line in lines[-3:]] == [
        ["import-example-gen", "cached"],
        ["trainer", "running"],
        ["pusher", "waiting"],
    ]


def test_status_prints_json(deployed: Command, command: Command, server: ApiServer) -> None:
    deployed()
    run = started_run(server)
    document = json.loads(command("status", run, "--host", server.url, "--json").out)
    assert (document["run_id"], document["state"]) == (run, "SUCCEEDED")
    assert document["address"] == f"{server.url}/#/runs/details/{run}"
    assert [(task["name"], task["state"], task["seconds"]) for task in document["tasks"]] == [
        ("import-example-gen", "cached", 8.0), ("trainer", "succeeded", 30.0), ("pusher", "succeeded", 30.0),
    ]  # fmt: skip
    assert datetime.datetime.fromisoformat(document["tasks"][0]["started"]) == BEGINNING


def test_deploy_prints_json_on_stdout_and_messages_on_stderr(deployed: Command, server: ApiServer) -> None:
    answer = deployed("--json")
    assert json.loads(answer.out)["state"] == "SUCCEEDED"
    assert "trainer" in answer.err
    started = json.loads(deployed("--json", "--no-follow").out)
    assert started["run_id"] == started_run(server)
    assert started["version_id"] == server.state.versions[0].pipeline_version_id


def test_status_of_a_run_whose_version_was_deleted_shows_the_tasks_that_started(
    deployed: Command, command: Command, server: ApiServer
) -> None:
    deployed()
    server.state.versions.clear()
    answer = command("status", started_run(server), "--host", server.url)
    assert [line.split()[0] for line in answer.out.splitlines()[-3:]] == ["import-example-gen", "trainer", "pusher"]


def test_the_last_run_is_found_among_many_runs_of_other_pipelines(
    deployed: Command, command: Command, server: ApiServer
) -> None:
    deployed("--no-follow")
    expected = started_run(server)
    for _ in range(60):
        other = deployed_elsewhere(server)
        assert other != expected
    assert expected in command("status", "--host", server.url).out


def deployed_elsewhere(server: ApiServer) -> str:
    """Adds a run of another pipeline, newer than all others."""
    run = copy.deepcopy(server.state.runs[-1])
    run.run_id = f"elsewhere-{len(server.state.runs)}"
    run.created_at += datetime.timedelta(seconds=1)
    run.pipeline_version_reference.pipeline_id = "another"
    server.state.runs.append(run)
    return run.run_id


def test_an_unknown_run_is_reported(command: Command, server: ApiServer) -> None:
    for name in ("status", "cancel"):
        answer = command(name, "no-such-run", "--host", server.url)
        assert answer.status == 1
        assert "does not show the run no-such-run (404)" in answer.err


def test_cancel_stops_a_run_and_following_it_says_so(deployed: Command, command: Command, server: ApiServer) -> None:
    server.frames = play(*GOOD_RUN)[:5]
    deployed("--no-follow")
    run = started_run(server)
    for _ in range(4):
        command("status", run, "--host", server.url)
    answer = command("cancel", run, "--host", server.url)
    assert (answer.status, answer.out) == (0, f"the run {run} is being stopped\n")
    followed = command("status", run, "--follow", "--every", "0.01", "--host", server.url)
    assert followed.status == 1
    assert f"the run {run} was cancelled" in followed.err
    assert [line.split()[-1] for line in followed.out.splitlines()[-3:]] == ["cached", "stopped", "skipped"]
    again = command("cancel", run, "--host", server.url)
    assert again.out == f"the run {run} has ended already\n"
    assert len(server.did("terminate_run")) == 1


# --- schedule ---


@pytest.fixture
def scheduled(command: Command, server: ApiServer) -> Command:
    """Runs `schedule --cron` on the server."""

    def run(cron: str, *arguments: str) -> Answer:
        options = ("--host", server.url, "--pipeline-root", ROOT, "--param", "data=d")
        return command("schedule", "--cron", cron, *options, *arguments)

    return run


def test_a_schedule_runs_this_version_with_these_settings(scheduled: Command, server: ApiServer) -> None:
    answer = scheduled("0 0 3 * * 1", "--max-concurrency", "2", "--catchup")
    assert (answer.status, answer.err) == (0, "")
    (schedule,) = server.state.schedules
    assert schedule.trigger.cron_schedule.cron == "0 0 3 * * 1"
    assert (schedule.mode, schedule.max_concurrency, schedule.no_catchup) == ("ENABLE", "2", False)
    assert (schedule.runtime_config.pipeline_root, schedule.runtime_config.parameters) == (ROOT, {"data": "d"})
    assert schedule.pipeline_version_reference.pipeline_version_id == server.state.versions[0].pipeline_version_id
    assert f"schedule     {schedule.recurring_run_id}, 0 0 3 * * 1" in answer.out


def test_a_new_schedule_replaces_the_earlier_one(scheduled: Command, server: ApiServer) -> None:
    scheduled("0 0 3 * * 1")
    earlier = server.state.schedules[0].recurring_run_id
    answer = scheduled("0 30 4 * * *")
    (schedule,) = server.state.schedules
    assert (schedule.trigger.cron_schedule.cron, schedule.no_catchup) == ("0 30 4 * * *", True)
    assert schedule.recurring_run_id != earlier
    assert "instead of 1 earlier" in answer.out


def test_other_schedules_are_not_touched(scheduled: Command, command: Command, server: ApiServer) -> None:
    scheduled("0 0 3 * * 1")
    server.state.schedules[0].display_name = "made in the browser"
    scheduled("0 0 4 * * 1")
    command("schedule", "--off", "--host", server.url)
    assert [schedule.display_name for schedule in server.state.schedules] == ["made in the browser"]


def test_a_refused_schedule_keeps_the_earlier_one(scheduled: Command, server: ApiServer) -> None:
    scheduled("0 0 3 * * 1")
    server.failures.append(Failure("create_recurring_run", 400, '{"message": "cron is not a supported format"}'))
    answer = scheduled("0 0 3 * * MONTAG")
    assert answer.status == 1
    assert "cron is not a supported format" in answer.err
    assert [schedule.trigger.cron_schedule.cron for schedule in server.state.schedules] == ["0 0 3 * * 1"]


@pytest.mark.parametrize(
    ("cron", "sentence"), [("0 3 * * 1", "--cron '0 0 3 * * 1'"), ("weekly", "has 1 fields, not the 6")]
)
def test_an_invalid_cron_is_refused_before_the_upload(
    scheduled: Command, server: ApiServer, cron: str, sentence: str
) -> None:
    answer = scheduled(cron)
    assert answer.status == 1
    assert sentence in answer.err
    assert not server.requests


def test_schedules_are_listed_and_deleted(scheduled: Command, command: Command, server: ApiServer) -> None:
    assert command("schedule", "--list", "--host", server.url).out == "the pipeline im2latex has no schedule\n"
    scheduled("0 0 3 * * 1")
    schedule_id = server.state.schedules[0].recurring_run_id
    listed = command("schedule", "--list", "--host", server.url)
    assert listed.out == f"{schedule_id}  0 0 3 * * 1  1 at a time, without those missed\n"
    (document,) = json.loads(command("schedule", "--list", "--json", "--host", server.url).out)
    assert (document["schedule_id"], document["cron"], document["enabled"]) == (schedule_id, "0 0 3 * * 1", True)
    assert command("schedule", "--off", "--host", server.url).out == f"{schedule_id}  0 0 3 * * 1  is off\n"
    assert not server.state.schedules


def test_schedule_takes_one_action(command: Command) -> None:
    for arguments in ((), ("--list", "--off"), ("--cron", "0 0 3 * * 1", "--off")):
        answer = command("schedule", *arguments)
        assert answer.status == 1
        assert "schedule takes one of --cron EXPRESSION, --list and --off" in answer.err


# --- compile ---


def test_compile_writes_the_yaml_and_prints_a_summary(
    command: Command, compiled: SimpleNamespace, tmp_path: Path
) -> None:
    out = tmp_path / "pipeline.yaml"
    answer = command("compile", "--out", str(out))
    assert (answer.status, answer.out) == (0, f"{out}: 3 tasks, image {IMAGE}\n")
    assert out.read_text() == compiled.text
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline.yaml"]


def test_compile_reports_a_file_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = command("compile", "--out", str(tmp_path / "file" / "pipeline.yaml"))
    assert answer.status == 1
    assert "; choose another path" in answer.err


@pytest.mark.integration
def test_the_yaml_of_the_real_pipeline_is_deployed_and_followed(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_run = server.create_run

    def playing_its_tasks(request: object) -> object:
        names = specification.task_names(server.state.versions[0].pipeline_spec)
        server.frames = play(*((name, "succeeded") for name in names))
        return create_run(request)

    monkeypatch.setattr(server, "create_run", playing_its_tasks)
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    answer = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "kubeflow", "deploy", "--every", "0.01", *settings],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "HOME": str(tmp_path), "KF_PIPELINES_ENDPOINT": server.url},
    )  # fmt: skip
    # TensorFlow may print messages when it is imported.
    assert answer.returncode == 0 and "im2latex:" not in answer.stderr and "Traceback" not in answer.stderr
    ended = re.findall(r"^(\S+) .* succeeded$", answer.stdout, re.M)
    assert ended.index("trainer") < ended.index("evaluator") < ended.index("pusher") < ended.index("reporter")
    assert answer.stdout.splitlines()[-1].endswith("pushed")


def test_help_imports_nothing_heavy() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import kubeflow.commands, sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert not {"kfp", "kfp_server_api", "kubernetes", "tfx", "tensorflow", "apache_beam"} & set(loaded)
