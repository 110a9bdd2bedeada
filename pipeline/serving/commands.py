"""`im2latex predict`, `serve`, `monitor` and `rollback`: use a model that was pushed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from im2latex import cli, help
from im2latex.cli import MOST_ALTERNATIVES
from im2latex.serving import logs
from im2latex.serving.limits import options
from pipeline.options import Json, hush

app = typer.Typer()


@app.command(help=f"{help.PREDICT}\n\n{help.PREDICT_STATUS}")
def predict(
    images: Annotated[list[str], typer.Argument(help=help.IMAGE, metavar="IMAGE")],
    model: Annotated[str | None, typer.Option(help=help.MODEL, metavar="DIR")] = None,
    clean: Annotated[bool, typer.Option("--clean", help=help.CLEAN)] = False,
    alternatives: Annotated[
        int | None, typer.Option(min=1, max=MOST_ALTERNATIVES, help=help.ALTERNATIVES, metavar="COUNT")
    ] = None,
    min_confidence: Annotated[float, typer.Option(min=0, max=1, help=help.MIN_CONFIDENCE, metavar="P")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help=help.JSON)] = False,
) -> None:
    hush()
    from im2latex.command import ReadsImages, predict_images
    from im2latex.models import choose, is_saved_model_alone
    from im2latex.reader import Reader

    choice = choose(model)
    if choice.sentence:
        typer.echo(choice.sentence, err=True)
    reader: ReadsImages
    if is_saved_model_alone(choice.path):
        from pipeline.serving.saved_model import SavedModelReader

        reader = SavedModelReader(choice.path, searches=alternatives is not None)
    else:
        reader = Reader(choice.path)
    raise typer.Exit(predict_images(images, reader, alternatives, clean, as_json, min_confidence))


def serve(**arguments: Any) -> None:
    hush()
    cli.serve(**arguments)


def _parameters() -> Iterator[inspect.Parameter]:
    """Yields the options of `serve`, which include every limit of the service."""
    text: dict[str, Any] = {
        "host": (str, cli.HOST, typer.Option(help=help.HOST)),
        "port": (int, cli.PORT, typer.Option(min=0, max=65535, help=help.PORT)),
        "model": (str | None, None, typer.Option(help=help.SERVED_MODEL, metavar="DIR")),
        "allow_host": (list[str] | None, None, typer.Option(help=help.ALLOW_HOST, metavar="NAME")),
        "log_format": (
            Literal[logs.FORMATS],
            logs.TEXT,
            typer.Option(help=help.LOG_FORMAT, metavar="|".join(logs.FORMATS)),
        ),
        "collect": (Path | None, None, typer.Option(help=help.COLLECT, metavar="DIR")),
    }
    for option in options():
        least = 1 if isinstance(option.default, int) else 0
        information = typer.Option(option.flag, min=least, help=option.help, metavar=option.metavar)
        text[option.name] = (type(option.default), option.default, information)
    for name, (kind, default, information) in text.items():
        yield inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, information]
        )


serve.__signature__ = inspect.Signature(list(_parameters()))  # type: ignore[attr-defined]  # typer reads it
del serve.__annotations__["arguments"]
app.command(help=f"{help.SERVE}\n\n{help.SERVE_SIGNALS}")(serve)


@app.command(help=f"{help.MONITOR}\n\n{help.MONITOR_STATUS}")
def monitor(
    url: Annotated[str | None, typer.Option(help=f"{help.URL} Default: {help.ADDRESS}.", metavar="URL")] = None,
    statistics: Annotated[str | None, typer.Option(help=help.STATISTICS, metavar="FILE")] = None,
    since: Annotated[str | None, typer.Option(help=help.SINCE, metavar="FILE")] = None,
    threshold: Annotated[list[str] | None, typer.Option(help=help.THRESHOLD, metavar="FEATURE=DISTANCE")] = None,
    as_json: Annotated[bool, typer.Option("--json", help=help.MONITOR_JSON)] = False,
) -> None:
    from im2latex.monitor import monitor as compare

    raise typer.Exit(compare(url, statistics, since, threshold or (), as_json))


@app.command()
def rollback(
    to: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Version to serve, also a withdrawn one. Default: the previous version that loads.",
            metavar="VERSION",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the model. Default: that of the version that serves now.", metavar="NAME"),
    ] = None,
    show_all: Annotated[
        bool, typer.Option("--list", help="List all versions, including withdrawn ones, and change nothing.")
    ] = False,
    as_json: Json = False,
    connection: Annotated[
        str | None,
        typer.Option(help="Database to record the rollback in. Default: that of the last run.", metavar="ADDRESS"),
    ] = None,
) -> None:
    """Roll back to the previous version; newer versions are withdrawn, and --to brings one back.

    A running service loads that version within seconds; the next run compares its model with it.
    """
    hush()
    from pipeline.serving.rollback import rollback as roll
    from pipeline.serving.rollback import table, versions
    from pipeline.workspace import Workspace

    workspace = Workspace.from_environment()
    if show_all:
        all_versions = versions(workspace, name, connection)
        typer.echo(
            json.dumps([version._asdict() for version in all_versions], indent=1) if as_json else table(all_versions)
        )
        return
    rolled = roll(workspace, name, to, lambda sentence: typer.echo(f"im2latex: {sentence}", err=True), connection)
    typer.echo(json.dumps(rolled.document()) if as_json else rolled.sentence())
