"""Reads the result of a run from its artifacts; executed and cached components are treated alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.evaluator.summary import BASELINE, CANDIDATE, read_evaluation
from components.example_validator import drift
from components.formula_metrics.scores import SCORES
from components.metadata import Output
from components.report.report_page import FILE
from components.serving_folder import SERVING_VERSION, SKIPPED, WITHDRAWN, not_pushed
from components.tuner.results import best_in_words
from pipeline.lineage.notes import count_examples, vocabulary_size


@dataclass(frozen=True)
class RunResult:
    """The result of a run; a field is None if the run ended before it."""

    examples: dict[str, int] | None = None
    drift: str = ""  # the comparison of the examples with the training data of the serving model
    vocabulary: int | None = None
    tuned: str = ""  # the best trial of Tuner
    metrics: dict[str, float] | None = None
    pictures: str = ""  # scores on other kinds of pictures, as text
    baseline: str = ""  # the serving version that it was compared with
    skipped: str = ""  # newer versions that cannot be used as the baseline, with reasons
    other_vocabulary: str = ""  # note that the baseline has another vocabulary
    baseline_metrics: dict[str, float] = field(default_factory=dict)
    blessed: bool | None = None
    reasons: tuple[str, ...] = ()  # why the model was not blessed
    serving_error: str = ""  # why ServingCheck rejected the model
    seconds_per_image: float = 0.0  # median in ServingCheck; 0 if it was not measured
    pushed: str | None = None  # folder of the pushed version
    withdrawn: str = ""  # the withdrawn version that the model is a copy of, so that it was not pushed
    report: str | None = None  # HTML file


def read_result(outputs: Mapping[tuple[str, str], Output]) -> RunResult:
    """Reads the result of a run from the artifacts of its finished components.

    Args:
        outputs: artifacts by component and output name, from `components.metadata.read_steps`.
    """
    fields: dict[str, Any] = {}
    if statistics := outputs.get(("StatisticsGen", "statistics")):
        fields["examples"] = count_examples(statistics.uri)
    if anomalies := outputs.get(("ExampleValidator", "anomalies")):
        fields["drift"] = anomalies.properties.get(drift.SENTENCE, "")
    if graph := outputs.get(("Transform", "transform_graph")):
        fields["vocabulary"] = vocabulary_size(graph.uri)
    if best := outputs.get(("Tuner", "best_hyperparameters")):
        fields["tuned"] = best_in_words(best.properties)
    if baseline := outputs.get(("Baseline", "baseline")):
        fields["baseline"] = baseline.properties.get(SERVING_VERSION, "")
        fields["skipped"] = baseline.properties.get(SKIPPED, "")
    if evaluated := outputs.get(("Evaluator", "evaluation")):
        evaluation = read_evaluation(evaluated.uri)
        fields["metrics"] = evaluation.slices[""][CANDIDATE]
        fields["baseline_metrics"] = evaluation.slices[""].get(BASELINE, {})
        fields["blessed"], fields["reasons"] = evaluation.blessed, tuple(evaluation.reasons)
        fields["pictures"] = evaluation.hardest_pictures
        fields["other_vocabulary"] = evaluation.other_vocabulary
    if checked := outputs.get(("ServingCheck", "blessing")):
        fields["serving_error"] = checked.properties.get("reason", "")
        fields["seconds_per_image"] = checked.properties.get("seconds_per_image", 0.0)
        if fields["serving_error"]:
            fields["blessed"] = False
            fields["reasons"] = (*fields.get("reasons", ()), fields["serving_error"])
    if pushed := outputs.get(("Pusher", "pushed_model")):
        fields["pushed"] = pushed.properties.get("pushed_destination") or None
        fields["withdrawn"] = pushed.properties.get(WITHDRAWN, "")
    if report := outputs.get(("Reporter", "report")):
        fields["report"] = os.path.join(report.uri, FILE)
    return RunResult(**fields)


def detail(component: str, result: RunResult) -> str:
    """Describes what one component contributed to a result, in a few words."""
    match component:
        case "StatisticsGen":
            return " + ".join(f"{count:,} {split}" for split, count in (result.examples or {}).items()) + " examples"
        case "ExampleValidator":
            return f"no anomalies; {result.drift}" if result.drift else "no anomalies"
        case "Transform":
            return f"vocabulary of {result.vocabulary:,}"
        case "Tuner":
            return result.tuned
        case "Baseline":
            serving = f"version {result.baseline} is serving" if result.baseline else "nothing is serving yet"
            return f"{serving}; {result.skipped}" if result.skipped else serving
        case "Evaluator":
            shown = ((name, (result.metrics or {})[name]) for name in ("bleu", "exact_match"))
            scores = ", ".join(f"{SCORES[name].title} {value:.3f}" for name, value in shown)
            verdict = f"{scores}: {'blessed' if result.blessed else 'not blessed'}"
            return f"{verdict}; {result.other_vocabulary}" if result.other_vocabulary else verdict
        case "ServingCheck":
            message = f"{1000 * result.seconds_per_image:.0f} ms an image in a process of its own"
            return f"not blessed: {result.serving_error}" if result.serving_error else message
        case "Pusher":
            return result.pushed or not_pushed(result.withdrawn)
        case "Reporter":
            return result.report or ""
        case _:
            return ""
