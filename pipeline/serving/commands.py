"""`im2latex predict` and `im2latex serve`: use a model that was pushed."""

from __future__ import annotations

from typing import Annotated

import typer

from im2latex import help
from im2latex.cli import MOST_ALTERNATIVES
from pipeline.options import Model, hush

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


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8501,
    model: Model = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Additional host name to accept in requests; '*' for any. Repeatable.", metavar="NAME"),
    ] = None,
) -> None:
    """Serve a model over HTTP, with a page for the browser. Without --model, newly pushed versions are loaded.

    Ctrl-C and SIGTERM stop the service after the requests in progress are answered.
    """
    hush()
    from pipeline.models.choice import chosen_model
    from pipeline.workspace import Workspace

    chosen, workspace = chosen_model(model), Workspace.from_environment()
    from pipeline.serving.service import serve as serve_models

    serve_models(lambda: (workspace.versions() if model is None else []) or [chosen], host, port, allow_host or ())
