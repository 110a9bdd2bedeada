"""Runs in a line each: how they ended, how long they took, and what came of them."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from components.evaluator.summary import CANDIDATE, SUMMARY
from components.metadata import CACHED, FAILED, RAN, RUNNING
from pipeline.lineage.files import look
from pipeline.lineage.graph import VERSION, Artifact, Execution, Graph
from pipeline.workspace import Workspace

DONE, KILLED = "done", "killed"
# The host of runs on a cluster; their steps ran on many.
CLUSTER = "kubeflow"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT")


@dataclass(frozen=True)
class RunSummary:
    """A run."""

    run: str
    state: str  # DONE, FAILED, RUNNING or KILLED
    component: str  # that failed, is running, or was killed
    began: int  # milliseconds since 1970
    seconds: float  # from its first component's beginning to its last one's end
    ran: int  # components that did their work
    cached: int  # components that took it from the cache
    scores: dict[str, float]  # of all examples; empty where there was no evaluation, or its files are gone
    blessed: bool | None  # None where it did not get to it
    pushed: str  # the version, or ""


def summarise(graph: Graph, run: str, current: str, workspace: Workspace) -> RunSummary:
    """One line of the list.

    Args:
        graph: holds the run.
        run: its id.
        current: what `current_run` says.
        workspace: whose runs these are.
    """
    executions = graph.of_run.get(run, ())
    states = [execution.state for execution in executions]
    outputs = graph.outputs(run)
    state, component = _ending(executions)
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
    """The run that is going on: the last one of `im2latex run` while the workspace is held, else ""."""
    local = [run for run in runs if is_local(run)]
    return local[-1] if local and workspace.is_locked() else ""


def is_local(run: str) -> bool:
    """Whether a run is one of `im2latex run`, whose id is its time, and not of a cluster."""
    return _TIME.match(run) is not None


def is_elsewhere(graph: Graph, run: str, workspace: Workspace) -> bool:
    """Whether a run belongs to another workspace or machine that writes to the same database; then nobody can tell
    from here whether it is still going on, and whether its files are there."""
    here = {"host": socket.gethostname(), "workspace": str(workspace.home)}
    there = graph.runs[run].properties if run in graph.runs else {}
    if there.get("host") == CLUSTER:
        return True
    return bool(workspace.connection) and any(there.get(name, value) != value for name, value in here.items())


def read_scores(evaluation: Artifact | None) -> dict[str, float]:
    """The scores that an evaluation gave the new model; none where its files are gone."""
    file = look(evaluation.uri, SUMMARY) if evaluation else None
    if file is None:
        return {}
    return json.loads(file.read_text("utf-8"))["slices"][""][CANDIDATE]


def _ending(executions: Sequence[Execution]) -> tuple[str, str]:
    """How a run ended, if nothing is running, and at which component."""
    for execution in executions:
        if execution.state == FAILED:
            return FAILED, execution.component
        if execution.state == RUNNING:
            return KILLED, execution.component
    return (DONE, "") if executions else (KILLED, "")


def _blessed(outputs: dict[tuple[str, str], Artifact]) -> bool | None:
    """Whether both the Evaluator and, where there is one, ServingCheck bless the model."""
    blessings = [outputs[key] for key in (("Evaluator", "blessing"), ("ServingCheck", "blessing")) if key in outputs]
    return all(blessing.blessed for blessing in blessings) if blessings else None
