"""Builds the content of each section of a report.

A section whose data is missing says what is missing and why; the other sections are not affected. So failed runs,
rejected models and unfinished runs have a report too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow

from components.evaluator import gate
from components.evaluator.pictures import PICTURE
from components.evaluator.summary import BASELINE, CANDIDATE, PREDICTIONS, SUMMARY, Evaluation, read_evaluation
from components.formula_metrics.scores import SCORES, Score
from components.metadata import SERVING
from components.report import charts, lineage
from components.report.curves import Epoch, best, read_epochs
from components.report.examples import Coverage, Data, coverage, measure, read_data
from components.report.predictions import Confusions, Evaluated, Matrix, confusions, matrix, ranked, read_predictions
from components.report.reported_run import ReportedRun
from components.report.wording import MINUS, number, signed
from components.serving_folder import WITHDRAWN, not_pushed, versions
from im2latex.errors import UserError
from trainer_module.features import DESCRIPTION

# Folder of the logs in the artifact of `trainer_module.trainer`.
LOGS = "logs"

# Slices with fewer examples are marked, because their scores are unreliable.
FEW = 20
SLICES = {"length": "Length, tokens", "area": "Area of the image, pixels"}
# The scores that the report shows in large figures.
LARGE = ("bleu", "exact_match")

ARTIFACTS = {
    "examples": "examples",
    "model": "model",
    "model_run": "log of a training",
    "evaluation": "evaluation",
}


class Missing(Exception):
    """A section's data is missing; the message is one sentence that says what and why."""


class Section(NamedTuple):
    """The content of a section, or a note why there is none."""

    content: Any
    note: str = ""


def section(build: Callable[..., Any], *arguments: Any) -> Section:
    """Builds a section; if its data is missing or damaged, the section has a note instead."""
    try:
        return Section(build(*arguments))
    except (Missing, UserError) as error:
        return Section(None, _sentence(str(error)))
    except OSError as error:
        return Section(None, f"{error.filename or 'A file'} cannot be read: {error.strerror or error}.")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].removesuffix('.')}."


def then(needed: Section, build: Callable[..., Any], *arguments: Any) -> Section:
    """Builds a section from the content of another one; if that has none, the new section has the same note."""
    return needed if needed.content is None else section(build, *arguments, needed.content)


def folder_of(run: ReportedRun, name: str) -> Path:
    """Returns the folder of an artifact.

    Raises:
        Missing: the run has no such artifact, or its folder was deleted.
    """
    artifact = run.artifacts.get(name)
    if artifact is None:
        why = f"{run.failed} failed" if run.failed else "the run did not reach it"
        raise Missing(f"There is no {ARTIFACTS[name]}: {why}.")
    if not Path(artifact.uri).exists():
        raise Missing(f"The {ARTIFACTS[name]} was made, but {artifact.uri} is no longer there.")
    return Path(artifact.uri)


def evaluation_of(run: ReportedRun) -> Evaluation:
    """Reads the scores and the gate's verdict."""
    folder = _written(run, SUMMARY)
    try:
        evaluation = read_evaluation(folder)
        gate.parse_all(verdict.rule for verdict in evaluation.gate)
    except (KeyError, TypeError, ValueError) as error:
        raise Missing(f"Another version of the pipeline wrote the evaluation in {folder} ({error}).") from None
    return evaluation


def evaluated_of(run: ReportedRun) -> Evaluated:
    """Reads the predictions."""
    folder = _written(run, PREDICTIONS)
    try:
        return read_predictions(folder / PREDICTIONS, CANDIDATE)
    except (KeyError, pyarrow.ArrowException) as error:
        raise Missing(f"{folder / PREDICTIONS} is damaged, or of another version of the pipeline ({error}).") from None


def _written(run: ReportedRun, file: str) -> Path:
    folder = folder_of(run, "evaluation")
    if not (folder / file).exists():
        raise Missing(f"The evaluation has no {file}: another version of the pipeline wrote {folder}.")
    return folder


class ScoreCell(NamedTuple):
    """A score of the new model, that of the baseline, and their difference, as text."""

    value: str
    baseline: str = ""
    difference: str = ""
    kind: str = ""  # better, worse or same


def cell(score: Score, scores: dict[str, Any], name: str) -> ScoreCell:
    """Formats one score of one slice, for both models."""
    value, baseline = (scores.get(model, {}).get(name) for model in (CANDIDATE, BASELINE))
    if value is None:
        return ScoreCell(MINUS)
    decimals = 0 if score.is_count else 3
    if baseline is None:
        return ScoreCell(number(value, decimals))
    difference = signed(value - baseline, decimals)
    if difference[0] not in f"+{MINUS}" or not any(digit in difference for digit in "123456789"):
        kind = "same"
    else:
        kind = "better" if (value > baseline) != score.is_better_low else "worse"
    return ScoreCell(number(value, decimals), number(baseline, decimals), difference, kind)


class Large(NamedTuple):
    """A score that is shown in large figures."""

    title: str
    cell: ScoreCell


