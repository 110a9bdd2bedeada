from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from apache_beam.options import pipeline_options
from apache_beam.transforms import environments
from tfx.dsl.compiler.compiler import Compiler
from tfx.orchestration.pipeline import Pipeline
from tfx.proto.orchestration import executable_spec_pb2
from tfx.utils import dependency_utils

from im2latex.errors import UserError
from pipeline.config import load_config
from pipeline.config.sections import BEAM_COMPONENTS, BeamConfig
from pipeline.pipeline import create_pipeline
from pipeline.running.beam import SETUP, beam_arguments, check_engine

DATAFLOW = ["runner=dataflow", "arguments=['--project=p', '--region=r', '--temp_location=gs://b/t']"]


def config(*settings: str) -> BeamConfig:
    return load_config(settings=[f"beam.{setting}" for setting in settings]).beam


def options(*settings: str) -> pipeline_options.PipelineOptions:
    """Parses the arguments with Beam's own options."""
    return pipeline_options.PipelineOptions(beam_arguments(config(*settings)))


def test_by_default_beam_runs_in_this_process() -> None:
    read = options().get_all_options(drop_default=True)
    assert read == {"runner": "FnApiRunner", "setup_file": str(SETUP)}


def test_multi_processing_starts_the_configured_number_of_processes() -> None:
    for settings, workers in (((), 0), (("workers=3",), 3)):
        read = options("runner=multi_processing", *settings).view_as(pipeline_options.DirectOptions)
        assert (read.direct_running_mode, read.direct_num_workers) == ("multi_processing", workers)


def test_flink_gets_its_address_and_parallelism() -> None:
    arguments = beam_arguments(
        config(
            "runner=flink",
            "flink_master=localhost:8081/",
            "flink_version='1.20'",
            "workers=4",
            "job_server_jar=server.jar",
        )
    )
    read = pipeline_options.PipelineOptions(arguments).view_as(pipeline_options.FlinkRunnerOptions)
    assert read.flink_master == "http://localhost:8081"
    assert (read.flink_version, read.parallelism, read.flink_job_server_jar) == ("1.20", 4, "server.jar")


@pytest.mark.parametrize("runner", ["flink", "spark"])
@pytest.mark.parametrize(
    ("setting", "kind", "expected"),
    [
        ("workers=0", environments.PythonLoopbackEnvironment, None),
        ("worker_pool=pool:50000", environments.ExternalEnvironment, "pool:50000"),
        ("worker_image=registry/im2latex:7", environments.DockerEnvironment, "registry/im2latex:7"),
    ],
)
def test_the_configuration_chooses_the_worker_environment(
    runner: str, setting: str, kind: type, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The package for workers is built from setup.py, which takes seconds; tests/environment builds it.
    monkeypatch.setattr(environments, "python_sdk_dependencies", lambda options: ())
    environment = environments.Environment.from_options(
        options(f"runner={runner}", setting).view_as(pipeline_options.PortableOptions)
    )
    assert isinstance(environment, kind)
    assert getattr(environment, "url", getattr(environment, "container_image", None)) == expected


def test_spark_and_dataflow_get_their_arguments() -> None:
    spark = options("runner=spark", "spark_master=spark://127.0.0.1:7077", "job_server=localhost:8099")
    assert spark.view_as(pipeline_options.SparkRunnerOptions).spark_master_url == "spark://127.0.0.1:7077"
    assert spark.view_as(pipeline_options.PortableOptions).job_endpoint == "localhost:8099"
    dataflow = options(*DATAFLOW, "worker_image=registry/im2latex:7", "workers=9")
    read = dataflow.view_as(pipeline_options.WorkerOptions)
    assert (read.sdk_container_image, read.max_num_workers) == ("registry/im2latex:7", 9)
    assert dataflow.view_as(pipeline_options.StandardOptions).runner == "DataflowRunner"
    assert dataflow.view_as(pipeline_options.GoogleCloudOptions).temp_location == "gs://b/t"


@pytest.mark.parametrize(
    "settings", [(), ("runner=multi_processing",), ("runner=flink",), ("runner=spark", "worker_image=i")]
)
def test_tfx_does_not_package_itself_at_every_step(settings: tuple[str, ...]) -> None:
    arguments = beam_arguments(config(*settings))
    assert dependency_utils.make_beam_dependency_flags(arguments) == arguments


def pipeline(*settings: str) -> Pipeline:
    loaded = load_config(settings=[f"beam.{setting}" for setting in settings])
    return create_pipeline(loaded, data="/data", pipeline_root="/root", serving="/serving")


def test_arguments_of_one_component_override_those_of_all() -> None:
    compiled = Compiler().compile(
        pipeline("runner=flink", "arguments=['--parallelism=3']", "by_component={Transform=['--parallelism=8']}")
    )
    parallelism = {}
    for name, deployed in executors(compiled).items():
        read = pipeline_options.PipelineOptions(list(deployed.beam_pipeline_args))
        parallelism[name] = read.view_as(pipeline_options.FlinkRunnerOptions).parallelism
    assert parallelism == {name: 8 if name == "Transform" else 3 for name in BEAM_COMPONENTS}


def executors(compiled) -> dict[str, executable_spec_pb2.BeamExecutableSpec]:
    """Returns the compiled executors of the components that run on Beam, by name."""
    from tfx.proto.orchestration import pipeline_pb2

    deployment = pipeline_pb2.IntermediateDeploymentConfig()
    compiled.deployment_config.Unpack(deployment)
    specs = {}
    for name, spec in deployment.executor_specs.items():
        if spec.Is(executable_spec_pb2.BeamExecutableSpec.DESCRIPTOR):
            specs[name] = executable_spec_pb2.BeamExecutableSpec()
            spec.Unpack(specs[name])
    return specs


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["runner=dask"], "'local', 'multi_processing', 'flink', 'spark' or 'dataflow'"),
        (["workers=2"], "use the runner multi_processing"),
        (["runner=spark", "workers=2"], "set it to 0"),
        (["arguments=['--runner=PrismRunner']"], "which runner sets"),
        (
            ["by_component={Trainer=['--x']}"],
            "the components on Beam are ImportExampleGen, StatisticsGen, Transform, Evaluator",
        ),
        (["by_component={Transform=['x']}"], "'x', which does not start with two dashes"),
        (["runner=flink", "flink_master=somewhere"], "flink_master = 'somewhere' is not of the form host:port"),
        (["runner=spark", "spark_master=localhost:7077"], "is not of the form spark://host:port"),
        (["runner=flink", "flink_master=https://far.example:443"], "set worker_image or worker_pool"),
        (["runner=spark", "job_server=far.example:8099"], "set worker_image or worker_pool"),
        (["runner=flink", "worker_image=i", "worker_pool=p:1"], "set one of them"),
        (["runner=flink", "job_server=localhost:1", "job_server_jar=x"], "set one of them"),
        (DATAFLOW, "lacks TFX: set worker_image"),
        (["runner=dataflow", "worker_image=i", "arguments=['--project=p']"], "needs --region, --temp_location in"),
    ],
)
def test_an_impossible_combination_is_refused_with_one_sentence(settings: list[str], says: str) -> None:
    with pytest.raises(UserError) as refusal:
        config(*settings)
    assert says in str(refusal.value) and "beam" in str(refusal.value) and "\n" not in str(refusal.value)


