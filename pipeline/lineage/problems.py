"""Finds problems in a store, says how to repair them, and repairs what killed runs left behind."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from ml_metadata import ListOptions, MetadataStore, OrderByField
from ml_metadata.proto import metadata_store_pb2

from components.metadata import RUNNING, STATES, context_name
from components.serving_folder import SERVING_VERSION
from pipeline.lineage.graph import (
    DESTINATION,
    NODE,
    PIPELINE_RUN,
    PUSHED_MODEL,
    Artifact,
    Execution,
    LineageGraph,
    read_runs,
    read_store,
)
from pipeline.lineage.notes import is_there, sources
from pipeline.lineage.run_summary import current_run, is_elsewhere
from pipeline.lineage.store import connection, make_ready
from pipeline.lineage.unrecorded import PUSHER, Push, record, unknown_versions, unrecorded
from pipeline.workspace import Workspace

# ML Metadata's states of artifacts that were deleted on purpose.
REMOVED = {"marked_for_deletion", "deleted", "abandoned"}
BLESSINGS = ("model_blessing", "infra_blessing")

# Number of newest executions to search for killed ones. Every run repairs the one before, so these are recent.
RECENT = 500
KILLED, GONE, SOURCE, UNBLESSED, UNKNOWN = "killed", "files gone", "source gone", "not blessed", "not known"
REPAIR = {
    KILLED: "the same command continues from there; the next run, or `im2latex lineage check --repair`, marks it as "
    "cancelled and removes its unfinished files, or records its push",
    GONE: "restore them, or run the pipeline again with the same configuration, which makes missing files again",
    SOURCE: "restore it; synthetic formulas are drawn again by `im2latex run` with the same configuration",
    UNBLESSED: "evaluate it with `im2latex evaluate --model`, and remove it from the serving folder if it is not good",
    UNKNOWN: "remove it from the serving folder, or evaluate it with `im2latex evaluate --model`",
}


class Finding(NamedTuple):
    """A problem."""

    kind: str  # a key of REPAIR
    what: str
    run: str = ""
    execution: int = 0
    artifact: int = 0


def check(graph: LineageGraph, workspace: Workspace) -> list[Finding]:
    """Finds all problems, grouped by kind.

    Args:
        graph: the whole store.
        workspace: the workspace of the store.
    """
    pushed = unrecorded(graph, workspace)
    return [
        *_killed(graph, workspace, pushed),
        *_unblessed(graph),
        *_unknown(graph, workspace, pushed),
        *_sources(graph, workspace),
        *_missing_files(graph, workspace),
    ]


def repair(store: MetadataStore, executions: Collection[int], workspace: Workspace) -> int:
    """Marks executions of killed processes as cancelled, and deletes their unfinished outputs.

    If a process was killed after it had pushed a model and before that was recorded, the push is recorded instead.

    Args:
        store: ML Metadata.
        executions: ids of the executions.
        workspace: their workspace, locked by the caller.

    Returns:
        The number of pushes that were recorded.
    """
    changed = store.get_executions_by_id(executions)
    components = {execution.id: context_name(store, execution.id, NODE).rpartition(".")[2] for execution in changed}
    # The whole store is needed only if a Pusher was killed.
    pushed = unrecorded(read_store(store), workspace) if PUSHER in components.values() else {}
    for execution in changed:
        component = components[execution.id]
        # The folders for an execution's outputs, which become artifacts when it ends.
        for pattern in (f"*/{execution.id}", f".system/*/{execution.id}", ".system/stateful_working_dir/*"):
            for path in (workspace.pipeline_root / component).glob(pattern):
                shutil.rmtree(path)
        if execution.id in pushed:
            record(store, execution, pushed[execution.id], workspace)
        else:
            execution.last_known_state = metadata_store_pb2.Execution.CANCELED
            store.put_executions([execution])
    return len(pushed.keys() & components.keys())


def repair_killed(address: str, workspace: Workspace) -> int:
    """Repairs what killed runs of a workspace left behind. It is called before a run starts, under the run's lock.

    Args:
        address: address of the run's database; "" for the workspace's SQLite file.
        workspace: the workspace.

    Returns:
        The number of executions that were left running.

    Raises:
        UserError: the store cannot be written.
    """
    make_ready(address, workspace)
    store = MetadataStore(connection(address, workspace))
    newest = ListOptions(limit=RECENT, order_by=OrderByField.ID, is_asc=False)
    running = [e.id for e in store.get_executions(list_options=newest) if STATES.get(e.last_known_state) == RUNNING]
    graph = read_runs(store, sorted({context_name(store, execution, PIPELINE_RUN) for execution in running} - {""}))
    killed = [execution.id for execution in _left_running(graph, workspace, current="")]
    repair(store, killed, workspace)
    return len(killed)


def _killed(graph: LineageGraph, workspace: Workspace, pushed: Mapping[int, Push]) -> Iterator[Finding]:
    for execution in _left_running(graph, workspace, current_run(list(graph.runs), workspace)):
        what = f"{execution.component} of run {execution.run or 'none'} was left running by a process that has ended"
        behind = f", behind its push of {pushed[execution.id].version}" if execution.id in pushed else ""
        yield Finding(KILLED, what + behind, execution.run, execution.id)


def _left_running(graph: LineageGraph, workspace: Workspace, current: str) -> Iterator[Execution]:
    for execution in graph.executions.values():
        if (
            execution.state == RUNNING
            and execution.run != current
            and not is_elsewhere(graph, execution.run, workspace)
        ):
            yield execution


def _unblessed(graph: LineageGraph) -> Iterator[Finding]:
    for artifact in graph.artifacts.values():
        maker = graph.maker(artifact.id)
        if artifact.type != PUSHED_MODEL or not artifact.pushed or maker is None:
            continue
        # Pipelines from before ServingCheck have no input of that name.
        required = [key for key in BLESSINGS if key in maker.inputs or key == BLESSINGS[0]]
        blessings = {
            key: [graph.artifacts[i] for i in maker.inputs.get(key, ()) if i in graph.artifacts] for key in required
        }
        lacks = [key.replace("_", " ") for key in required if not any(b.blessed for b in blessings[key])]
        if lacks:
            what = f"{artifact.properties.get(DESTINATION)} was pushed without {' and '.join(lacks)}"
            yield Finding(UNBLESSED, what, maker.run, maker.id, artifact.id)


def _unknown(graph: LineageGraph, workspace: Workspace, pushed: Mapping[int, Push]) -> Iterator[Finding]:
    explained = {push.version for push in pushed.values()}
    for version in unknown_versions(graph, workspace):
        if version not in explained:
            yield Finding(UNKNOWN, f"{version} was not pushed by a recorded run")
    for artifact in graph.artifacts.values():
        if artifact.properties.get(SERVING_VERSION) and not artifact.copy_of:
            what = f"version {artifact.properties[SERVING_VERSION]}, which a model was compared with, "
            yield Finding(UNKNOWN, f"{what}was not pushed by a recorded run", *_maker(graph, artifact))


def _sources(graph: LineageGraph, workspace: Workspace) -> Iterator[Finding]:
    reported: set[str] = set()
    for execution in graph.executions.values():
        for path, exists in sources(execution):
            if not exists and path not in reported and not is_elsewhere(graph, execution.run, workspace):
                reported.add(path)
                what = f"{path}, which {execution.component} read, is missing"
                yield Finding(SOURCE, what, execution.run, execution.id)


def _missing_files(graph: LineageGraph, workspace: Workspace) -> Iterator[Finding]:
    for artifact in graph.artifacts.values():
        if artifact.uri and artifact.state not in REMOVED and not is_there(artifact):
            run, *ids = _maker(graph, artifact)
            if not is_elsewhere(graph, run, workspace):
                what = f"the files of {artifact.type} {artifact.id}, {artifact.uri}, are missing"
                yield Finding(GONE, what, run, *ids)


def _maker(graph: LineageGraph, artifact: Artifact) -> tuple[str, int, int]:
    maker = graph.maker(artifact.id)
    return (maker.run, maker.id, artifact.id) if maker else ("", 0, artifact.id)
