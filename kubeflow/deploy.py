"""Uploads the compiled pipeline to Kubeflow Pipelines, starts runs, and sets schedules."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kfp_server_api

from im2latex.errors import UserError
from kubeflow.cluster import PAGE, Cluster, Unreachable, display_name_is
from kubeflow.following import ENDED, Say
from kubeflow.specification import Specification

EXPERIMENT_VARIABLE = "KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME"
# Number of uploaded versions that are compared with the new one.
RECENT_VERSIONS = 10


@dataclasses.dataclass(frozen=True)
class Started:
    """A run that was started, and the pipeline, version and experiment that it belongs to."""

    run_id: str
    name: str
    address: str  # of its web page; "" if only the API's address is known
    pipeline_id: str
    version_id: str
    experiment_id: str


def upload(cluster: Cluster, name: str, specification: Specification, say: Say) -> Any:
    """Uploads a pipeline, unless a recent version of it is the same.

    Args:
        cluster: the cluster.
        name: name of the pipeline; it is created if it does not exist.
        specification: the compiled pipeline.
        say: called with a line about what was done.

    Returns:
        The uploaded or existing V2beta1PipelineVersion.

    Raises:
        UserError: the server refuses it or does not answer.
    """
    pipeline = find_pipeline(cluster, name)
    digest = hashlib.sha256(specification.text.encode()).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pipeline.yaml")
        path.write_text(specification.text, encoding="utf-8")
        if pipeline is None:
            described = {"description": f"sha256 {digest}", "namespace": cluster.namespace}
            pipeline = cluster.call(
                f"take the pipeline {name}", "pipeline_uploads", "upload_pipeline", str(path), name=name, **described
            )
            (version, *_) = _versions(cluster, pipeline)
            say(f"{'pipeline':<12} {name}, new, version {version.display_name}")
            return version
        for version in _versions(cluster, pipeline):
            if version.pipeline_spec == specification.content:
                say(f"{'pipeline':<12} {name}, version {version.display_name}, unchanged")
                return version
        version = cluster.call(
            f"take a version of the pipeline {name}",
            "pipeline_uploads",
            "upload_pipeline_version",
            str(path),
            name=f"{time.strftime('%Y%m%d-%H%M%S')}-{digest[:8]}",
            pipelineid=pipeline.pipeline_id,
            description=f"sha256 {digest}",
        )
    say(f"{'pipeline':<12} {name}, new version {version.display_name}")
    return version


def find_pipeline(cluster: Cluster, name: str) -> Any:
    """Returns the pipeline of this name; None if there is none."""
    return cluster.named("list pipelines", "pipelines", "list_pipelines", "pipelines", name)


def _versions(cluster: Cluster, pipeline: Any) -> list[Any]:
    """Returns the newest versions of a pipeline, newest first."""
    page = cluster.call(
        f"list versions of the pipeline {pipeline.display_name}",
        "pipelines",
        "list_pipeline_versions",
        pipeline.pipeline_id,
        page_size=RECENT_VERSIONS,
        sort_by="created_at desc",
    )
    return page.pipeline_versions or []


def use_experiment(cluster: Cluster, name: str, say: Say) -> Any:
    """Returns the V2beta1Experiment of this name; creates it if it does not exist.

    Raises:
        UserError: the server refuses it or does not answer.
    """
    name = os.environ.get(EXPERIMENT_VARIABLE) or name
    existing = cluster.named("list experiments", "experiments", "list_experiments", "experiments", name)
    if existing is None:
        experiment = kfp_server_api.V2beta1Experiment(display_name=name, namespace=cluster.namespace or None)
        created = cluster.call(f"make the experiment {name}", "experiments", "create_experiment", experiment)
        say(f"{'experiment':<12} {name}, new")
        return created
    say(f"{'experiment':<12} {name}")
    return existing


def start_run(
    cluster: Cluster,
    version: Any,
    experiment: Any,
    name: str,
    pipeline_root: str,
    parameters: Mapping[str, Any],
    say: Say,
) -> Started:
    """Starts a run of a version.

    Raises:
        UserError: the run was not started, or it is unknown whether it was; the message says which.
    """
    display_name = f"{name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    request = kfp_server_api.V2beta1Run(
        display_name=display_name,
        experiment_id=experiment.experiment_id,
        pipeline_version_reference=_reference(version),
        runtime_config=_runtime(pipeline_root, parameters),
    )
    try:
        run = cluster.call("start the run", "runs", "create_run", request)
    except UserError as error:
        doubt = (
            "it is not known whether the run was started" if isinstance(error, Unreachable) else "no run was started"
        )
        raise UserError(
            f"{error} ({doubt}; the pipeline's version {version.display_name} and the experiment "
            f"{experiment.display_name} exist and will be reused)"
        ) from None
    address = cluster.address(run.run_id)
    say(f"{'run':<12} {run.run_id}")
    if address:
        say(f"{'':<12} {address}")
    return Started(
        run_id=run.run_id,
        name=display_name,
        address=address,
        pipeline_id=version.pipeline_id,
        version_id=version.pipeline_version_id,
        experiment_id=experiment.experiment_id,
    )


def last_root(cluster: Cluster, pipeline_id: str) -> str:
    """Returns the pipeline root of a pipeline's last run; "" if it has none, or if the run is not among the newest."""
    page = cluster.call(
        "list runs", "runs", "list_runs", namespace=cluster.namespace, sort_by="created_at desc", page_size=PAGE
    )
    for run in page.runs or []:
        if run.pipeline_version_reference and run.pipeline_version_reference.pipeline_id == pipeline_id:
            return (run.runtime_config and run.runtime_config.pipeline_root) or ""
    return ""


