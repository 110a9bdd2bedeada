"""`im2latex predict` and `im2latex serve`: use a model that was pushed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from im2latex import cli, help
from im2latex.cli import MOST_ALTERNATIVES
from im2latex.serving import logs
from im2latex.serving.limits import options
from pipeline.options import hush

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
