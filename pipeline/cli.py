"""The `im2latex` command.

Heavy imports are inside functions, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Annotated, Literal

import typer

import data.commands
import im2latex
import pipeline.lineage.commands
import pipeline.running.commands
import pipeline.serving.commands
from data.spelling import NORMAL, SPELLINGS
from im2latex.errors import UserError
from pipeline.options import INTERRUPTED, AllowFullDisk, ConfigFile, Json, Model, Preset, Settings, hush

# Other platforms that run the pipeline, each with a sub-command. They import the pipeline; it does not import them.
PLATFORMS = {"kubeflow": "kubeflow.commands"}

app = typer.Typer(
    name="im2latex",
    help="Turn images of formulas into LaTeX: make data, train, evaluate, push and serve models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Show the configuration.", no_args_is_help=True)
model_app = typer.Typer(help="Show the model.", no_args_is_help=True)
app.add_typer(pipeline.running.commands.app)
app.add_typer(data.commands.app, name="data")
app.add_typer(model_app, name="model")
app.add_typer(config_app, name="config")
app.add_typer(pipeline.lineage.commands.app, name="lineage")
for name, module in PLATFORMS.items():
    app.add_typer(importlib.import_module(module).app, name=name)
app.add_typer(pipeline.serving.commands.app)


def _print_versions(show: bool) -> None:
    if show:
        packages = [f"{name} {version(name)}" for name in ("tfx", "tensorflow", "keras")]
        typer.echo(", ".join([f"im2latex {im2latex.__version__}", *packages, f"Python {python_version()}"]))
        raise typer.Exit


@app.callback()
def options(
    versions: Annotated[
        bool, typer.Option("--version", callback=_print_versions, is_eager=True, help="Show versions and exit.")
    ] = False,
) -> None:
    """Options of the command itself."""


@app.command()
def evaluate(
    data: Annotated[Path, typer.Option(help="Data set, folder of TFRecords, or one TFRecord file.", metavar="DIR")],
    model: Model = None,
    split: Annotated[str, typer.Option(help="Split of a data set: train, eval or test.")] = "test",
    baseline: Annotated[
        str | None, typer.Option(help="SavedModel to compare with, or `reader`.", metavar="DIR")
    ] = None,
    gate: Annotated[
        list[str] | None, typer.Option(help='Rule that must hold, such as "bleu >= 0.75"; repeatable.', metavar="RULE")
    ] = None,
    renderer: Annotated[
        str | None, typer.Option(help="Renderer for comparing images: latex or builtin. Default: latex if installed.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for predictions and scores.", metavar="DIR")] = None,
    robustness: Annotated[
        bool,
        typer.Option(
            "--robustness", help="Also evaluate on changed images: resized, blurred, inverted, as photos and so on."
        ),
    ] = False,
    robustness_examples: Annotated[
        int, typer.Option(help="Number of examples to change, each in every way.", min=1, metavar="N")
    ] = 200,
    robustness_seed: Annotated[
        int, typer.Option(help="Random seed for choosing and changing these examples.", min=0, metavar="N")
    ] = 0,
    spelling: Annotated[
        str,
        typer.Option(
            help="Spelling in which tokens are compared: normal (formulas that look the same are equal) or im2markup "
            "(as written).",
            metavar="|".join(SPELLINGS),
        ),
    ] = NORMAL,
    published: Annotated[
        bool,
        typer.Option("--published", help="Also print published scores on im2latex-100k; needs --spelling im2markup."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Evaluate a model on any data: all scores, overall and by slice.

    Exit status: 0 done, 3 a rule of --gate failed, 1 failed.
    """
    hush()
    from pipeline.models.evaluate import evaluate_model

    pictures = (robustness_examples, robustness_seed) if robustness else None
    raise typer.Exit(
        evaluate_model(
            model,
            data,
            split=split,
            baseline=baseline,
            gate=gate or (),
            renderer=renderer,
            out=out,
            as_json=as_json,
            pictures=pictures,
            spelling=spelling,
            published=published,
        )
    )


@app.command()
def report(
    run_id: Annotated[
        str | None, typer.Argument(help="Run id, or its beginning. Default: the last run.", metavar="RUN")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="HTML file to write.", metavar="FILE")] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the file in the browser.")] = False,
    service: Annotated[
        str | None,
        typer.Option(
            help="Address of a service, or file with its answer at /statistics, to compare with its training data.",
            metavar="URL|FILE",
        ),
    ] = None,
    connection: Annotated[
        str | None,
        typer.Option(help="Database of the run. Default: that of the last run.", metavar="ADDRESS"),
    ] = None,
) -> None:
    """Write a run's HTML report, including failed runs."""
    hush()
    from pipeline.lineage.run_report import write_report

    typer.echo(write_report(run_id, out, show, connection, service))