def _reference(version: Any) -> kfp_server_api.V2beta1PipelineVersionReference:
    return kfp_server_api.V2beta1PipelineVersionReference(
        pipeline_id=version.pipeline_id, pipeline_version_id=version.pipeline_version_id
    )


def _runtime(pipeline_root: str, parameters: Mapping[str, Any]) -> kfp_server_api.V2beta1RuntimeConfig:
    return kfp_server_api.V2beta1RuntimeConfig(pipeline_root=pipeline_root or None, parameters=dict(parameters))


def last_run(cluster: Cluster, name: str) -> str:
    """Returns the id of the last run of a pipeline, including scheduled runs.

    Raises:
        UserError: the pipeline does not exist, or has no runs.
    """
    pipeline = find_pipeline(cluster, name)
    if pipeline is None:
        raise UserError(
            f"there is no pipeline {name}; `im2latex kubeflow deploy` creates it; --set name=NAME selects another one"
        )
    runs = cluster.every(
        "list runs", "runs", "list_runs", "runs", namespace=cluster.namespace, sort_by="created_at desc"
    )
    for run in runs:
        if run.pipeline_version_reference and run.pipeline_version_reference.pipeline_id == pipeline.pipeline_id:
            return run.run_id
    raise UserError(f"the pipeline {name} has no run yet; `im2latex kubeflow deploy` starts one")


def cancel(cluster: Cluster, run_id: str) -> bool:
    """Stops a run. Returns False if it had already ended.

    Raises:
        UserError: the run does not exist, or the server refuses to stop it.
    """
    if cluster.run(run_id).state in ENDED:
        return False
    cluster.call(f"cancel the run {run_id}", "runs", "terminate_run", run_id)
    return True


def schedule_name(name: str) -> str:
    """Returns the name of a pipeline's recurring run; `schedule` does not touch recurring runs with other names."""
    return f"{name} on schedule"


def schedules(cluster: Cluster, name: str) -> list[Any]:
    """Returns the V2beta1RecurringRuns that `schedule` created for a pipeline."""
    recurring_runs = cluster.every(
        "list recurring runs",
        "recurring_runs",
        "list_recurring_runs",
        "recurring_runs",
        namespace=cluster.namespace,
        filter=display_name_is(schedule_name(name)),
    )
    return list(recurring_runs)


def check_cron(cron: str) -> None:
    """Checks the number of fields of a cron expression; Kubeflow's begins with the second.

    Raises:
        UserError: the expression is not valid.
    """
    fields = len(cron.split())
    if fields == 5:
        raise UserError(f"--cron {cron!r} has 5 fields; Kubeflow's cron begins with the second: --cron '0 {cron}'")
    if fields != 6 and not cron.startswith("@"):
        raise UserError(
            f"--cron {cron!r} has {fields} fields, not the 6 of Kubeflow's cron: second, minute, hour, day of the "
            "month, month, day of the week, such as '0 0 3 * * 1' for Mondays at 3:00"
        )


def set_schedule(
    cluster: Cluster,
    version: Any,
    experiment: Any,
    name: str,
    cron: str,
    max_concurrency: int,
    catchup: bool,
    pipeline_root: str,
    parameters: Mapping[str, Any],
) -> tuple[Any, int]:
    """Creates a schedule for a version, and deletes the earlier schedules of the pipeline.

    Args:
        cluster: the cluster.
        version: V2beta1PipelineVersion to run.
        experiment: V2beta1Experiment of the runs.
        name: name of the pipeline.
        cron: second, minute, hour, day of the month, month, day of the week.
        max_concurrency: maximum number of runs at a time.
        catchup: whether to make up for missed runs.
        pipeline_root: address for artifacts; "" for the cluster's default.
        parameters: values of the pipeline's parameters.

    Returns:
        The V2beta1RecurringRun, and the number of schedules that it replaces.

    Raises:
        UserError: the server refuses the schedule.
    """
    earlier = schedules(cluster, name)
    request = kfp_server_api.V2beta1RecurringRun(
        display_name=schedule_name(name),
        experiment_id=experiment.experiment_id,
        namespace=cluster.namespace or None,
        pipeline_version_reference=_reference(version),
        runtime_config=_runtime(pipeline_root, parameters),
        trigger=kfp_server_api.V2beta1Trigger(cron_schedule=kfp_server_api.V2beta1CronSchedule(cron=cron)),
        mode="ENABLE",
        max_concurrency=str(max_concurrency),
        no_catchup=not catchup,
    )
    created = cluster.call("make the schedule", "recurring_runs", "create_recurring_run", request)
    # Deleted last, so that they stay if the server refuses the new one.
    delete_schedules(cluster, earlier)
    return created, len(earlier)


def delete_schedules(cluster: Cluster, schedules: Sequence[Any]) -> None:
    """Deletes schedules; runs that they started continue.

    Raises:
        UserError: the server refuses to delete one.
    """
    for schedule in schedules:
        cluster.call(
            f"delete the schedule {schedule.recurring_run_id}",
            "recurring_runs",
            "delete_recurring_run",
            schedule.recurring_run_id,
        )
