"""What each section of a report shows, ready to be written down.

A section that lacks what it is made of says what is missing and why; the others are as usual. So a run that
failed, was refused, or never got so far has a report too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.evaluator import gate
from components.evaluator.evaluation import BASELINE, CANDIDATE, PREDICTIONS, SUMMARY, Evaluation, read_evaluation
from components.formula_metrics.scores import SCORES, Score
from components.report import charts, lineage, pictures
from components.report.attention import CELLS, Looked, look
from components.report.curves import Epoch, best, read_epochs
from components.report.examples import Coverage, Data, coverage, images, measure, read_data
from components.report.predictions import (
    Confusions,
    Evaluated,
    Matrix,
    Part,
    Prediction,
    choose,
    compare,
    confusions,
    matrix,
    ranked,
    read_predictions,
)
from components.report.run import Run
from components.report.wording import MINUS, number, signed
from data.errors import UserError
from data.rendering import render_all
from trainer_module.signatures import DESCRIPTION

# Where TFX's Trainer puts the SavedModel, and `trainer_module.trainer` the logs.
SERVING, LOGS = "Format-Serving", "logs"

# Formulas are shown as large as text, as if images had this many dots per inch, and drawn twice as fine.
DPI, SHOWN_DPI, DENSITY = 100, 150, 2
# How many times the image that the model sees is enlarged.
ENLARGED = 3
# On paper that is light in the dark scheme too. Where both lie over each other, the fine one is to be seen.
COLOURS = {"coarse": (38, 110, 220), "fine": (245, 130, 0)}
OPACITIES = {"coarse": 0.3, "fine": 0.85}

# Slices with fewer examples say little.
FEW = 20
SLICES = {"length": "Length, tokens", "area": "Area of the image, pixels", "structure": "Structure"}
# The scores that are printed large.
LARGE = ("bleu", "exact_match")

ARTIFACTS = {
    "examples": "examples",
    "model": "model",
    "model_run": "log of a training",
    "evaluation": "evaluation",
}


class Missing(Exception):
    """What a section lacks and why, in a sentence."""


class Section(NamedTuple):
    """What a section shows, or why it shows nothing."""

    content: Any
    note: str = ""


def section(build: Callable[..., Any], *arguments: Any) -> Section:
    """Builds a section; what is missing or damaged becomes its note."""
    try:
        return Section(build(*arguments))
    except (Missing, UserError) as error:
        return Section(None, str(error))


def then(needed: Section, build: Callable[..., Any], *arguments: Any) -> Section:
    """Builds a section of another one's content, or leaves it with the same note."""
    return needed if needed.content is None else section(build, *arguments, needed.content)


def folder_of(run: Run, name: str) -> Path:
    """The folder of an artifact.

    Raises:
        Missing: there is none.
    """
    made = run.artifacts.get(name)
    if made is None:
        why = f"{run.failed} failed" if run.failed else "the run did not get to it"
        raise Missing(f"There is no {ARTIFACTS[name]}: {why}.")
    if not Path(made.uri).exists():
        raise Missing(f"The {ARTIFACTS[name]} was made, but {made.uri} is no longer there.")
    return Path(made.uri)


def evaluation_of(run: Run) -> Evaluation:
    """The scores and the gate's verdict."""
    folder = _written(run, SUMMARY)
    try:
        evaluation = read_evaluation(folder)
        gate.parse_all(verdict.rule for verdict in evaluation.gate)
    except (KeyError, TypeError, ValueError) as error:
        raise Missing(f"Another version of the pipeline wrote the evaluation in {folder} ({error}).") from None
    return evaluation


def evaluated_of(run: Run) -> Evaluated:
    """The predictions."""
    return read_predictions(_written(run, PREDICTIONS) / PREDICTIONS, CANDIDATE)


def _written(run: Run, file: str) -> Path:
    folder = folder_of(run, "evaluation")
    if not (folder / file).exists():
        raise Missing(f"The evaluation has no {file}: another version of the pipeline wrote {folder}.")
    return folder


class Cell(NamedTuple):
    """A score, and how it differs from that of the model that was serving."""

    value: str
    baseline: str = ""
    difference: str = ""
    kind: str = ""  # better, worse or same


