"""What a run made, read from ML Metadata and the artifacts, the same for fresh and for cached components."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import tensorflow_data_validation as tfdv
import tensorflow_model_analysis as tfma
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from tensorflow_transform import TFTransformOutput
from tfx.dsl.io import fileio
from tfx.types import artifact_utils

from pipeline.config import METRICS
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
    baseline_metrics: dict[str, float] = field(default_factory=dict)
    blessed: bool | None = None
    reasons: tuple[str, ...] = ()  # why it was not blessed
    pushed: str | None = None  # folder of the pushed version


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
        found["baseline"] = _text(steps["Baseline"].outputs["baseline"], "serving_version")
    if "Evaluator" in steps:
        outputs = steps["Evaluator"].outputs
        metrics = _metrics(outputs["evaluation"].uri)
        found["baseline_metrics"] = metrics.pop("baseline", {})
        (found["metrics"],) = metrics.values()
        found["blessed"] = outputs["blessing"].custom_properties["blessed"].int_value == 1
        found["reasons"] = () if found["blessed"] else tuple(_reasons(outputs["evaluation"].uri, found))
    if "Pusher" in steps:
        found["pushed"] = _text(steps["Pusher"].outputs["pushed_model"], "pushed_destination") or None
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
            return f"version {result.baseline} is serving" if result.baseline else "nothing is serving yet"
        case "Evaluator":
            scores = ", ".join(f"{METRICS[name]} {value:.3f}" for name, value in (result.metrics or {}).items())
            return f"{scores}: {'blessed' if result.blessed else 'not blessed'}"
        case "Pusher":
            return result.pushed or "not pushed"
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


def _metrics(evaluation: str) -> dict[str, dict[str, float]]:
    """Our metrics by model name; a model evaluated alone has the name ""."""
    values: dict[str, dict[str, float]] = {}
    for row in tfma.load_metrics(evaluation):
        for metric in row.metric_keys_and_values:
            if metric.key.name in METRICS and not metric.key.is_diff:
                values.setdefault(metric.key.model_name, {})[metric.key.name] = metric.value.double_value.value
    return values


def _reasons(evaluation: str, found: dict[str, Any]) -> list[str]:
    """Why the gate refused, one clause for each threshold."""
    validation = tfma.load_validation_result(evaluation)
    reasons = ["a metric with a threshold was not computed"] if validation.missing_thresholds else []
    for row in validation.metric_validations_per_slice:
        for failure in row.failures:
            name = failure.metric_key.name
            value = failure.metric_value.double_value.value
            if failure.metric_threshold.HasField("change_threshold"):
                allowed = -failure.metric_threshold.change_threshold.absolute.value
                reasons.append(
                    f"{METRICS[name]} is {-value:.3f} below the {found['baseline_metrics'][name]:.3f} of version "
                    f"{found['baseline']} that is serving (at most {allowed:g} is allowed)",
                )
            else:
                bound = failure.metric_threshold.value_threshold.lower_bound.value
                reasons.append(f"{METRICS[name]} {value:.3f} is below {bound:g}")
    return reasons
