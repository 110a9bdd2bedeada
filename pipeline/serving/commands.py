"""`im2latex predict` and `im2latex serve`: use a model that was pushed."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.options import Model, hush

app = typer.Typer()


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(help="Files, folders, or - for standard input.", metavar="IMAGE")],
    model: Model = None,
    clean: Annotated[bool, typer.Option("--clean", help="LaTeX as a person would type it: x_i^2, \\sin.")] = False,
    alternatives: Annotated[
        int | None, typer.Option(min=1, max=32, help="So many readings of each, by beam search.", metavar="COUNT")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, with probabilities.")] = False,
) -> None:
    """Print the LaTeX of pictures: a line each, behind its name where there are several.

    Exit status: 0 all were read, 1 some were not.
    """
    hush()
    from pipeline.reader import chosen_model

    chosen = chosen_model(model)
    from pipeline.serving.predict import predict_images

    raise typer.Exit(predict_images(images, chosen, alternatives, clean, as_json))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free.")] = 8501,
    model: Model = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name that it may be called by beside localhost and its own; '*' is any.", metavar="NAME"),
    ] = None,
) -> None:
    """Serve a model over HTTP, with a page for the browser; without --model, one that is pushed later takes over.

    Ends at Ctrl-C and SIGTERM, when what was asked is answered.
    """
    hush()
    from pipeline.reader import chosen_model
    from pipeline.workspace import Workspace

    chosen, workspace = chosen_model(model), Workspace.from_environment()
    from pipeline.serving.service import serve as serve_models

    serve_models(lambda: (workspace.versions() if model is None else []) or [chosen], host, port, allow_host or ())
