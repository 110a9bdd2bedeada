"""What became of a run: its tasks, followed to the end, and whether the model was pushed.

What a task is to the API: on Argo, below the API, a task is several nodes, and the API shows each of them as a task of
its own: NAME-driver, which looks into the cache; NAME, the task; and in it `executor`, its container, which is skipped
when the cache had the outputs.
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

# How long a run is followed while the server does not answer, and how long to wait between two tries, seconds.
PATIENCE = 300.0
SHORT_PATIENCE = 30.0  # for what can be done without
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
PUSHER = "pusher"
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of a run, put together from its nodes."""

    name: str
    state: str  # waiting, running, succeeded, cached, failed, stopped or skipped
    started: datetime.datetime | None = None
    ended: datetime.datetime | None = None
    message: str = ""  # why it failed, where the server says so

    @property
    def seconds(self) -> float | None:
        """From its start to its end, or to now; None for one that was not started."""
        if self.started is None:
            return None
        end = self.ended or datetime.datetime.now(datetime.timezone.utc)
        return max(0.0, (end - self.started).total_seconds())

    def line(self) -> str:
        """What happened to it last, for people."""
        if self.state == "running":
            return f"{self.name:<26} {'':>9}  started"
        taken = "" if self.seconds is None else duration(self.seconds)
        told = f"{self.state}: {self.message}" if self.message else self.state
        return f"{self.name:<26} {taken:>9}  {told}"


def tasks_of(cluster: Cluster, run: Any) -> list[str]:
    """Names of a run's tasks, also of those that it has not come to.

    When its version of the pipeline was deleted, of those it has come to alone.
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


def read_tasks(run: Any, names: Sequence[str]) -> list[Task]:
    """The tasks of a run as it is now.

    Args:
        run: V2beta1Run.
        names: of the tasks, in the order wanted.
    """
    nodes = _nodes(run)
    skipped = [_moment(node.start_time) for node in _details(run) if _is_skipped_container(node)]
    return [_task(name, nodes.get(f"{name}-driver"), nodes.get(name), skipped, run) for name in names]


def _details(run: Any) -> list[Any]:
    """The nodes of a run; without what the launcher recorded for the cache, which has no name."""
    details = (run.run_details.task_details if run.run_details else None) or []
    return [node for node in details if node.display_name]


def _nodes(run: Any) -> dict[str, Any]:
    return {node.display_name: node for node in _details(run)}


def _is_skipped_container(node: Any) -> bool:
    return node.display_name == "executor" and node.state == "SKIPPED"


def _moment(value: datetime.datetime | None) -> datetime.datetime | None:
    """A time of the API; what has not happened yet is in the year 1 there."""
    return value if value and value.year > 1970 else None


def _task(name: str, driver: Any, node: Any, skipped: Sequence[datetime.datetime | None], run: Any) -> Task:
    """A task from its nodes; `skipped` are the starts of all containers that were skipped."""
    present = [part for part in (driver, node) if part is not None]
    started = min((moment for part in present if (moment := _moment(part.start_time))), default=None)
    last = present[-1] if present else None
    ended = _moment(last.end_time) if last is not None else None
    state = _state(driver, node, skipped)
    if run.state in ENDED and state in ("waiting", "running"):
        # The run has ended without it: a failure elsewhere or a person stopped it.
        state = "stopped" if state == "running" else "skipped"
        ended = ended or _moment(run.finished_at)
    if run.state == "CANCELED" and state == "failed":
        state = "stopped"
    if state == "skipped":
        started = None
    if state in ("waiting", "running", "skipped"):
        ended = None
    return Task(name, state, started, ended, _why(present) if state == "failed" else "")


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
            return "cached" if _took_no_container(node, skipped) else "succeeded"
        case "FAILED" | "CANCELED":
            return "failed"
        case "SKIPPED":
            return "skipped"
        case _:
            return "running"


def _is_omitted(node: Any) -> bool:
    """Whether it was never started because what it waits for failed: Argo's Omitted, for which the API has no state."""
    return node.state in (None, "RUNTIME_STATE_UNSPECIFIED") and _moment(node.end_time) is not None


def _took_no_container(node: Any, skipped: Sequence[datetime.datetime | None]) -> bool:
    """Whether the cache had the outputs.

    The API does not say in which task a container is. One that was skipped begins and ends with its task, in one step
    of Argo; one that ran takes seconds to be there at all.
    """
    start, end = _moment(node.start_time), _moment(node.end_time)
    if start is None or end is None or (end - start).total_seconds() > 1:
        return False
    return any(moment is not None and start <= moment <= end for moment in skipped)


def _why(nodes: Sequence[Any]) -> str:
    """The message of the last error among a task's nodes."""
    for node in reversed(nodes):
        errors = [node.error, *(status.error for status in reversed(node.state_history or []))]
        for error in errors:
            if error is not None and error.message:
                return message_in(error.message)
    return ""


def follow(
    cluster: Cluster, run_id: str, names: Sequence[str], report: Callable[[Task], None], say: Say, pause: float
) -> tuple[Any, list[Task]]:
    """Follows a run to its end.

    Args:
        cluster: where.
        run_id: which.
        names: of its tasks.
        report: is given each task when it starts and when it ends.
        say: takes a line about a server that does not answer, and about one that does again.
        pause: seconds between two looks.

    Returns:
        The run and its tasks at the end.

    Raises:
        UserError: the server refuses to show it, or has not answered for `PATIENCE` seconds; the run goes on.
    """
    shown: dict[str, str] = {}
    while True:
        try:
            run = _retry(cluster, lambda: cluster.run(run_id), say, PATIENCE)
        except UserError as error:
            way_on = cluster.command(f"status {run_id} --follow")
            raise UserError(f"{error} (the run goes on; {way_on} follows it)") from None
        tasks = read_tasks(run, names)
        for task in sorted(tasks, key=_last_moment):
            if shown.get(task.name, "waiting") != task.state:
                report(task)
            shown[task.name] = task.state
        if run.state in ENDED:
            return run, tasks
        time.sleep(pause)


