"""Follows a run to its end: the states of its tasks, and whether the model was pushed.

Argo runs a task as several nodes, and the API returns each node as a task of its own: NAME-driver, which does the cache
lookup; NAME, the task; and inside it `executor`, its container, which is skipped if the outputs came from the cache.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Callable, Sequence
from typing import Any

from data.duration import duration
from im2latex.errors import UserError
from kubeflow.cluster import Cluster, Refused, Unreachable, message_in
from kubeflow.specification import task_names
from pipeline.lineage.graph import PUSHED

# How long to retry while the server does not answer, and the pauses between two tries, seconds.
PATIENCE = 300.0
SHORT_PATIENCE = 30.0  # for optional information
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
PUSHER = "pusher"
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class RunTask:
    """A task of a run, combined from its nodes."""

    name: str
    state: str  # waiting, running, succeeded, cached, failed, stopped or skipped
    started: datetime.datetime | None = None
    ended: datetime.datetime | None = None
    message: str = ""  # why it failed, if the server says so

    @property
    def seconds(self) -> float | None:
        """Duration from its start to its end, or to now; None if it has not started."""
        if self.started is None:
            return None
        end = self.ended or datetime.datetime.now(datetime.timezone.utc)
        return max(0.0, (end - self.started).total_seconds())

    def line(self) -> str:
        """Returns a line about its state, for people."""
        if self.state == "running":
            return f"{self.name:<26} {'':>9}  started"
        took = "" if self.seconds is None else duration(self.seconds)
        outcome = f"{self.state}: {self.message}" if self.message else self.state
        return f"{self.name:<26} {took:>9}  {outcome}"


def tasks_of(cluster: Cluster, run: Any) -> list[str]:
    """Returns the names of a run's tasks, including those that have not started.

    If its version of the pipeline was deleted, only tasks that have started are known.
    """
    content = run.pipeline_spec
    if content is None and run.pipeline_version_reference:
        reference = run.pipeline_version_reference
        try:
            version = cluster.call(
                "show the run's version of the pipeline",
                "pipelines",
                "get_pipeline_version",
                reference.pipeline_id,
                reference.pipeline_version_id,
            )
            content = version.pipeline_spec
        except Refused as refusal:
            if refusal.status != 404:
                raise
    if content is not None:
        return task_names(content)
    nodes = sorted(_nodes(run).items(), key=lambda item: item[1].start_time)
    return [name.removesuffix("-driver") for name, _ in nodes if name.endswith("-driver") and name != "root-driver"]


def read_tasks(run: Any, names: Sequence[str]) -> list[RunTask]:
    """Returns the tasks of a run in their present states.

    Args:
        run: V2beta1Run.
        names: names of the tasks, in the order of the result.
    """
    nodes = _nodes(run)
    skipped = [_moment(node.start_time) for node in _details(run) if _is_skipped_container(node)]
    return [_task(name, nodes.get(f"{name}-driver"), nodes.get(name), skipped, run) for name in names]


def _details(run: Any) -> list[Any]:
    """Returns the nodes of a run, without the launcher's unnamed records for the cache."""
    details = (run.run_details.task_details if run.run_details else None) or []
    return [node for node in details if node.display_name]


def _nodes(run: Any) -> dict[str, Any]:
    return {node.display_name: node for node in _details(run)}


def _is_skipped_container(node: Any) -> bool:
    return node.display_name == "executor" and node.state == "SKIPPED"


def _moment(value: datetime.datetime | None) -> datetime.datetime | None:
    """Converts a time of the API to None if it is unset, which the API writes as the year 1."""
    return value if value and value.year > 1970 else None


def _task(name: str, driver: Any, node: Any, skipped: Sequence[datetime.datetime | None], run: Any) -> RunTask:
    """Combines the nodes of a task; `skipped` are the start times of all skipped containers of the run."""
    present = [part for part in (driver, node) if part is not None]
    started = min((moment for part in present if (moment := _moment(part.start_time))), default=None)
    last = present[-1] if present else None
    ended = _moment(last.end_time) if last is not None else None
    state = _state(driver, node, skipped)
    if run.state in ENDED and state in ("waiting", "running"):
        # The run ended before the task did: another task failed, or a person cancelled the run.
        state = "stopped" if state == "running" else "skipped"
        ended = ended or _moment(run.finished_at)
    if run.state == "CANCELED" and state == "failed":
        state = "stopped"
    if state == "skipped":
        started = None
    if state in ("waiting", "running", "skipped"):
        ended = None
    return RunTask(name, state, started, ended, _error_message(present) if state == "failed" else "")