@app.command()
def reproduce(
    run_id: Annotated[
        str | None, typer.Argument(help="Run id, or its beginning. Default: the last run.", metavar="RUN")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="New workspace to run in and keep. Default: a temporary one.", metavar="DIR"),
    ] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last component to run.", metavar="COMPONENT")] = None,
    settings: Settings = None,
    allow_changed_data: Annotated[
        bool, typer.Option("--allow-changed-data", help="Continue even if the data has changed since.")
    ] = False,
    allow_full_disk: AllowFullDisk = False,
    as_json: Json = False,
    connection: Annotated[
        str | None,
        typer.Option(help="Database of the run. Default: that of the last run.", metavar="ADDRESS"),
    ] = None,
) -> None:
    """Run a recorded run again in another workspace, and compare the results.

    Exit status: 0 same results, 4 different results, 1 failed.
    """
    hush()
    from pipeline.reproduction.reproduce import reproduce as again

    raise typer.Exit(
        again(
            run_id,
            out=out,
            settings=settings or (),
            last=last,
            allow_changed_data=allow_changed_data,
            allow_full_disk=allow_full_disk,
            as_json=as_json,
            connection=connection,
        )
    )


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="Folder or file to write.", metavar="PATH")],
    weights: Annotated[
        Path | None, typer.Option(help="File of weights, or folder with weights.npz, to read.", metavar="PATH")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="SavedModel to read, such as a pushed one, or `reader`, the model that comes with im2latex.",
            metavar="DIR",
        ),
    ] = None,
    to: Annotated[
        Literal["savedmodel", "weights", "onnx", "web"],
        typer.Option(
            "--format",
            help="Write a SavedModel, one small file of weights, an ONNX file, or a web page that reads pictures.",
            metavar="savedmodel|weights|onnx|web",
        ),
    ] = "savedmodel",
    precision: Annotated[
        Literal["float32", "float16", "int8"] | None,
        typer.Option(
            help="Number format of the matrices in a file of weights, ONNX or a web page. Default: float32, for a web "
            "page float16.",
            metavar="float32|float16|int8",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            help="Data set, folder of TFRecords or TFRecord file, not used in training, to calibrate the model's "
            "probabilities on.",
            metavar="DIR",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the data set for --calibrate.")] = "eval",
    spelling: Annotated[
        str,
        typer.Option(
            help="Spelling in which --calibrate compares formulas, as in `evaluate`.", metavar="|".join(SPELLINGS)
        ),
    ] = NORMAL,
    training_data: Annotated[
        Path | None,
        typer.Option(
            "--training-data",
            help="Data set that the model was trained on; histograms of its training split are stored for `monitor`.",
            metavar="DIR",
        ),
    ] = None,
    npm: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the npm packages of a web page, as `npm pack` writes them. Default: download them.",
            metavar="DIR",
        ),
    ] = None,
    notes: Annotated[
        list[str] | None,
        typer.Option(
            "--note", help="Note to store with the model, such as data=mine; repeatable.", metavar="NAME=TEXT"
        ),
    ] = None,
) -> None:
    """Export a trained model as a SavedModel, one file of weights, ONNX, or a page that reads in the browser."""
    hush()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    from pipeline.models.export import calibrated, export_model, read_model, with_provenance, with_statistics

    for note in notes or ():
        if not all(note.partition("=")):
            raise UserError(f"--note takes NAME=TEXT, such as data=mine, not {note!r}")
    notes_by_name = dict(note.split("=", 1) for note in notes or ())
    trained = with_provenance(read_model(weights, model), model, notes_by_name)
    if training_data is not None:
        trained, sentence = with_statistics(trained, training_data)
        typer.echo(sentence)
    if calibration is not None:
        trained, sentence = calibrated(trained, calibration, split, spelling)
        typer.echo(sentence)
    export_model(trained, out, to, precision, npm)
    size = sum(file.stat().st_size for file in (out.rglob("*") if out.is_dir() else (out,)) if file.is_file())
    numbers = sum(array.size for array in trained.weights.values())
    typer.echo(f"{out}: {numbers:,} parameters, {len(trained.vocabulary)} tokens, {size:,} bytes")


@model_app.command()
def summary(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    vocabulary: Annotated[
        int, typer.Option(min=5, help="Size of the vocabulary, including the four special tokens.", metavar="SIZE")
    ] = 504,
    as_json: Json = False,
) -> None:
    """Print the layers of the model, the shape of their outputs, and their parameters."""
    from pipeline.config import load_config

    chosen = load_config(preset, config, settings or ())
    # The backend that starts fastest; only shapes are computed.
    os.environ["KERAS_BACKEND"] = "numpy"
    from trainer_module.config.image import STRIDE
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
        console.print(f"{fixed:,} of them are moving statistics, which are not trained.")


@config_app.command()
def show(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print a TOML file for --config.")] = False,
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


def main() -> None:
    """Runs the command and exits. Prints user errors and usage errors as one sentence on stderr."""
    try:
        # Not standalone: typer would print usage errors in a box.
        status = app(prog_name="im2latex", standalone_mode=False)
    except UserError as error:
        typer.echo(f"im2latex: {error}", err=True)
        sys.exit(error.exit_status)
    except typer.TyperException as error:
        if sentence := _usage_error(error):
            typer.echo(f"im2latex: {sentence}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # before typer handles it
        typer.echo("im2latex: stopped", err=True)
        sys.exit(INTERRUPTED)
    if status == INTERRUPTED:  # typer returns it after Ctrl-C
        typer.echo("im2latex: stopped; the same command continues from here", err=True)
    sys.exit(status)


def _usage_error(error: typer.TyperException) -> str:
    """Returns one sentence for a wrong command line; empty if typer has printed the help of a group instead."""
    message = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    message = message.replace(": Input should", ": it should")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "im2latex"
    return message and f"{message[0].lower()}{message[1:]}; see `{command} --help`"


if __name__ == "__main__":
    main()
