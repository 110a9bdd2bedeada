"""The `im2latex` command.

Heavy imports stand inside functions: the command answers `--help` at once.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import data.commands
from data.errors import UserError

# Exit statuses; `run` has one more, for a model that is not blessed.
FAILED = 1
INTERRUPTED = 130

app = typer.Typer(
    name="im2latex",
    help="Images of formulas to LaTeX: make data, train, judge and push a model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="The configuration.", no_args_is_help=True)
model_app = typer.Typer(help="The model.", no_args_is_help=True)
app.add_typer(data.commands.app, name="data")
app.add_typer(model_app, name="model")
app.add_typer(config_app, name="config")

Preset = Annotated[
    str | None, typer.Option(help="Preset: quickstart, small, seed, paper or paper-coarse-to-fine.", metavar="NAME")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file over the preset.", metavar="FILE")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="One knob, such as training.epochs=3; repeatable.", metavar="KNOB=VALUE"),
]


@app.command()
def run(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    first: Annotated[
        str | None,
        typer.Option("--from", help="First component to run, after the last run's others.", metavar="COMPONENT"),
    ] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last component to run.", metavar="COMPONENT")] = None,
    cache: Annotated[bool, typer.Option(help="Reuse what was made from the same inputs, settings and code.")] = True,
) -> None:
    """Run the pipeline: data, training, judgement, push.

    Exit status: 0 done and pushed, 3 the model was not good enough, 1 failed.
    """
    from pipeline.config import load_config
    from pipeline.run import run_pipeline

    status = run_pipeline(load_config(preset, config, settings or ()), first=first, last=last, cache=cache)
    raise typer.Exit(status)


@app.command()
def evaluate(
    data: Annotated[Path, typer.Option(help="Data set, folder of TFRecords, or one file.", metavar="DIR")],
    model: Annotated[
        Path | None, typer.Option(help="SavedModel; if not given, the one pushed last.", metavar="DIR")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of a data set: train, eval or test.")] = "test",
    baseline: Annotated[Path | None, typer.Option(help="SavedModel to compare with.", metavar="DIR")] = None,
    gate: Annotated[
        list[str] | None, typer.Option(help='Rule to keep, such as "bleu >= 0.75"; repeatable.', metavar="RULE")
    ] = None,
    renderer: Annotated[str | None, typer.Option(help="latex or builtin; if not given, the best there is.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to keep predictions and scores in.", metavar="DIR")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Judge a pushed model on any data: all scores, by slice.

    Exit status: 0 done, 3 a rule of --gate is broken, 1 failed.
    """
    _hush()
    from pipeline.evaluate import evaluate_model
    from pipeline.workspace import Workspace

    chosen = model or Workspace.from_environment().newest_model()
    raise typer.Exit(evaluate_model(chosen, data, split, baseline, gate or (), renderer, out, as_json))


@app.command()
def report(
    run_id: Annotated[
        str | None, typer.Argument(help="Beginning of a run's id; if not given, the last run.", metavar="RUN")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write.", metavar="FILE")] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write what a run came to as one HTML file, that of a run that failed too."""
    _hush()
    from pipeline.report import write_report

    typer.echo(write_report(run_id, out, show))


@app.command()
def export(
    weights: Annotated[
        Path, typer.Option(help="Folder with weights.npz, as pipeline.standalone leaves it.", metavar="DIR")
    ],
    out: Annotated[Path, typer.Option(help="Folder to make.", metavar="DIR")],
) -> None:
    """Write a SavedModel of trained weights, as the pipeline pushes them."""
    import tempfile

    if out.exists():
        raise UserError(f"{out} exists already; choose another --out, or remove it")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    _hush()
    from trainer_module.signatures import FormulaReader, NormalisedImages
    from trainer_module.weights import load_weights

    trained = load_weights(weights)
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        # Moved in place when all of it is there: nobody loads half a model.
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent) as folder:
            FormulaReader(trained, NormalisedImages(trained.image)).save(f"{folder}/model")
            Path(folder, "model").rename(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; choose another --out") from None
    typer.echo(f"{out}: predict_images takes image bytes, predict_alternatives searches a beam")


@model_app.command()
def summary(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    vocabulary: Annotated[int, typer.Option(min=5, help="Tokens, the four specials included.", metavar="SIZE")] = 504,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Print the model's parts, what each makes of an image, and its parameters."""
    from pipeline.config import load_config

    chosen = load_config(preset, config, settings or ())
    # The backend that starts fastest: nothing is computed but shapes.
    os.environ["KERAS_BACKEND"] = "numpy"
    from trainer_module.config import STRIDE
    from trainer_module.summary import summarise

    parts = summarise(chosen.model, vocabulary, chosen.image.max_height // STRIDE)
    total = sum(part.trainable + part.fixed for part in parts)
    fixed = sum(part.fixed for part in parts)
    if as_json:
        document = {"parts": [part._asdict() for part in parts], "parameters": total, "fixed": fixed}
        typer.echo(json.dumps(document, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "output", "parameters", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    for part in parts:
        count = f"{part.trainable:,}" + (f" + {part.fixed:,}" if part.fixed else "")
        table.add_row(part.name, part.output, count)
    table.add_row("total", "", f"{total:,}")
    console = Console(highlight=False)
    console.print(table)
    if fixed:
        console.print(f"{fixed:,} of them are moving statistics, which learning does not change.")


@config_app.command()
def show(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    toml: Annotated[bool, typer.Option("--toml", help="As a TOML file that --config takes.")] = False,
) -> None:
    """Print every knob with its value and what it does."""
    from pipeline.config import flatten, literal, load_config, to_toml

    chosen = load_config(preset, config, settings or ())
    if toml:
        typer.echo(to_toml(chosen), nl=False)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("knob", "value", "what it does", box=None, pad_edge=False)
    section = ""
    for knob, value, text in flatten(chosen):
        if knob.rpartition(".")[0] != section:
            section = knob.rpartition(".")[0]
            table.add_section()
            table.add_row()
        table.add_row(knob, literal(value), text)
    Console().print(table, markup=False)


def _hush() -> None:
    """Keeps what TensorFlow and its company say when they are imported from between the lines of an answer."""
    import logging
    import warnings

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Not for tests, which call this in their own process.
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)


def main() -> None:
    """Entry point: what a person can put right becomes one sentence on stderr."""
    try:
        app()
    except UserError as error:
        typer.echo(f"im2latex: {error}", err=True)
        sys.exit(FAILED)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer's answer to Ctrl-C
            typer.echo("im2latex: stopped; the same command goes on from here", err=True)
        raise


if __name__ == "__main__":
    main()
