"""Summaries of runs: state, duration, scores, blessing and pushed version."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from components.evaluator.summary import CANDIDATE, SUMMARY
from components.metadata import CACHED, FAILED, RAN, RUNNING
from pipeline.config.sections import COMPONENTS
from pipeline.lineage.files import look
from pipeline.lineage.graph import VERSION, Artifact, Execution, LineageGraph, Run
from pipeline.workspace import Workspace

DONE, KILLED = "done", "killed"
# The host of runs on a cluster; their steps ran on many.
CLUSTER = "kubeflow"
# Property of a run on a cluster that ended before its last component.
ENDED = "ended"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT")


@dataclass(frozen=True)
class RunSummary:
    """The summary of a run."""

    run: str
    state: str  # DONE, FAILED, RUNNING or KILLED
    component: str  # the component that failed, is running, or was killed; "" if the run is done
    began: int  # milliseconds since 1970
    seconds: float  # from the start of the first component to the end of the last one
    ran: int  # number of components that were executed
    cached: int  # number of components whose outputs came from the cache
    scores: dict[str, float]  # on all examples; {} if there was no evaluation, or its files are gone
    blessed: bool | None  # None if there is no blessing
    pushed: str  # the pushed version; "" if none was pushed


def summarise(graph: LineageGraph, run: str, current: str, workspace: Workspace) -> RunSummary:
    """Summarises a run.

    Args:
        graph: a graph that contains the run.
        run: id of the run.
        current: the result of `current_run`.
        workspace: the workspace of the runs.
    """
    executions = graph.of_run.get(run, ())
    states = [execution.state for execution in executions]
    outputs = graph.outputs(run)
    state, component = _ending(executions)
    if state in (DONE, KILLED) and _is_unfinished(graph.runs[run], executions):
        state = FAILED if ENDED in graph.runs[run].properties else RUNNING
    if state == KILLED and (run == current or is_elsewhere(graph, run, workspace)):
        state = RUNNING
    pushed = outputs.get(("Pusher", "pushed_model"))
    return RunSummary(
        run,
        state=state,
        component=component,
        began=graph.runs[run].began,
        seconds=graph.seconds(run),
        ran=states.count(RAN),
        cached=states.count(CACHED),
        scores=read_scores(outputs.get(("Evaluator", "evaluation"))),
        blessed=_blessed(outputs),
        pushed=str(pushed.properties.get(VERSION, "")) if pushed and pushed.pushed else "",
    )


def current_run(runs: Sequence[str], workspace: Workspace) -> str:
    """Returns the run in progress here: the last one of `im2latex run` while the workspace is locked, else ""."""
    local = [run for run in runs if is_local(run)]
    return local[-1] if local and workspace.is_locked() else ""


def is_local(run: str) -> bool:
    """Returns whether a run is one of `im2latex run`, whose id is its time, and not of a cluster."""
    return _TIME.match(run) is not None


def is_elsewhere(graph: LineageGraph, run: str, workspace: Workspace) -> bool:
    """Returns whether a run belongs to another workspace or machine that uses the same database.

    For such a run it is unknown whether it is still in progress and whether its files exist.
    """
    here = {"host": socket.gethostname(), "workspace": str(workspace.home)}
    recorded = graph.runs[run].properties if run in graph.runs else {}
    if recorded.get("host") == CLUSTER:
        return True
    return bool(workspace.connection) and any(recorded.get(name, value) != value for name, value in here.items())


def _is_unfinished(run: Run, executions: Sequence[Execution]) -> bool:
    """Returns whether a run on a cluster has not reached the last component; it may be between two tasks."""
    return run.properties.get("host") == CLUSTER and all(e.component != COMPONENTS[-1] for e in executions)


def read_scores(evaluation: Artifact | None) -> dict[str, float]:
    """Reads the new model's scores on all examples from an evaluation; {} if its files are gone."""
    file = look(evaluation.uri, SUMMARY) if evaluation else None
    if file is None:
        return {}
    return json.loads(file.read_text("utf-8"))["slices"][""][CANDIDATE]


def _ending(executions: Sequence[Execution]) -> tuple[str, str]:
    """Returns the state of a run and the component where it ended, on the assumption that it is not in progress."""
    for execution in executions:
        if execution.state == FAILED:
            return FAILED, execution.component
        if execution.state == RUNNING:
            return KILLED, execution.component
    return (DONE, "") if executions else (KILLED, "")


def _blessed(outputs: dict[tuple[str, str], Artifact]) -> bool | None:
    """Returns whether the Evaluator and ServingCheck, as far as they ran, blessed the model; None if none ran."""
    blessings = [outputs[key] for key in (("Evaluator", "blessing"), ("ServingCheck", "blessing")) if key in outputs]
    return all(blessing.blessed for blessing in blessings) if blessings else None