def test_settings_of_another_runner_are_allowed() -> None:
    kept = ("flink_master=far.example:8081", "worker_image=i")
    assert beam_arguments(config(*kept)) == beam_arguments(config())
    assert beam_arguments(config(*kept, "runner=flink"))[0] == "--runner=FlinkRunner"


@pytest.fixture
def flink() -> Iterator[tuple[str, dict]]:
    """A server for Flink's REST API, and its response."""
    overview = {"taskmanagers": 2, "slots-total": 4, "flink-version": "1.20.5"}

    class Overview(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/overview" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(overview).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Overview) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}", overview
        server.shutdown()
        thread.join()


def test_a_cluster_is_described_by_size_and_address(flink: tuple[str, dict]) -> None:
    address, overview = flink
    reached = config("runner=flink", f"flink_master={address}", f"job_server={address}", "worker_pool=localhost:50000")
    assert check_engine(reached) == f"on Flink 1.20.5, 2 task managers, 4 slots: http://{address}"
    overview["taskmanagers"], overview["slots-total"] = 1, 2
    assert check_engine(reached) == f"on Flink 1.20.5, 1 task manager, 2 slots: http://{address}"


@pytest.mark.parametrize(
    ("settings", "answer", "says"),
    [
        (["workers=5"], {"taskmanagers": 1}, "has only 4 slots: lower beam.workers"),
        ([], {}, "has 2 task managers, but this process can be the worker of only one: set beam.worker_pool"),
        ([], {"taskmanagers": 0, "slots-total": 0}, "has no task manager"),
        (["worker_image=i"], {"flink-version": "1.11.2"}, "the cluster is Flink 1.11, but this Beam supports Flink "),
        (["worker_image=i", "flink_version='1.19'"], {}, "the cluster is Flink 1.20: set beam.flink_version='1.20'"),
    ],
)
def test_an_unsuitable_cluster_is_refused_before_the_run(
    settings: list[str], answer: dict, says: str, flink: tuple[str, dict], with_java: None
) -> None:
    address, overview = flink
    overview |= answer
    with pytest.raises(UserError) as refusal:
        check_engine(config("runner=flink", f"flink_master={address}", *settings))
    assert says in str(refusal.value)


def test_an_unreachable_engine_is_refused_with_its_address(with_java: None) -> None:
    with pytest.raises(UserError, match=r"no Flink at http://127\.0\.0\.1:9 \(beam\.flink_master\): .*refused"):
        check_engine(config("runner=flink", "flink_master=127.0.0.1:9"))
    with pytest.raises(UserError, match=r"no job server at 127\.0\.0\.1:9 \(beam\.job_server\): .*refused"):
        check_engine(config("runner=flink", "job_server=127.0.0.1:9"))


@pytest.fixture
def with_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a fake Java on PATH, and nothing else, so that the test does not depend on the machine."""
    (tmp_path / "java").write_text("#!/bin/sh\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_missing_requirements_of_the_job_server_are_reported_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"beam\.runner=spark starts Beam's job server, which needs Java"):
        check_engine(config("runner=spark"))
    request.getfixturevalue("with_java")
    assert check_engine(config("runner=spark")) == "on Spark"
    with pytest.raises(UserError, match=r"missing\.jar: there is no such file"):
        check_engine(config("runner=flink", "job_server_jar=missing.jar"))
    with pytest.raises(UserError, match="Dataflow's workers read and write Google Cloud Storage"):
        check_engine(config(*DATAFLOW, "worker_image=i"))
