"""The command `im2latex evaluate`: evaluates any pushed model on any data, outside a pipeline."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from components.evaluator.gate import parse_all
from components.formula_metrics.scores import SCORES
from data.dataset.tfrecords import examples_of, read_records
from data.files import atomic_folder
from data.progress import progress
from data.spelling import NORMAL, known_spelling
from im2latex.errors import UserError
from pipeline.models.choice import chosen_model
from pipeline.models.published import published_table

if TYPE_CHECKING:
    from components.evaluator.summary import Evaluation

NOT_GOOD_ENOUGH = 3
# Scores shown for each kind of picture, before its loss of BLEU against the unchanged pictures.
OF_PICTURES = ("bleu", "exact_match", "edit_similarity")


def evaluate_model(
    model: str | None,
    data: Path,
    split: str,
    baseline: str | None,
    gate: Sequence[str],
    renderer: str | None,
    out: Path | None,
    as_json: bool,
    pictures: tuple[int, int] | None = None,
    spelling: str = NORMAL,
    published: bool = False,
) -> int:
    """Evaluates a model, prints the result, and writes it to `out` if that is given.

    Args:
        model: as in `chosen_model`.
        data: a data set with splits, a folder of TFRecords, or one TFRecord file.
        split: split of a data set.
        baseline: another model to compare with; None for no comparison.
        gate: rules that the model must pass.
        renderer: as in `data.latex.rendering`; None for the best that is installed.
        out: new folder for predictions, scores and TFMA's files.
        as_json: print `summary.json` instead of the table.
        pictures: number of examples to change to other kinds of pictures, and the seed; None skips them.
        spelling: spelling in which formulas are compared token by token, as in `data.spelling.respell`.
        published: also print published scores on im2latex-100k.

    Returns:
        The exit status: 0, or 3 if the model fails a rule.

    Raises:
        UserError: a rule or the spelling is not valid, the data cannot be read, or a model cannot be used.
    """
    try:
        rules = parse_all(gate) if gate else []
    except ValueError as error:
        raise UserError(f"--gate: {error}") from None
    if baseline is None and any(rule.against_baseline for rule in rules):
        raise UserError("--gate: a rule compares with a baseline; name one with --baseline")
    if pictures is None and any(rule.of_picture for rule in rules):
        raise UserError("--gate: a rule applies to a kind of picture; add --robustness")
    known_spelling(spelling)
    if published and (spelling == NORMAL or as_json):
        raise UserError("--published needs --spelling im2markup, and cannot be used with --json")  # fmt: skip
    if out is not None and out.exists():
        raise UserError(f"{out} exists already; choose another --out, or remove it")
    records = read_records(examples_of(data, split))
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    from components.evaluator.evaluation import evaluate
    from components.evaluator.pictures import RobustnessTest
    from components.evaluator.summary import BASELINE, CANDIDATE, SUMMARY

    models = {CANDIDATE: chosen_model(model)} | ({BASELINE: chosen_model(baseline)} if baseline else {})
    about = {name: {"path": str(folder)} for name, folder in models.items()}
    with _folder(out) as folder:
        with progress() as advance:
            evaluation = evaluate(
                records,
                models,
                rules,
                folder,
                robustness=RobustnessTest(*pictures) if pictures else None,
                spelling=spelling,
                about=about,
                renderer=renderer,
                progress=advance,
            )
        if as_json:
            print((folder / SUMMARY).read_text("utf-8"), end="")
        else:
            _print(evaluation, Console(highlight=False))
            if published:
                print(f"\n{published_table(evaluation, str(data), split)}")
    return 0 if evaluation.blessed else NOT_GOOD_ENOUGH


@contextlib.contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Yields a folder that becomes `out` if no error is raised, or a temporary one if `out` is None."""
    if out:
        with atomic_folder(out) as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary, "evaluation")


def _print(evaluation: Evaluation, console: Console) -> None:
    """Prints the scores, with a row for each slice and model, and the results of the rules."""
    from components.evaluator.pictures import PICTURE
    from components.evaluator.summary import CANDIDATE

    columns = {name: score for name, score in SCORES.items() if score.heading}
    headings = [score.heading for score in columns.values()]
    table = Table("", "count", *headings, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
        column.min_width = 5
    section = ""
    for name, scores in evaluation.slices.items():
        key, _, value = name.partition("=")
        if key == PICTURE:
            continue
        if key != section:
            section = key
            table.add_row(key, style="bold")
        for model in evaluation.models:
            first = [f" {value}" if value else "all", f"{scores['examples']:,}"]
            other = [f"  {model}", ""]
            shown = [score.shown(scores[model][score_name]) for score_name, score in columns.items()]
            table.add_row(
                *(first if model == CANDIDATE else other), *shown, style=None if model == CANDIDATE else "dim"
            )
    console.print(table)
    if evaluation.pictures:
        console.print(_pictures(evaluation))
    compared = "in normal form" if evaluation.spelling == NORMAL else "as they are"
    console.print(f"formulas drawn by {evaluation.renderer}, tokens compared {compared}", markup=False)
    if left_out := evaluation.slices[""][CANDIDATE]["cdm_left_out"]:
        left_out_of = f"{left_out:,.0f} of {evaluation.examples:,} examples"
        console.print(f"CDM leaves out {left_out_of}: the built-in typesetter cannot set the references")
    for model in evaluation.models:
        error = evaluation.slices[""][model]["calibration_error"]
        console.print(f"{model}: calibration error {error:.3f} (mean deviation of the probabilities)")
    for model, facts in evaluation.models.items():
        rate = evaluation.examples / max(facts["seconds"], 1e-9)
        console.print(f"{model}: read {evaluation.examples:,} images in {facts['seconds']:.1f} s, {rate:.0f} a second")
    for verdict in evaluation.gate:
        outcome = "passed" if verdict.passed else "failed"
        console.print(f"{outcome}  {verdict.rule}  ({verdict.text})", markup=False, soft_wrap=True)


def _pictures(evaluation: Evaluation) -> Table:
    """Returns the table of scores with a row for each kind of picture and model."""
    from components.evaluator.summary import CANDIDATE

    table = Table("picture", "count", *(SCORES[name].heading for name in OF_PICTURES), "loss", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
        column.min_width = 5
    for kind, scores in evaluation.pictures.items():
        for model in evaluation.models:
            first = [f"  {kind}", f"{scores['examples']:,}"] if model == CANDIDATE else [f"    {model}", ""]
            shown = [SCORES[name].shown(scores[model][name]) for name in OF_PICTURES]
            loss = evaluation.loss(kind, model)
            table.add_row(
                *first, *shown, "" if loss is None else f"{loss:.3f}", style=None if model == CANDIDATE else "dim"
            )
    return table