def _state(driver: Any, node: Any, skipped: Sequence[datetime.datetime | None]) -> str:
    if node is None and driver is None:
        return "waiting"
    if _is_omitted(node or driver):
        return "skipped"
    if node is None:
        return {"FAILED": "failed", "CANCELED": "failed", "SKIPPED": "skipped"}.get(driver.state, "running")
    match node.state:
        case "CACHED":
            return "cached"
        case "SUCCEEDED":
            return "cached" if _is_cached(node, skipped) else "succeeded"
        case "FAILED" | "CANCELED":
            return "failed"
        case "SKIPPED":
            return "skipped"
        case _:
            return "running"


def _is_omitted(node: Any) -> bool:
    """Returns whether a node never started because a dependency failed (Argo's Omitted, which the API lacks)."""
    return node.state in (None, "RUNTIME_STATE_UNSPECIFIED") and _moment(node.end_time) is not None


def _is_cached(node: Any, skipped: Sequence[datetime.datetime | None]) -> bool:
    """Returns whether a task's outputs came from the cache, so that its container was skipped.

    The API does not say which task a container belongs to, so times decide: a skipped container starts and ends with
    its task within one second, while one that runs takes seconds to start.
    """
    start, end = _moment(node.start_time), _moment(node.end_time)
    if start is None or end is None or (end - start).total_seconds() > 1:
        return False
    return any(moment is not None and start <= moment <= end for moment in skipped)


def _error_message(nodes: Sequence[Any]) -> str:
    """Returns the message of the last error among a task's nodes."""
    for node in reversed(nodes):
        errors = [node.error, *(status.error for status in reversed(node.state_history or []))]
        for error in errors:
            if error is not None and error.message:
                return message_in(error.message)
    return ""


def follow(
    cluster: Cluster, run_id: str, names: Sequence[str], report: Callable[[RunTask], None], say: Say, pause: float
) -> tuple[Any, list[RunTask]]:
    """Follows a run to its end.

    Args:
        cluster: the cluster.
        run_id: id of the run.
        names: names of its tasks.
        report: called with each task when it starts and when it ends.
        say: called with a line when the server stops answering and when it answers again.
        pause: seconds between two requests.

    Returns:
        The run and its tasks at the end.

    Raises:
        UserError: the server refuses the request, or has not answered for `PATIENCE` seconds; the run continues.
    """
    shown: dict[str, str] = {}
    while True:
        try:
            run = _retry(cluster, lambda: cluster.run(run_id), say, PATIENCE)
        except UserError as error:
            way_on = cluster.command(f"status {run_id} --follow")
            raise UserError(f"{error} (the run continues; {way_on} follows it)") from None
        tasks = read_tasks(run, names)
        for task in sorted(tasks, key=_last_moment):
            if shown.get(task.name, "waiting") != task.state:
                report(task)
            shown[task.name] = task.state
        if run.state in ENDED:
            return run, tasks
        time.sleep(pause)


def _last_moment(task: RunTask) -> float:
    moment = task.ended or task.started
    return moment.timestamp() if moment else float("inf")


