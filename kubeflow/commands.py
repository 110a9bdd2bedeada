"""The command `im2latex kubeflow`: the same pipeline on Kubeflow Pipelines 2."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from data.duration import duration
from im2latex.errors import UserError
from kubeflow.checks import check_records, moved_root
from kubeflow.options import (
    CaCert,
    Cache,
    Experiment,
    Host,
    Namespace,
    Parameters,
    Pause,
    PipelineRoot,
    RunId,
    TokenFile,
)
from kubeflow.printing import VERDICTS, print_json, print_run, print_schedules, run_document, schedule_document
from pipeline.buckets import is_address
from pipeline.options import INTERRUPTED, ConfigFile, Json, Preset, Settings, hush

if TYPE_CHECKING:
    from kubeflow.cluster import Cluster
    from kubeflow.specification import Specification
    from pipeline.config import Config

app = typer.Typer(
    name="kubeflow",
    help="Run the pipeline on Kubeflow Pipelines 2: compile, deploy, follow, serve.",
    no_args_is_help=True,
)


@app.command("compile")
def compile_(
    out: Annotated[Path, typer.Option(help="File to write.", metavar="FILE")],
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Compile the pipeline to YAML for Kubeflow Pipelines."""
    specification = _compile(_config(preset, config, settings))
    from data.files import write_atomically

    write_atomically(out, specification.text)
    typer.echo(f"{out}: {_summary(specification)}")


@app.command()
def deploy(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    pipeline_root: PipelineRoot = None,
    experiment: Experiment = None,
    parameters: Parameters = None,
    cache: Cache = True,
    follow: Annotated[bool, typer.Option(help="Wait for the end of the run, and print a line for each task.")] = True,
    pause: Pause = 5.0,
    host: Host = None,
    namespace: Namespace = None,
    token_file: TokenFile = None,
    ca_cert: CaCert = None,
    as_json: Json = False,
) -> None:
    """Compile the pipeline, upload it if it has changed, start a run, and follow it.

    Exit status: 0 done and pushed, 3 the model was not good enough or was withdrawn, 1 failed, 130 Ctrl-C (the run
    continues).
    """
    say = _printer(as_json)
    chosen = _config(preset, config, settings, pipeline_root)
    # Connect first: compiling takes seconds, which are lost if the server cannot be reached.
    cluster = _cluster(host, namespace, token_file, ca_cert)
    ready = _upload(cluster, chosen, cache, parameters, experiment, say)
    from kubeflow.deploy import last_root, start_run

    root = chosen.kubeflow.pipeline_root
    if cache and (warning := moved_root(chosen.kubeflow, last_root(cluster, ready.version.pipeline_id))):
        say(f"im2latex: {warning}")
    started = start_run(cluster, ready.version, ready.experiment, chosen.name, root, ready.values, say)
    if follow:
        raise typer.Exit(_follow(cluster, started.run_id, ready.tasks, pause, as_json, chosen.metadata.connection))
    if as_json:
        print_json(dataclasses.asdict(started))
    else:
        say(f"{cluster.command(f'status {started.run_id} --follow')} follows it")


@app.command()
def status(
    run_id: RunId = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait for the end of the run, and print a line for each task.")
    ] = False,
    pause: Pause = 5.0,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    host: Host = None,
    namespace: Namespace = None,
    token_file: TokenFile = None,
    ca_cert: CaCert = None,
    as_json: Json = False,
) -> None:
    """Show a run and its tasks. With --follow, the exit statuses are those of deploy."""
    cluster = _cluster(host, namespace, token_file, ca_cert)
    from kubeflow.deploy import last_run
    from kubeflow.following import read_tasks, tasks_of, was_pushed

    chosen = _config(preset, config, settings)
    run_id = run_id or last_run(cluster, chosen.name)
    run = cluster.run(run_id)
    names = tasks_of(cluster, run)
    if follow:
        raise typer.Exit(_follow(cluster, run_id, names, pause, as_json, chosen.metadata.connection))
    tasks = read_tasks(run, names)
    pushed = was_pushed(cluster, run, tasks, _printer(True), connection=chosen.metadata.connection)
    if as_json:
        print_json(run_document(cluster, run, tasks, pushed))
    else:
        print_run(cluster, run, tasks, pushed)