def cell(score: Score, scores: dict[str, Any], name: str) -> Cell:
    """One score of one slice, for both models."""
    value, baseline = (scores.get(model, {}).get(name) for model in (CANDIDATE, BASELINE))
    if value is None:
        return Cell(MINUS)
    decimals = 0 if score.is_count else 3
    if baseline is None:
        return Cell(number(value, decimals))
    difference = signed(value - baseline, decimals)
    if difference[0] not in f"+{MINUS}" or not any(digit in difference for digit in "123456789"):
        kind = "same"
    else:
        kind = "better" if (value > baseline) != score.is_count else "worse"
    return Cell(number(value, decimals), number(baseline, decimals), difference, kind)


class Large(NamedTuple):
    """A score in large figures."""

    title: str
    cell: Cell


class Rule(NamedTuple):
    """What became of a rule of the gate."""

    text: str
    kept: bool
    value: str
    bound: str


class Verdict(NamedTuple):
    """What became of the model."""

    headline: str
    good: bool | None  # None: nobody knows
    sentences: list[str]
    figures: list[Large]
    rules: list[Rule]
    baseline: str  # the version that was serving before
    check: dict[str, Any]  # what the serving check measured


def verdict(run: Run, evaluation: Evaluation | None) -> Verdict:
    """The first thing to know of a run."""
    found = {name: dict(run.artifacts[name].properties) if name in run.artifacts else {} for name in
             ("blessing", "serving_check", "pushed_model", "baseline")}  # fmt: skip
    blessed = evaluation.blessed if evaluation else found["blessing"].get("blessed")
    check, pushed = found["serving_check"], found["pushed_model"].get("pushed") == 1
    refused = bool(check) and not check["blessed"]
    sentences = []
    if run.failed:
        headline, good = f"{run.failed} failed", False
        sentences += [run.failure] if run.failure else []
    elif blessed is None:
        headline, good = "Not judged", None
    elif not blessed:
        headline, good = "Not blessed", False
    elif refused:
        headline, good = "Refused by the serving check", False
    else:
        headline, good = ("Blessed and pushed", True) if pushed else ("Blessed, not pushed", None)
    if evaluation and not evaluation.blessed:
        sentences += [f"{reason[0].upper()}{reason[1:]}." for reason in evaluation.reasons]
    if refused:
        sentences.append(f"The serving check: {check.get('reason', 'it gave no reason')}.")
    before = str(found["baseline"].get("serving_version", ""))
    sentences.append(_serving(run, found["pushed_model"] if pushed else {}, before))
    everything = evaluation.slices[""] if evaluation else {}
    figures = [Large(SCORES[name].title, cell(SCORES[name], everything, name)) for name in LARGE] if evaluation else []
    rules = [_rule(rule) for rule in evaluation.gate] if evaluation else []
    return Verdict(headline, good, sentences, figures, rules, before, check)


def _rule(rule: gate.Verdict) -> Rule:
    shown = SCORES[gate.parse(rule.rule).score].shown
    value = "no examples" if rule.value is None else shown(rule.value)
    return Rule(rule.rule, rule.kept, value, "no baseline" if rule.bound is None else shown(rule.bound))


def _serving(run: Run, pushed: dict[str, Any], before: str) -> str:
    if pushed:
        return f"Version {pushed['pushed_version']} is serving, in {pushed['pushed_destination']}."
    if "baseline" not in run.artifacts:
        return "The run did not get so far as to look what is serving."
    return f"Version {before} goes on serving." if before else "Nothing is serving."


class Row(NamedTuple):
    """The scores of a slice."""

    name: str
    examples: int
    few: bool
    cells: list[Cell]


class Scores(NamedTuple):
    """The scores, of all examples and by slice."""

    examples: int
    overall: list[tuple[Score, Cell]]
    titles: list[str]  # of the columns of the slices
    groups: list[tuple[str, list[Row]]]
    about: dict[str, dict[str, Any]]  # of each model
    renderer: str
    baseline: bool  # whether there is one


def scores(evaluation: Evaluation) -> Scores:
    """Metrics by slice."""
    groups: dict[str, list[Row]] = {}
    for name, values in evaluation.slices.items():
        if not name:
            continue
        key, _, value = name.partition("=")
        shown = value if key == "structure" else value.replace("-", "\N{EN DASH}")
        cells = [cell(score, values, score_name) for score_name, score in SCORES.items()]
        groups.setdefault(SLICES.get(key, key), []).append(
            Row(shown, values["examples"], values["examples"] < FEW, cells)
        )
    everything = evaluation.slices[""]
    return Scores(
        evaluation.examples,
        [(score, cell(score, everything, name)) for name, score in SCORES.items()],
        [score.title for score in SCORES.values()],
        list(groups.items()),
        evaluation.models,
        evaluation.renderer,
        BASELINE in evaluation.models,
    )


