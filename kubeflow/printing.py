"""Prints runs and schedules, as tables or as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import typer

from data.duration import duration

if TYPE_CHECKING:
    from kubeflow.cluster import Cluster
    from kubeflow.following import RunTask

VERDICTS = {True: "pushed", False: "not pushed: the model was not good enough or was withdrawn", None: "succeeded"}


def print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2, default=lambda moment: moment.isoformat()))


def run_document(cluster: Cluster, run: Any, tasks: list[RunTask], pushed: bool | None) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "name": run.display_name,
        "state": run.state,
        "address": cluster.address(run.run_id),
        "created": run.created_at,
        "pushed": pushed,
        "tasks": [dataclasses.asdict(task) | {"seconds": task.seconds} for task in tasks],
    }


def print_run(cluster: Cluster, run: Any, tasks: list[RunTask], pushed: bool | None) -> None:
    """Prints a run as a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    state = (run.state or "PENDING").lower() if pushed is None else VERDICTS[pushed]
    console.print(f"{run.display_name}: {state}", markup=False)
    console.print(f"{run.run_id}  {cluster.address(run.run_id)}".rstrip(), markup=False)
    table = Table("task", "state", "started", "time", box=None, pad_edge=False)
    table.columns[3].justify = "right"
    for task in tasks:
        started = task.started.astimezone().strftime("%Y-%m-%d %H:%M:%S") if task.started else ""
        seconds = "" if task.seconds is None else duration(task.seconds)
        table.add_row(task.name, task.state, started, seconds)
    console.print()
    console.print(table, markup=False)
    for task in tasks:
        if task.message:
            console.print(f"{task.name}: {task.message}", markup=False)


def schedule_document(recurring: Any) -> dict[str, Any]:
    return {
        "schedule_id": recurring.recurring_run_id,
        "cron": recurring.trigger.cron_schedule.cron,
        "enabled": recurring.mode == "ENABLE",
        "max_concurrency": int(recurring.max_concurrency),
        "catchup": not recurring.no_catchup,
        "version_id": recurring.pipeline_version_reference.pipeline_version_id,
        "experiment_id": recurring.experiment_id,
        "pipeline_root": recurring.runtime_config.pipeline_root,
    }


def print_schedules(recurring_runs: list[Any], state: str, name: str, as_json: bool) -> None:
    """Prints the schedules of a pipeline, or those that were just ended."""
    if as_json:
        print_json([schedule_document(recurring) for recurring in recurring_runs])
    elif not recurring_runs:
        typer.echo(f"the pipeline {name} has no schedule")
    for recurring in [] if as_json else recurring_runs:
        row = schedule_document(recurring)
        runs = f"{row['max_concurrency']} at a time, {'with' if row['catchup'] else 'without'} those missed"
        typer.echo(f"{row['schedule_id']}  {row['cron']}  {state or runs}")
