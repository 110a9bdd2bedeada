"""Runs the pipeline in its own process, and reports its progress to the `im2latex` command as JSON lines.

TFX, Beam and TensorFlow print many messages, some of them from C++, which Python's logging cannot redirect. In its own
process, all output goes where the parent directs it. The lines on the file descriptor for events:

    {"repaired": 1}                       number of executions left running by killed runs, if there are any
    {"component": "Trainer", "state": "running"}
    {"component": "Trainer", "state": "done", "seconds": 242.1, "cached": false, "detail": ""}
    {"result": {...}}                     the fields of results.RunResult, at the end of a successful run
    {"error": "...", "component": "..."}  one sentence; the traceback is in the log
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging as absl_logging
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.pipeline import RunOptions
from tfx.orchestration.portable import partial_run_utils
from tfx.proto.orchestration import pipeline_pb2

from components.metadata import CACHED, RAN, read_steps
from im2latex.errors import UserError
from pipeline.config import load_config
from pipeline.lineage.problems import repair_killed
from pipeline.lineage.run_summary import is_local
from pipeline.lineage.store import run_ids
from pipeline.running.record import describe
from pipeline.running.results import RunResult, detail, read_result
from pipeline.running.storage_errors import storage_error
from pipeline.running.tfx_dsl import RecordingRunner, local_pipeline
from pipeline.workspace import Workspace

Report = Callable[[dict[str, Any]], None]
PR_SET_PDEATHSIG = 1


class ReportingRunner(RecordingRunner):
    """A LocalDagRunner that runs the components one by one, and reports before and after each."""

    def __init__(
        self, store: metadata_store_pb2.ConnectionConfig, record: Mapping[str, str | int], report: Report
    ) -> None:
        """
        Args:
            store: the pipeline's ML Metadata; it is not open while a component writes to it.
            record: properties to store with the run.
            report: called with each event.
        """
        super().__init__(store, record)
        self._report = report

    def run_with_ir(self, pipeline: pipeline_pb2.Pipeline, run_options: pipeline_pb2.RunOptions | None = None) -> None:
        """Runs the compiled pipeline, or the part of it in `run_options`.

        Raises:
            RuntimeError: a component was skipped because its inputs are missing, which LocalDagRunner only logs.
            UserError: no earlier run has the outputs that the part needs.
        """
        if run_options and run_options.partial_run.from_nodes:
            settings = run_options.partial_run.snapshot_settings
            settings.base_pipeline_run_strategy.base_run_id = self._base(
                pipeline, run_options.partial_run.from_nodes[0]
            )
        run_id = self.begin(pipeline)
        if run_options:
            partial = run_options.partial_run
            partial_run_utils.mark_pipeline(
                pipeline,
                from_nodes=partial.from_nodes or None,
                to_nodes=partial.to_nodes or None,
                snapshot_settings=partial.snapshot_settings,
            )
        result = RunResult()
        for node in pipeline.nodes:
            component = node.pipeline_node.node_info.id
            if node.pipeline_node.execution_options.HasField("skip"):
                continue
            self._report({"component": component, "state": "running"})
            started = time.monotonic()
            single = pipeline_pb2.Pipeline()
            single.CopyFrom(pipeline)
            for other in single.nodes:
                if other.pipeline_node.node_info.id != component:
                    other.pipeline_node.execution_options.skip.SetInParent()
            LocalDagRunner.run_with_ir(self, single)
            seconds = time.monotonic() - started
            steps, outputs = read_steps(MetadataStore(self._connection), run_id)
            states = {step.component: step.state for step in steps}
            if states.get(component) not in (RAN, CACHED):
                raise RuntimeError(f"{component} did not run, because what it needs was not made")
            result = read_result(outputs)
            self._report(
                {
                    "component": component,
                    "state": "done",
                    "seconds": seconds,
                    "cached": states[component] == CACHED,
                    "detail": detail(component, result),
                }
            )
        self._report({"result": dataclasses.asdict(result)})

    def _base(self, pipeline: pipeline_pb2.Pipeline, first: str) -> str:
        """Returns the newest run in which all components before `first` are done.

        TFX chooses the latest run by time, which is wrong if the clock was set back, or if that run was killed earlier.
        """
        names = [node.pipeline_node.node_info.id for node in pipeline.nodes]
        needed = set(names[: names.index(first)])
        store = MetadataStore(self._connection)
        for run in filter(is_local, reversed(run_ids(store))):
            steps, _ = read_steps(store, run)
            if needed <= {step.component for step in steps if step.state in (RAN, CACHED)}:
                return run
        raise UserError(f"no run has reached {first}; run without --from")


def main() -> int:
    """Runs the pipeline. Returns the exit status: 0 if every component is done, else 1."""
    parser = argparse.ArgumentParser(description="Runs the pipeline and reports events.")
    parser.add_argument("config", help="TOML file")
    parser.add_argument("--events", type=int, required=True, help="file descriptor for the JSON lines")
    parser.add_argument("--from", dest="from_node", help="first component to run")
    parser.add_argument("--to", dest="to_node", help="last component to run")
    parser.add_argument("--no-cache", action="store_true", help="run every component again")
    arguments = parser.parse_args()
    running = ""

    def report(event: dict[str, Any]) -> None:
        nonlocal running
        running = event.get("component", running)
        os.write(arguments.events, (json.dumps(event) + "\n").encode())

    # If the parent dies, the kernel kills this process, so that it does not block the next run.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    absl_logging.set_verbosity(absl_logging.INFO)
    logging.basicConfig()
    logging.getLogger("trainer_module").setLevel(logging.INFO)
    try:
        config, workspace = load_config(path=arguments.config), Workspace.from_environment()
        pipeline = local_pipeline(config, workspace, enable_cache=not arguments.no_cache)
        if repaired := repair_killed(config.metadata.connection, workspace):
            report({"repaired": repaired})
        runner = ReportingRunner(pipeline.metadata_connection_config, describe(config, workspace), report)
        runner.run(pipeline, run_options=_run_options(arguments.from_node, arguments.to_node))
    except Exception as error:  # any error must be reported to the parent
        report({"error": _sentence(error), "component": running})
        traceback.print_exc()  # after the report, because the log may be on a full disk
        return 1
    return 0


def _run_options(first: str | None, last: str | None) -> RunOptions | None:
    if not first and not last:
        return None
    return RunOptions(from_nodes=[first] if first else None, to_nodes=[last] if last else None)


def _sentence(error: Exception) -> str:
    """Returns the error as one line: a UserError's message, a storage error in plain words, else type and message."""
    if not isinstance(error, UserError) and (sentence := storage_error(error, Workspace.from_environment().home)):
        return sentence
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(main())