class Layer(NamedTuple):
    """A map of the attention as a film."""

    name: str
    film: str
    rows: int
    columns: int
    cell: int  # side, pixels of the image
    opacity: float


class Attention(NamedTuple):
    """Where the model looked while it wrote one formula."""

    image: pictures.Picture
    width: int  # of the image, pixels
    height: int
    layers: list[Layer]
    # For each step: the token, the highest weight in percent, and where: percent from the left and from the top.
    steps: list[tuple[str, int, int, int]]


class Shown(NamedTuple):
    """A prediction in the gallery; a picture is None where there is none."""

    prediction: Prediction
    probability: float
    image: pictures.Picture | None
    target: pictures.Picture | None
    read: pictures.Picture | None
    target_parts: list[Part]
    read_parts: list[tuple[str, list[tuple[int, str]]]]  # kind, and tokens with their steps
    attention: Attention | None


class Shows(NamedTuple):
    """The gallery."""

    groups: list[tuple[str, list[Shown]]]
    notes: list[str]  # what is missing, and why
    renderer: str


def gallery(run: Run, renderer: str | None, evaluated: Evaluated) -> Shows:
    """The best, the median and the worst predictions.

    Args:
        run: the run.
        renderer: that the evaluation drew formulas with; None for the one that is there.
        evaluated: all predictions.
    """
    chosen = choose(evaluated.predictions)
    every = [prediction for group in chosen for prediction in group]
    encoded = section(_images, run, every)
    looked = then(encoded, _look, run, every)
    formulas = sorted({formula for prediction in every for formula in (prediction.target, prediction.read)})
    drawings = render_all(formulas, dpi=DENSITY * SHOWN_DPI, border=0, renderer=renderer)
    drawn = {
        formula: None if drawing is None else pictures.of_pixels(drawing, DENSITY)
        for formula, drawing in zip(formulas, drawings, strict=True)
    }
    places = {prediction.record: place for place, prediction in enumerate(every)}

    def shown(prediction: Prediction) -> Shown:
        place = places[prediction.record]
        target_parts, read_parts = compare(prediction)
        return Shown(
            prediction,
            math.exp(prediction.log_probability),
            pictures.of_bytes(encoded.content[place], DPI / SHOWN_DPI) if encoded.content else None,
            drawn[prediction.target],
            drawn[prediction.read],
            target_parts,
            _numbered(read_parts),
            _attention(looked.content[place], prediction) if looked.content else None,
        )

    titles = ("Best", "Median", "Worst")
    groups = [(title, [shown(p) for p in group]) for title, group in zip(titles, chosen, strict=True) if group]
    notes = [note for note in (encoded.note, looked.note) if note]
    return Shows(groups, list(dict.fromkeys(notes)), renderer or "")


def _images(run: Run, predictions: Sequence[Prediction]) -> list[bytes]:
    folder = folder_of(run, "examples")
    if run.split is None:
        raise Missing("It is not known which split of the examples was evaluated, so there are no images.")
    found = images(folder / f"Split-{run.split}", [prediction.record for prediction in predictions])
    return [found[prediction.record] for prediction in predictions]


def _look(run: Run, predictions: Sequence[Prediction], encoded: Sequence[bytes]) -> list[Looked]:
    model = folder_of(run, "model") / SERVING
    if not (model / DESCRIPTION).exists():
        raise Missing("The model does not say how it is built, so nobody can see where it looks.")
    return look(str(model), encoded, [prediction.read for prediction in predictions])


def _numbered(parts: Sequence[Part]) -> list[tuple[str, list[tuple[int, str]]]]:
    numbered, step = [], 0
    for part in parts:
        numbered.append((part.kind, list(enumerate(part.tokens, start=step))))
        step += len(part.tokens)
    return numbered