@app.command()
def cancel(
    run_id: Annotated[str, typer.Argument(help="Run id.", metavar="RUN")],
    host: Host = None,
    namespace: Namespace = None,
    token_file: TokenFile = None,
    ca_cert: CaCert = None,
) -> None:
    """Stop a run. Finished tasks stay in the cache."""
    cluster = _cluster(host, namespace, token_file, ca_cert)
    from kubeflow.deploy import cancel

    if cancel(cluster, run_id):
        typer.echo(f"the run {run_id} is being stopped")
    else:
        typer.echo(f"the run {run_id} has ended already")


@app.command()
def schedule(
    cron: Annotated[
        str | None,
        typer.Option(help="Time: second, minute, hour, day of month, month, day of week.", metavar="'0 0 3 * * 1'"),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="List the schedules of this pipeline.")] = False,
    off: Annotated[bool, typer.Option("--off", help="Delete the schedule of this pipeline.")] = False,
    max_concurrency: Annotated[int, typer.Option(help="Maximum number of runs at the same time.", min=1, max=10)] = 1,
    catchup: Annotated[bool, typer.Option(help="Also start the runs that were missed.")] = False,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    pipeline_root: PipelineRoot = None,
    experiment: Experiment = None,
    parameters: Parameters = None,
    cache: Cache = True,
    host: Host = None,
    namespace: Namespace = None,
    token_file: TokenFile = None,
    ca_cert: CaCert = None,
    as_json: Json = False,
) -> None:
    """Run the pipeline on a schedule, which replaces the previous one; or list or delete schedules."""
    if [cron is not None, show, off].count(True) != 1:
        raise UserError("schedule takes one of --cron EXPRESSION, --list and --off")
    say = _printer(as_json)
    chosen = _config(preset, config, settings, pipeline_root)
    from kubeflow.deploy import check_cron, delete_schedules, schedules, set_schedule

    if cron is not None:
        check_cron(cron)
    cluster = _cluster(host, namespace, token_file, ca_cert)
    if cron is None:
        existing = schedules(cluster, chosen.name)
        if off:
            delete_schedules(cluster, existing)
        print_schedules(existing, "is off" if off else "", chosen.name, as_json)
        return
    ready = _upload(cluster, chosen, cache, parameters, experiment, say)
    created, replaced = set_schedule(
        cluster,
        ready.version,
        ready.experiment,
        chosen.name,
        cron,
        max_concurrency,
        catchup,
        chosen.kubeflow.pipeline_root,
        ready.values,
    )
    if as_json:
        print_json(schedule_document(created))
    else:
        instead = f", instead of {replaced} earlier" if replaced else ""
        say(f"{'schedule':<12} {created.recurring_run_id}, {cron}{instead}")


@app.command()
def serve(
    out: Annotated[Path, typer.Option(help="File to write.", metavar="FILE")],
    replicas: Annotated[int, typer.Option(help="Number of pods.", min=1)] = 2,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Additional host name to accept; repeatable.", metavar="NAME"),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    namespace: Namespace = None,
) -> None:
    """Write Kubernetes manifests for a service with the pushed models, for `kubectl apply --filename FILE`."""
    from data.files import write_atomically
    from kubeflow.manifests import serving_manifests

    chosen = _config(preset, config, settings)
    write_atomically(out, serving_manifests(chosen, replicas, namespace, allow_host or ()))
    typer.echo(f"{out}: {chosen.name}-serve, {replicas} replicas, image {chosen.kubeflow.image}")


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="File to write.", metavar="FILE")],
    hosts: Annotated[int, typer.Option(help="Number of pods that train together.", min=1)] = 2,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    namespace: Namespace = None,
) -> None:
    """Write a TrainJob for Kubeflow Trainer, a training on several hosts, for `kubectl apply --filename FILE`."""
    from data.files import write_atomically
    from kubeflow.train_job import training_manifests

    chosen = _config(preset, config, settings)
    write_atomically(out, training_manifests(chosen, hosts, namespace))
    typer.echo(f"{out}: {chosen.name}-train, {hosts} hosts, image {chosen.kubeflow.image}")