class RuleRow(NamedTuple):
    """The result of a rule of the gate, as text."""

    text: str
    passed: bool
    value: str
    bound: str


class Outcome(NamedTuple):
    """The outcome of the run: whether its model was blessed and pushed, and why."""

    headline: str
    good: bool | None  # None: neither good nor bad
    sentences: list[str]
    figures: list[Large]
    rules: list[RuleRow]
    check: dict[str, Any]  # results of the serving check; {} if there was none
    rejected: bool  # whether the serving check rejected the model


def verdict(run: ReportedRun, evaluation: Evaluation | None) -> Outcome:
    """Builds the first section: the outcome of the run."""
    check, pushed = _properties(run, "serving_check"), _properties(run, "pushed_model")
    rejected = bool(check) and check.get("blessed") != 1
    blessed = evaluation.blessed if evaluation else _properties(run, "blessing").get("blessed")
    sentences = [run.failure] if run.failure else []
    if evaluation:
        sentences += map(_sentence, evaluation.reasons)
    if rejected:
        sentences.append(f"The serving check: {check.get('reason', 'it gave no reason')}.")
    if WITHDRAWN in pushed:
        sentences.append(f"The model was {not_pushed(pushed[WITHDRAWN])}.")
    sentences.append(_serving(run, str(pushed.get("pushed_version", ""))))
    everything = evaluation.slices[""] if evaluation else {}
    return Outcome(
        *_headline(run, blessed, rejected, pushed.get("pushed") == 1),
        sentences,
        [Large(SCORES[name].title, cell(SCORES[name], everything, name)) for name in LARGE] if evaluation else [],
        [_rule(rule) for rule in evaluation.gate] if evaluation else [],
        check,
        rejected,
    )


def _properties(run: ReportedRun, name: str) -> dict[str, Any]:
    return dict(run.artifacts[name].properties) if name in run.artifacts else {}


def _headline(run: ReportedRun, blessed: Any, rejected: bool, pushed: bool) -> tuple[str, bool | None]:
    if run.failed:
        return f"{run.failed} failed", False
    if blessed is None:
        return "Not evaluated", None
    if not blessed:
        return "Not blessed", False
    if rejected:
        return "Rejected by the serving check", False
    return ("Blessed and pushed", True) if pushed else ("Blessed, not pushed", None)


def _rule(rule: gate.Verdict) -> RuleRow:
    shown = SCORES[gate.parse(rule.rule).score].shown
    value = "no examples" if rule.value is None else shown(rule.value)
    return RuleRow(rule.rule, rule.passed, value, "no baseline" if rule.bound is None else shown(rule.bound))


def _serving(run: ReportedRun, pushed: str) -> str:
    """Describes the version that serves when the report is written."""
    newest = str(max(versions(run.serving), default="")) if run.serving else ""
    if not newest:
        return "Nothing is serving." if run.serving else "It is not known what is serving."
    return f"Version {newest} is serving{', which this run pushed' if newest == pushed else ''}: {run.serving}/{newest}"


class SliceRow(NamedTuple):
    """The scores of a slice."""

    name: str
    examples: int
    few: bool
    cells: list[ScoreCell]


class Scores(NamedTuple):
    """The scores on all examples and by slice."""

    examples: int
    overall: list[tuple[Score, ScoreCell]]
    titles: list[str]  # of the columns of the slices
    groups: list[tuple[str, list[SliceRow]]]
    about: dict[str, dict[str, Any]]  # facts about each model
    renderer: str
    baseline: bool  # whether there is a baseline


def scores(evaluation: Evaluation) -> Scores:
    """Builds the section on the scores."""
    groups: dict[str, list[SliceRow]] = {}
    for name, values in evaluation.slices.items():
        key, _, value = name.partition("=")
        if key in ("", PICTURE):
            continue
        shown = value if key == "structure" else value.replace("-", "\N{EN DASH}")
        cells = [cell(score, values, score_name) for score_name, score in SCORES.items()]
        groups.setdefault(SLICES.get(key, key.capitalize()), []).append(
            SliceRow(shown, values["examples"], values["examples"] < FEW, cells)
        )
    everything = evaluation.slices[""]
    return Scores(
        examples=evaluation.examples,
        overall=[(score, cell(score, everything, name)) for name, score in SCORES.items()],
        titles=[score.title for score in SCORES.values()],
        groups=list(groups.items()),
        about=evaluation.models,
        renderer=evaluation.renderer,
        baseline=BASELINE in evaluation.models,
    )


class Training(NamedTuple):
    """The section on the training."""

    charts: list[charts.Chart]
    epochs: list[Epoch]
    best: Epoch | None