def _attention(looked: Looked, prediction: Prediction) -> Attention:
    height, width = looked.image.shape
    layers = [
        Layer(name, pictures.film(maps, COLOURS[name]), maps.shape[1], maps.shape[2], CELLS[name], OPACITIES[name])
        for name, maps in looked.maps.items()
    ]
    # Of the finer map, if there are two.
    name, maps = list(looked.maps.items())[-1]
    steps = []
    for token, weights in zip([*prediction.read.split(), ""], maps, strict=True):
        row, column = np.unravel_index(int(weights.argmax()), weights.shape)
        left, top = ((int(place) + 0.5) * CELLS[name] for place in (column, row))
        weight, x, y = (round(100 * share) for share in (float(weights.max()), left / width, top / height))
        steps.append((token, weight, min(x, 100), min(y, 100)))
    image = pictures.of_pixels(looked.image)
    return Attention(image, width, height, layers, steps)


class Training(NamedTuple):
    """The course of the training."""

    charts: list[charts.Chart]
    epochs: list[Epoch]
    best: Epoch | None


def training(run: Run) -> Training:
    """Training and validation curves."""
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
    """The examples in figures."""

    histograms: list[charts.Chart]
    medians: list[tuple[str, str, str]]  # what, of the training split, of the evaluated one


def measured(run: Run, evaluated: Evaluated | None) -> Measured:
    """Lengths and sizes of what was learned from, beside those of what was judged with."""
    train = measure(folder_of(run, "examples") / "Split-train")
    if not len(train.lengths):
        raise Missing("There are no examples to learn from.")
    values = {"Length": {"train": train.lengths}, "Width": {"train": train.widths}, "Height": {"train": train.heights}}
    if evaluated:
        lengths = np.array([len(prediction.target.split()) for prediction in evaluated.predictions])
        for name, others in zip(values, (lengths, evaluated.widths, evaluated.heights), strict=True):
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


def vocabulary(run: Run, evaluated: Evaluated) -> Coverage:
    """What of the evaluated formulas the model can write at all."""
    path = folder_of(run, "model") / SERVING / DESCRIPTION
    if not path.exists():
        raise Missing("The model does not say what its vocabulary is.")
    texts = json.loads(path.read_text("utf-8"))["vocabulary"]
    return coverage(texts, [prediction.target for prediction in evaluated.predictions])


class Confused(NamedTuple):
    """Which tokens go wrong."""

    found: Confusions
    matrix: Matrix
    shades: list[list[int]]  # of the matrix, 0 to 4
    substitutions: list[tuple]
    missing: list[tuple]
    extra: list[tuple]


def confused(evaluated: Evaluated) -> Confused:
    """Confusion of tokens."""
    found = confusions(evaluated.predictions)
    table = matrix(found)
    most = max((count for row in table.counts for count in row), default=0)
    shades = [[math.ceil(4 * count / most) if most else 0 for count in row] for row in table.counts]
    tables = (ranked(counts) for counts in (found.substitutions, found.missing, found.extra))
    return Confused(found, table, shades, *tables)


def data(run: Run) -> Data | None:
    """The folder that the examples came from."""
    if run.data is None:
        return None
    read_at = next((step.started for step in run.steps or () if step.component == "ImportExampleGen"), 0)
    return read_data(run.data, read_at)


def descent(run: Run) -> tuple[lineage.Drawing, list[tuple[str, str, str]]]:
    """From which data the model came and where it went: the drawing, and name, id and address of each artifact."""
    there = {name: made for name, made in run.artifacts.items() if name in lineage.TITLES}
    if run.artifacts.get("pushed_model") and run.artifacts["pushed_model"].properties.get("pushed") != 1:
        del there["pushed_model"]
    if "baseline" in there and not there["baseline"].properties.get("serving_version"):
        del there["baseline"]
    notes = {name: f"artifact {made.id}" if made.id else "made" for name, made in there.items()}
    for name, key in (("pushed_model", "pushed_version"), ("baseline", "serving_version")):
        if name in there:
            notes[name] = str(there[name].properties[key])
    titles = {name: title for name, title in lineage.TITLES.items() if name in there}
    rows = [(title, str(there[name].id or ""), there[name].uri) for name, title in titles.items()]
    if run.data is not None:
        notes["data"] = "TFRecords"
        rows.insert(0, (lineage.TITLES["data"], "", run.data))
    if "pushed_model" in there:
        rows.append(("served from", "", str(there["pushed_model"].properties["pushed_destination"])))
    return lineage.draw(notes), rows
