"""What a run made, read from ML Metadata and the artifacts, the same for fresh and for cached components."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import tensorflow_data_validation as tfdv
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from tensorflow_transform import TFTransformOutput
from tfx.dsl.io import fileio
from tfx.types import artifact_utils

from components.baseline.component import PASSED_OVER, VERSION
from components.evaluator.evaluation import BASELINE, CANDIDATE, read_evaluation
from components.formula_metrics.scores import SCORES
from components.report.page import FILE
from trainer_module.features import SPECIALS, read_vocabulary

_OUTPUTS = {metadata_store_pb2.Event.OUTPUT, metadata_store_pb2.Event.DECLARED_OUTPUT}
_DONE = {metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED}


@dataclass(frozen=True)
class Step:
    """A component's part in a run: whether it came from the cache, and its output artifacts by name."""

    cached: bool
    outputs: dict[str, metadata_store_pb2.Artifact]


@dataclass(frozen=True)
class Result:
    """What a run came to; a part is None when the run did not get to it."""

    examples: dict[str, int] | None = None
    vocabulary: int | None = None
    metrics: dict[str, float] | None = None
    baseline: str = ""  # the serving version it was compared with
    passed_over: str = ""  # newer versions that could not be compared with, and why
    other_vocabulary: str = ""  # that it knows other tokens
    baseline_metrics: dict[str, float] = field(default_factory=dict)
    blessed: bool | None = None
    reasons: tuple[str, ...] = ()  # why it was not blessed
    serving_fault: str = ""  # why a fresh process refused the model
    seconds_per_image: float = 0.0  # of the median image there; 0 when it did not get to it
    pushed: str | None = None  # folder of the pushed version
    report: str | None = None  # HTML file


def read_steps(store: MetadataStore, run_id: str) -> dict[str, Step]:
    """The components that are done in a pipeline run, by their ids."""
    context = store.get_context_by_type_and_name("pipeline_run", run_id)
    node_type = store.get_context_type("node").id
    steps = {}
    for execution in store.get_executions_by_context(context.id) if context else []:
        if execution.last_known_state not in _DONE:
            continue
        (node,) = (c.name for c in store.get_contexts_by_execution(execution.id) if c.type_id == node_type)
        events = store.get_events_by_execution_ids([execution.id])
        keys = {e.artifact_id: e.path.steps[0].key for e in events if e.type in _OUTPUTS}
        outputs = {keys[artifact.id]: artifact for artifact in store.get_artifacts_by_id(list(keys))}
        cached = execution.last_known_state == metadata_store_pb2.Execution.CACHED
        steps[node.rpartition(".")[2]] = Step(cached, outputs)
    return steps


def read_result(steps: dict[str, Step]) -> Result:
    """What the done components of a run came to."""
    found: dict[str, Any] = {}
    if "StatisticsGen" in steps:
        found["examples"] = _examples(steps["StatisticsGen"].outputs["statistics"])
    if "Transform" in steps:
        graph = TFTransformOutput(steps["Transform"].outputs["transform_graph"].uri)
        found["vocabulary"] = len(read_vocabulary(graph)) - SPECIALS
    if "Baseline" in steps:
        found["baseline"] = _text(steps["Baseline"].outputs["baseline"], VERSION)
        found["passed_over"] = _text(steps["Baseline"].outputs["baseline"], PASSED_OVER)
    if "Evaluator" in steps:
        evaluation = read_evaluation(steps["Evaluator"].outputs["evaluation"].uri)
        found["metrics"] = evaluation.slices[""][CANDIDATE]
        found["baseline_metrics"] = evaluation.slices[""].get(BASELINE, {})
        found["blessed"], found["reasons"] = evaluation.blessed, tuple(evaluation.reasons)
        found["other_vocabulary"] = evaluation.other_vocabulary
    if "ServingCheck" in steps:
        checked = steps["ServingCheck"].outputs["blessing"].custom_properties
        found["serving_fault"] = checked["reason"].string_value
        found["seconds_per_image"] = checked["seconds_per_image"].double_value
        if found["serving_fault"]:
            found["blessed"] = False
            found["reasons"] = (*found.get("reasons", ()), found["serving_fault"])
    if "Pusher" in steps:
        found["pushed"] = _text(steps["Pusher"].outputs["pushed_model"], "pushed_destination") or None
    if "Reporter" in steps:
        found["report"] = os.path.join(steps["Reporter"].outputs["report"].uri, FILE)
    return Result(**found)


def detail(component: str, result: Result) -> str:
    """What one component added to a result, in a few words."""
    match component:
        case "StatisticsGen":
            return " + ".join(f"{count:,} {split}" for split, count in (result.examples or {}).items()) + " examples"
        case "ExampleValidator":
            return "no anomalies"
        case "Transform":
            return f"vocabulary of {result.vocabulary:,}"
        case "Baseline":
            serving = f"version {result.baseline} is serving" if result.baseline else "nothing is serving yet"
            return f"{serving}; {result.passed_over}" if result.passed_over else serving
        case "Evaluator":
            shown = ((name, (result.metrics or {})[name]) for name in ("bleu", "exact_match"))
            scores = ", ".join(f"{SCORES[name].title} {value:.3f}" for name, value in shown)
            verdict = f"{scores}: {'blessed' if result.blessed else 'not blessed'}"
            return f"{verdict}; {result.other_vocabulary}" if result.other_vocabulary else verdict
        case "ServingCheck":
            told = f"{1000 * result.seconds_per_image:.0f} ms an image in a process of its own"
            return f"not blessed: {result.serving_fault}" if result.serving_fault else told
        case "Pusher":
            return result.pushed or "not pushed"
        case "Reporter":
            return result.report or ""
        case _:
            return ""


def _text(artifact: metadata_store_pb2.Artifact, name: str) -> str:
    return artifact.custom_properties[name].string_value if name in artifact.custom_properties else ""


def _examples(statistics: metadata_store_pb2.Artifact) -> dict[str, int]:
    counts = {}
    for split in artifact_utils.decode_split_names(statistics.properties["split_names"].string_value):
        (path,) = fileio.glob(os.path.join(statistics.uri, f"Split-{split}", "*"))
        counts[split] = int(tfdv.load_stats_binary(path).datasets[0].num_examples)
    return counts