def training(run: ReportedRun) -> Training:
    """Builds the training and validation curves."""
    epochs = read_epochs(folder_of(run, "model_run") / LOGS)
    if not epochs:
        raise Missing("The log of the training is empty.")
    numbers, chosen = [epoch.number for epoch in epochs], best(epochs)
    mark = (chosen.number, chosen.validation_perplexity or 0.0) if chosen else None
    of_training, of_validation = ("training", "dashed"), ("validation", "solid")
    drawn = [
        charts.curves(
            "loss",
            [(*of_training, [e.loss for e in epochs]), (*of_validation, [e.validation_loss for e in epochs])],
            numbers,
        ),
        charts.curves(
            "perplexity",
            [
                (*of_training, [e.perplexity for e in epochs]),
                (*of_validation, [e.validation_perplexity for e in epochs]),
            ],
            numbers,
            logarithmic=True,
            mark=mark,
        ),
        charts.curves("learning rate", [("learning rate", "solid", [e.learning_rate for e in epochs])], numbers),
    ]
    return Training([chart for chart in drawn if chart is not None], epochs, chosen)


class Measured(NamedTuple):
    """The section on the examples' lengths and sizes."""

    histograms: list[charts.Chart]
    medians: list[tuple[str, str, str]]  # name; median, 90th percentile and maximum in the training and evaluated split


def measured(run: ReportedRun, evaluated: Evaluated | None) -> Measured:
    """Compares lengths and sizes in the training split with those in the evaluated split."""
    train = measure(folder_of(run, "examples") / "Split-train")
    if not len(train.lengths):
        raise Missing("There are no training examples.")
    values = {"Length": {"train": train.lengths}, "Width": {"train": train.widths}, "Height": {"train": train.heights}}
    if evaluated:
        for name, others in zip(values, (evaluated.lengths, evaluated.widths, evaluated.heights), strict=True):
            values[name]["evaluated"] = others
    units = {"Length": "tokens", "Width": "pixels", "Height": "pixels"}
    return Measured(
        [charts.histogram(name, units[name], splits) for name, splits in values.items()],
        [
            (f"{name}, {units[name]}", _spread(splits["train"]), _spread(splits.get("evaluated")))
            for name, splits in values.items()
        ],
    )


def _spread(values: np.ndarray | None) -> str:
    if values is None:
        return ""
    return " / ".join(f"{round(float(value)):,}" for value in np.percentile(values, (50, 90, 100)))


def vocabulary(run: ReportedRun, evaluated: Evaluated) -> Coverage:
    """Computes how much of the evaluated formulas the model's vocabulary covers."""
    path = folder_of(run, "model") / SERVING / DESCRIPTION
    if not path.exists():
        raise Missing("The model has no record of its vocabulary.")
    texts = json.loads(path.read_text("utf-8"))["vocabulary"]
    return coverage(texts, (prediction.target for prediction in evaluated.predictions))


class Confused(NamedTuple):
    """The section on confused tokens."""

    confusions: Confusions
    matrix: Matrix
    shades: list[list[int]]  # of the matrix, 0 to 4
    substitutions: list[tuple]
    missing: list[tuple]
    extra: list[tuple]


def confused(evaluated: Evaluated) -> Confused:
    """Builds the section on confused tokens."""
    every = confusions(evaluated.predictions)
    table = matrix(every)
    most = max((count for row in table.counts for count in row), default=0)
    shades = [[math.ceil(4 * count / most) if most else 0 for count in row] for row in table.counts]
    tables = (ranked(counts) for counts in (every.substitutions, every.missing, every.extra))
    return Confused(every, table, shades, *tables)


def data(run: ReportedRun) -> Data | None:
    """Reads the description of the folder that the examples came from; None if the folder is unknown."""
    if run.data is None:
        return None
    read_at = next((step.started for step in run.steps or () if step.component == "ImportExampleGen"), 0)
    return read_data(run.data, read_at)


def descent(run: ReportedRun) -> tuple[lineage.Drawing, list[tuple[str, str, str]]]:
    """Builds the lineage of the model: the drawing, and the name, id and address of each artifact."""
    artifacts = {name: artifact for name, artifact in run.artifacts.items() if name in lineage.TITLES}
    if run.artifacts.get("pushed_model") and run.artifacts["pushed_model"].properties.get("pushed") != 1:
        del artifacts["pushed_model"]
    if "baseline" in artifacts and not artifacts["baseline"].properties.get("serving_version"):
        del artifacts["baseline"]
    notes = {name: f"artifact {artifact.id}" if artifact.id else "made" for name, artifact in artifacts.items()}
    for name, key in (("pushed_model", "pushed_version"), ("baseline", "serving_version")):
        if name in artifacts:
            notes[name] = str(artifacts[name].properties[key])
    titles = {name: title for name, title in lineage.TITLES.items() if name in artifacts}
    rows = [(title, str(artifacts[name].id or ""), artifacts[name].address) for name, title in titles.items()]
    if run.data is not None:
        notes["data"] = "TFRecords"
        rows.insert(0, (lineage.TITLES["data"], "", run.data))
    if "pushed_model" in artifacts:
        rows.append(("served from", "", str(artifacts["pushed_model"].properties["pushed_destination"])))
    return lineage.draw(notes), rows