def _last_moment(task: Task) -> float:
    moment = task.ended or task.started
    return moment.timestamp() if moment else float("inf")


def _retry(cluster: Cluster, look: Callable[[], Any], say: Say, patience: float) -> Any:
    """Asks the server until it answers; logs in once more when it rejects the token.

    Raises:
        UserError: the server refuses it, or has not answered for `patience` seconds.
    """
    lost = 0.0
    pause = FIRST_PAUSE
    logged_in = False
    while True:
        try:
            seen = look()
        except Unreachable as error:
            lost = lost or time.monotonic()
            if time.monotonic() - lost + pause > patience:
                raise
            say(f"{error.what}; looking again in {pause:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        except Refused as refusal:
            if refusal.status != 401 or logged_in:
                raise
            logged_in = True
            # Whether it helped, the next look says, and that with what to do.
            with contextlib.suppress(Refused, Unreachable):
                cluster.reconnect()
        else:
            if lost:
                say("the server answers again")
            return seen


def seconds_of(run: Any) -> float:
    """From the making of a run to its end, or to now."""
    end = _moment(run.finished_at) or datetime.datetime.now(datetime.timezone.utc)
    return max(0.0, (end - run.created_at).total_seconds())


def was_pushed(
    cluster: Cluster, run: Any, tasks: Sequence[Task], say: Say, patience: float = 0.0, connection: str = ""
) -> bool | None:
    """Whether the model of a run was pushed; None as long as the run has not succeeded, and where it cannot be known.

    A Pusher that pushes nothing succeeds, and the API shows no property of what it made: ML Metadata has it.

    Args:
        cluster: where.
        run: V2beta1Run.
        tasks: of the run.
        say: takes a line about why it cannot be known.
        patience: seconds that the backend's ML Metadata may need to answer.
        connection: of the database that the run was recorded in; "" asks the backend's.
    """
    if connection and run.state in ENDED:
        pushed = _recorded_push(connection, run.run_id, say)
        return pushed if run.state == "SUCCEEDED" else None
    states = {task.name: task.state for task in tasks}
    if run.state != "SUCCEEDED" or PUSHER not in states:
        return None
    if states[PUSHER] == "skipped":
        return False
    try:
        made = _retry(cluster, lambda: _made(cluster, run.run_id, PUSHER), say, patience)
    except UserError as error:
        say(f"whether the model was pushed is not known: {error} (ML Metadata is behind the address of the web page)")
        return None
    found = [artifact.custom_properties[PUSHED] for artifact in made if PUSHED in artifact.custom_properties]
    if not found:
        say("whether the model was pushed is not known: ML Metadata has nothing of it")
        return None
    (value, *_) = found
    return bool(getattr(value, value.WhichOneof("value")))


def _recorded_push(connection: str, run_id: str, say: Say) -> bool | None:
    """Whether a run that has ended pushed its model, from the database; what it left running is marked as cancelled."""
    from kubeflow.closing import close_run
    from pipeline.lineage.store import write
    from pipeline.workspace import Workspace

    try:
        return write(Workspace.from_environment(), lambda store: close_run(store, run_id), connection)
    except UserError as error:
        say(f"whether the model was pushed is not known: {error}")
        return None


def _made(cluster: Cluster, run_id: str, task: str) -> list[Any]:
    """The artifacts that a task of a run has put out, of this run or out of the cache."""
    context = cluster.metadata("GetContextByTypeAndName", type_name="system.PipelineRun", context_name=run_id).context
    executions = cluster.metadata("GetExecutionsByContext", context_id=context.id).executions
    tried = [e.id for e in executions if e.custom_properties["task_name"].string_value == task]
    events = cluster.metadata("GetEventsByExecutionIDs", execution_ids=sorted(tried)[-1:]).events
    outputs = [event.artifact_id for event in events if event.type == event.OUTPUT]
    return list(cluster.metadata("GetArtifactsByID", artifact_ids=outputs).artifacts)


def raise_if_failed(cluster: Cluster, run: Any, tasks: Sequence[Task]) -> None:
    """Raises an error if a run that has ended failed.

    Raises:
        UserError: it failed or was cancelled; the sentence says where and how to see why.
    """
    if run.state == "CANCELED":
        raise UserError(f"the run {run.run_id} was cancelled")
    if run.state != "SUCCEEDED":
        failed = [task for task in tasks if task.state == "failed"]
        why = failed[0].message if failed else ""
        why = why or (message_in(run.error.message) if run.error and run.error.message else "")
        place = failed[0].name if failed else f"the run {run.run_id}"
        raise UserError(f"{place} failed{': ' if why else ''}{why}; {_log_hint(cluster, run.run_id)}")


def _log_hint(cluster: Cluster, run_id: str) -> str:
    """How to see the log of a run's containers."""
    command = (
        f"kubectl logs --namespace {cluster.namespace or 'kubeflow'} --selector pipeline/runid={run_id} "
        "--container main --prefix --tail 50"
    )
    address = cluster.address(run_id)
    return f"its log: `{command}`" + (f", or {address}" if address else "")