def _config(
    preset: str | None, config: Path | None, settings: list[str] | None, pipeline_root: str | None = None
) -> Config:
    """Loads the configuration; `pipeline_root` replaces its knob of that name."""
    from pipeline.config import load_config

    chosen = load_config(preset, config, settings or ())
    if pipeline_root is None:
        return chosen
    return dataclasses.replace(chosen, kubeflow=dataclasses.replace(chosen.kubeflow, pipeline_root=pipeline_root))


def _compile(config: Config) -> Specification:
    hush()
    from kubeflow.runner import compile_pipeline
    from kubeflow.specification import Specification

    return Specification(compile_pipeline(config))


class _Ready(NamedTuple):
    """An uploaded version of the pipeline, and what is needed to run it."""

    version: Any
    experiment: Any
    values: dict[str, Any]
    tasks: list[str]


def _upload(
    cluster: Cluster,
    config: Config,
    cache: bool,
    parameters: list[str] | None,
    experiment: str | None,
    say: Callable[[str], None],
) -> _Ready:
    """Compiles the pipeline, uploads it if it has changed, and creates the experiment if it does not exist."""
    specification = _compile(config)
    specification = specification if cache else specification.without_cache()
    values = specification.read_parameters(parameters or ())
    if is_address(str(values.get("data", ""))):
        check_records(config.kubeflow, values["data"])
    say(f"{'compiled':<12} {_summary(specification)}")
    from kubeflow.deploy import upload, use_experiment

    version = upload(cluster, config.name, specification, say)
    experiment_in_use = use_experiment(cluster, experiment or config.name, say)
    return _Ready(version, experiment_in_use, values, specification.tasks)


def _summary(specification: Specification) -> str:
    return f"{len(specification.tasks)} tasks, image {', '.join(specification.images)}"


def _cluster(host: str | None, namespace: str | None, token_file: Path | None, ca_cert: Path | None) -> Cluster:
    from kubeflow.cluster import Access, Cluster

    return Cluster(Access(host, namespace, token_file, ca_cert))


def _printer(as_json: bool) -> Callable[[str], None]:
    """Returns a function that prints a line: to stderr if the answer is JSON, else to stdout."""
    return lambda line: typer.echo(line, err=as_json)


def _follow(cluster: Cluster, run_id: str, names: list[str], pause: float, as_json: bool, connection: str) -> int:
    """Follows a run to its end and prints the result. Returns the exit status."""
    from kubeflow.following import SHORT_PATIENCE, follow, raise_if_failed, seconds_of, was_pushed
    from pipeline.running.launch import NOT_BLESSED

    say = _printer(as_json)
    try:
        run, tasks = follow(cluster, run_id, names, lambda task: say(task.line()), say, pause)
    except KeyboardInterrupt:
        raise _interrupted(cluster, run_id) from None
    pushed = was_pushed(cluster, run, tasks, say, SHORT_PATIENCE, connection)
    if as_json:
        print_json(run_document(cluster, run, tasks, pushed))
    raise_if_failed(cluster, run, tasks)
    if not as_json:
        say(f"{'done':<26} {duration(seconds_of(run)):>9}  {VERDICTS[pushed]}")
    return NOT_BLESSED if pushed is False else 0


def _interrupted(cluster: Cluster, run_id: str) -> UserError:
    """Returns the error for Ctrl-C, which says how to follow or stop the run."""
    error = UserError(
        f"the run continues in the cluster; {cluster.command(f'status {run_id} --follow')} follows it, "
        f"{cluster.command(f'cancel {run_id}')} stops it"
    )
    error.exit_status = INTERRUPTED
    return error
