"""The command `im2latex report`: writes the report of any run in ML Metadata, including failed runs."""

from __future__ import annotations

import dataclasses
import json
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_metadata import MetadataStore

from components.metadata import ABSENT, ADDRESS, FAILED, Output, Step, context_name, properties, read_steps
from components.report.report_page import write_page
from components.report.reported_run import ReportedRun, Setting
from data import toml
from im2latex.errors import UserError
from im2latex.monitor import answer_of, monitored, with_thresholds
from pipeline.buckets import is_address
from pipeline.config import Config, flatten
from pipeline.config.sections import COMPONENTS, WITH_TUNER
from pipeline.lineage.files import local_copy
from pipeline.lineage.run_summary import is_local
from pipeline.lineage.store import choose_run, read, run_ids
from pipeline.workspace import Workspace

# Names of the artifacts in a report, by component and output name.
_ARTIFACTS = {
    ("ImportExampleGen", "examples"): "examples",
    ("ExampleValidator", "anomalies"): "anomalies",
    ("Transform", "transform_graph"): "transform_graph",
    ("Tuner", "tuner_results"): "tuner_results",
    ("Trainer", "model"): "model",
    ("Trainer", "model_run"): "model_run",
    ("Baseline", "baseline"): "baseline",
    ("Evaluator", "evaluation"): "evaluation",
    ("Evaluator", "blessing"): "blessing",
    ("ServingCheck", "blessing"): "serving_check",
    ("Pusher", "pushed_model"): "pushed_model",
}


def write_report(
    run_id: str | None, out: Path | None, show: bool, connection: str | None = None, service: str | None = None
) -> Path:
    """Writes the report of a run.

    Args:
        run_id: id of the run, or the beginning of it; None for the last run.
        out: file to write; None for a file in the workspace's folder `reports`.
        show: whether to open the file in the browser.
        connection: as for `pipeline.lineage.store.read`.
        service: address of a service, or file with what it answered at /statistics, to compare in the report.

    Returns:
        The written file.

    Raises:
        UserError: the run does not exist, the service cannot be read, or the file cannot be written.
    """
    workspace = Workspace.from_environment()

    def ask(store: MetadataStore) -> ReportedRun:
        return read_run(store, choose_run(run_ids(store), run_id, workspace), workspace)

    served = monitored(answer_of(service), with_thresholds(())) if service else None
    run = dataclasses.replace(read(workspace, ask, connection), service=served)
    file = out or workspace.home / "reports" / f"{run.id.replace(':', '-')}.html"
    write_page(run, file)
    if show:
        webbrowser.open(file.absolute().as_uri())
    return file


def read_run(store: MetadataStore, run_id: str, workspace: Workspace) -> ReportedRun:
    """Reads a run from ML Metadata and the workspace."""
    steps, outputs = read_steps(store, run_id)
    by_component = {step.component: properties(store, step) for step in steps}
    names = [step.component for step in steps]
    log = _log(workspace, run_id, run_ids(store))
    settings = _settings(by_component.get("Reporter", {}), log)
    tuned = any(setting.knob == "tuning.trials" and setting.value for setting in settings or ())
    components = WITH_TUNER if tuned else COMPONENTS
    absent = [Step(component, ABSENT) for component in components if component not in names]
    split = _text(by_component, "Evaluator", "split")
    failed = any(step.state == FAILED for step in steps)
    pipeline = context_name(store, steps[0].execution, "pipeline") if steps else Config().name
    return ReportedRun(
        pipeline=pipeline,
        id=run_id,
        steps=[*steps, *absent],
        artifacts={name: _local(outputs[key], name, split) for key, name in _ARTIFACTS.items() if key in outputs},
        settings=settings,
        data=_text(by_component, "ImportExampleGen", "input_base"),
        split=split,
        serving=_text(by_component, "Reporter", "serving") or str(workspace.serving / pipeline),
        log=str(log) if log and failed else "",
        failure=_failure(log) if log and failed else "",
    )


def _local(output: Output, name: str, split: str | None) -> Output:
    """Returns an artifact, as a local copy if it is in a bucket; of examples, the split for the evaluation."""
    if not is_address(output.uri):
        return output
    part = local_copy(output.uri, f"Split-{split}") if name == "examples" and split else None
    copy = part.parent if part else local_copy(output.uri)
    return output._replace(uri=str(copy), properties={**output.properties, ADDRESS: output.uri})


def _text(properties_of: dict[str, dict[str, Any]], component: str, name: str) -> str | None:
    return properties_of.get(component, {}).get(name)


def _log(workspace: Workspace, run_id: str, runs: list[str]) -> Path | None:
    """Finds the log of a run; returns None if `im2latex run` did not start it.

    The name of a log, such as run-20170806-114827, and the id of a run, such as 2017-08-06T11:48:31.123456, are local
    times. The log of a run is the last one that was created after the previous run and not after the run itself.
    """
    local = [run for run in runs if is_local(run)]
    if run_id not in local:
        return None
    index = local.index(run_id)
    started, previous = _stamp(run_id), _stamp(local[index - 1]) if index else ""
    logs = {path.stem.removeprefix("run-"): path for path in workspace.logs.glob("run-*.log")}
    fitting = [stamp for stamp in logs if previous < stamp <= started]
    return logs[max(fitting)] if fitting else None


def _stamp(run_id: str) -> str:
    return run_id.partition(".")[0].replace("-", "").replace(":", "").replace("T", "-")


def _settings(reporter: dict[str, Any], log: Path | None) -> list[Setting] | None:
    """Returns the configuration from Reporter's execution properties, else from the file beside the log."""
    if "settings" in reporter:
        return [Setting(*setting) for setting in json.loads(reporter["settings"])]
    if log is None or not log.with_suffix(".toml").exists():
        return None
    help_lines = {knob: text for knob, _, text in flatten(Config())}
    document = toml.loads(log.with_suffix(".toml").read_text("utf-8"))
    return [Setting(knob, value, help_lines.get(knob, "")) for knob, value in _knobs(document)]


def _knobs(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{knob}", inner) for knob, inner in value.items())
        else:
            yield name, value


def _failure(log: Path) -> str:
    """Returns the message of the last exception in a log; "" if there is none."""
    _, traceback, text = log.read_text("utf-8", errors="replace").rpartition("Traceback (most recent call last):\n")
    line = next((line for line in text.splitlines() if line[:1].strip()), "") if traceback else ""
    return line.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