def _retry(cluster: Cluster, look: Callable[[], Any], say: Say, patience: float) -> Any:
    """Retries a request until the server answers; logs in once more if the server rejects the token.

    Raises:
        UserError: the server refuses the request, or has not answered for `patience` seconds.
    """
    unreachable_since = 0.0
    pause = FIRST_PAUSE
    logged_in = False
    while True:
        try:
            answer = look()
        except Unreachable as error:
            unreachable_since = unreachable_since or time.monotonic()
            if time.monotonic() - unreachable_since + pause > patience:
                raise
            say(f"{error.what}; trying again in {pause:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        except Refused as refusal:
            if refusal.status != 401 or logged_in:
                raise
            logged_in = True
            # If that does not help, the next request raises an error that says what to do.
            with contextlib.suppress(Refused, Unreachable):
                cluster.reconnect()
        else:
            if unreachable_since:
                say("the server answers again")
            return answer


def seconds_of(run: Any) -> float:
    """Returns the duration of a run from its creation to its end, or to now."""
    end = _moment(run.finished_at) or datetime.datetime.now(datetime.timezone.utc)
    return max(0.0, (end - run.created_at).total_seconds())


def was_pushed(
    cluster: Cluster, run: Any, tasks: Sequence[RunTask], say: Say, patience: float = 0.0, connection: str = ""
) -> bool | None:
    """Returns whether the model of a run was pushed; None if the run has not succeeded, or if it is unknown.

    A Pusher that pushes nothing succeeds too, and the API does not show properties of artifacts. So this function reads
    ML Metadata.

    Args:
        cluster: the cluster.
        run: V2beta1Run.
        tasks: tasks of the run.
        say: called with a line that says why the answer is unknown.
        patience: seconds to retry while ML Metadata does not answer.
        connection: database that the run was recorded in; "" for the ML Metadata of the backend.
    """
    if connection and run.state in ENDED:
        pushed = _recorded_push(connection, run, say)
        return pushed if run.state == "SUCCEEDED" else None
    states = {task.name: task.state for task in tasks}
    if run.state != "SUCCEEDED" or PUSHER not in states:
        return None
    if states[PUSHER] == "skipped":
        return False
    try:
        artifacts = _retry(cluster, lambda: _outputs(cluster, run.run_id, PUSHER), say, patience)
    except UserError as error:
        say(
            f"it is not known whether the model was pushed: {error} (ML Metadata is reached through the web page's "
            "address)"
        )
        return None
    values = [artifact.custom_properties[PUSHED] for artifact in artifacts if PUSHED in artifact.custom_properties]
    if not values:
        say("it is not known whether the model was pushed: ML Metadata has no record of it")
        return None
    (value, *_) = values
    return bool(getattr(value, value.WhichOneof("value")))


def _recorded_push(connection: str, run: Any, say: Say) -> bool | None:
    """Reads from the database whether a finished run pushed its model; marks unfinished executions as cancelled."""
    from kubeflow.closing import close_run
    from pipeline.lineage.store import write
    from pipeline.workspace import Workspace

    succeeded = run.state == "SUCCEEDED"
    try:
        return write(Workspace.from_environment(), lambda store: close_run(store, run.run_id, succeeded), connection)
    except UserError as error:
        say(f"it is not known whether the model was pushed: {error}")
        return None


def _outputs(cluster: Cluster, run_id: str, task: str) -> list[Any]:
    """Returns the output artifacts of a task, which this run produced or took from the cache."""
    context = cluster.metadata("GetContextByTypeAndName", type_name="system.PipelineRun", context_name=run_id).context
    executions = cluster.metadata("GetExecutionsByContext", context_id=context.id).executions
    tried = [e.id for e in executions if e.custom_properties["task_name"].string_value == task]
    events = cluster.metadata("GetEventsByExecutionIDs", execution_ids=sorted(tried)[-1:]).events
    outputs = [event.artifact_id for event in events if event.type == event.OUTPUT]
    return list(cluster.metadata("GetArtifactsByID", artifact_ids=outputs).artifacts)


def raise_if_failed(cluster: Cluster, run: Any, tasks: Sequence[RunTask]) -> None:
    """Raises an error if a finished run did not succeed.

    Raises:
        UserError: the run failed or was cancelled; the message names the task and says how to see its log.
    """
    if run.state == "CANCELED":
        raise UserError(f"the run {run.run_id} was cancelled")
    if run.state != "SUCCEEDED":
        failed = [task for task in tasks if task.state == "failed"]
        why = failed[0].message if failed else ""
        why = why or (message_in(run.error.message) if run.error and run.error.message else "")
        task = failed[0].name if failed else f"the run {run.run_id}"
        raise UserError(f"{task} failed{': ' if why else ''}{why}; {_log_hint(cluster, run.run_id)}")


def _log_hint(cluster: Cluster, run_id: str) -> str:
    """Says how to see the logs of a run's containers."""
    command = (
        f"kubectl logs --namespace {cluster.namespace or 'kubeflow'} --selector pipeline/runid={run_id} "
        "--container main --prefix --tail 50"
    )
    address = cluster.address(run_id)
    return f"its log: `{command}`" + (f", or {address}" if address else "")
