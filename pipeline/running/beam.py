"""Derives Beam's arguments for every runner from the configuration."""

from __future__ import annotations

import json
import shutil
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from data.repository import REPOSITORY
from im2latex.errors import UserError
from pipeline.config.sections import BeamConfig

SETUP = REPOSITORY / "setup.py"
SECONDS_TO_ANSWER = 10


def beam_arguments(config: BeamConfig) -> list[str]:
    """Returns Beam's arguments for all components; those in `config.by_component` are appended for single components.

    The arguments are part of the cache keys of the components on Beam, so these run again with another runner.
    """
    by_runner = {
        # Not DirectRunner: newer versions of Beam download a binary for it. FnApiRunner runs in the process.
        "local": ["--runner=FnApiRunner"],
        "multi_processing": [
            "--runner=FnApiRunner",
            "--direct_running_mode=multi_processing",
            f"--direct_num_workers={config.workers}",  # 0 uses every core
        ],
        "flink": ["--runner=FlinkRunner", *_flink(config), *_job_server(config), *_workers(config)],
        "spark": [
            "--runner=SparkRunner",
            f"--spark_master_url={config.spark_master or 'local[*]'}",
            *_job_server(config),
            *_workers(config),
        ],
        "dataflow": ["--runner=DataflowRunner", f"--sdk_container_image={config.worker_image}"],
    }
    arguments = by_runner[config.runner]
    if config.runner == "dataflow" and config.workers:
        arguments.append(f"--max_num_workers={config.workers}")
    # Without a setup file, TFX builds a package of itself at every step (2 s), which no worker needs. With this file, a
    # package is built only for workers that need one: those of a worker pool.
    if SETUP.exists() and not any(argument.startswith("--sdk_container_image=") for argument in arguments):
        arguments.append(f"--setup_file={SETUP}")
    return [*arguments, *config.arguments]


def check_engine(config: BeamConfig) -> str:
    """Checks that the Beam engine can be reached from this machine, before the run starts.

    Returns:
        A description of the engine with the address of its web page; "" for runners on this machine.

    Raises:
        UserError: the engine cannot be reached, or lacks something that it needs.
    """
    if config.runner == "dataflow":
        raise UserError(
            "Dataflow's workers read and write Google Cloud Storage, and `im2latex run` works in a folder: "
            "run the pipeline with a pipeline root in gs://, or use another beam.runner"
        )
    if config.runner not in ("flink", "spark"):
        return ""
    _check_job_server(config)
    if config.runner == "spark" or not config.flink_master:
        return f"on {config.runner.title()} {config.spark_master or ''}".rstrip()
    return _flink_cluster(config)


def _flink(config: BeamConfig) -> Iterator[str]:
    yield f"--flink_master={_address(config.flink_master) if config.flink_master else '[local]'}"
    if config.flink_version:
        yield f"--flink_version={config.flink_version}"
    if config.workers:
        yield f"--parallelism={config.workers}"


def _job_server(config: BeamConfig) -> Iterator[str]:
    if config.job_server:
        yield f"--job_endpoint={config.job_server}"
    elif config.job_server_jar:
        yield f"--{config.runner}_job_server_jar={config.job_server_jar}"


def _workers(config: BeamConfig) -> list[str]:
    """Returns the arguments that say where Flink and Spark run Python code.

    By default it runs in this process, which has all packages but is a single process. Beam's PROCESS environment is
    not offered: it starts a program that exists only in Beam's images, where DOCKER and EXTERNAL do the same.
    """
    if config.worker_image:
        image = config.worker_image
        return ["--environment_type=DOCKER", f"--environment_config={image}", f"--sdk_container_image={image}"]
    if config.worker_pool:
        return ["--environment_type=EXTERNAL", f"--environment_config={config.worker_pool}"]
    return ["--environment_type=LOOPBACK"]


def _address(master: str) -> str:
    return (master if "://" in master else f"http://{master}").rstrip("/")


def _check_job_server(config: BeamConfig) -> None:
    if config.job_server:
        host, _, port = config.job_server.rstrip("/").rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
        except OSError as error:  # checked here, because Beam would wait for five minutes
            raise UserError(f"there is no job server at {config.job_server} (beam.job_server): {error}") from None
    elif shutil.which("java") is None:
        raise UserError(
            f"beam.runner={config.runner} starts Beam's job server, which needs Java: install it "
            "(on Debian and Ubuntu: apt-get install default-jre-headless), or name a running one by beam.job_server"
        )
    elif config.job_server_jar and "://" not in config.job_server_jar and not Path(config.job_server_jar).is_file():
        raise UserError(f"beam.job_server_jar = {config.job_server_jar}: there is no such file")


def _flink_cluster(config: BeamConfig) -> str:
    page = _address(config.flink_master)
    try:
        with urllib.request.urlopen(f"{page}/overview", timeout=SECONDS_TO_ANSWER) as answer:
            overview = json.load(answer)
        line = ".".join(overview["flink-version"].split(".")[:2])
        managers, slots = overview["taskmanagers"], overview["slots-total"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"there is no Flink at {page} (beam.flink_master): {getattr(error, 'reason', error)}") from None
    if not slots:
        raise UserError(f"the Flink at {page} has no task manager: start one")
    if managers > 1 and not (config.worker_image or config.worker_pool):
        raise UserError(
            f"the Flink at {page} has {managers} task managers, but this process can be the worker of only one: "
            "set beam.worker_pool and start a pool next to each, or set beam.worker_image"
        )
    if config.workers > slots:
        raise UserError(
            f"beam.workers = {config.workers}, and the Flink at {page} has only {slots} slots: lower beam.workers, or "
            "add slots"
        )
    if not (config.job_server or config.job_server_jar):
        _refuse_other_version(config, line)
    noun = "task manager" if managers == 1 else "task managers"
    return f"on Flink {overview['flink-version']}, {managers} {noun}, {slots} slots: {page}"


def _refuse_other_version(config: BeamConfig, line: str) -> None:
    """Raises an error if Beam's job server does not support the cluster's version of Flink."""
    from apache_beam.options.pipeline_options import FlinkRunnerOptions

    published = FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
    if line not in published:
        raise UserError(
            f"the cluster is Flink {line}, but this Beam supports Flink {', '.join(published)}; use one of these"
        )
    if line != (config.flink_version or published[-1]):
        raise UserError(f"the cluster is Flink {line}: set beam.flink_version='{line}'")
