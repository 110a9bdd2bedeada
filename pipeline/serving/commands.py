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
    clean: Annotated[
        bool, typer.Option("--clean", help="Print LaTeX as a person would type it: x_i^2, \\sin.")
    ] = False,
    alternatives: Annotated[
        int | None,
        typer.Option(min=1, max=32, help="Number of alternatives for each image, by beam search.", metavar="COUNT"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, with probabilities.")
    ] = False,
) -> None:
    """Print the LaTeX of images, one line each; the file name comes first if there are several.

    Exit status: 0 all images were read, 1 some were not.
    """
    hush()
    from pipeline.models.choice import chosen_model

    chosen = chosen_model(model)
    from pipeline.serving.predict import predict_images

    raise typer.Exit(predict_images(images, chosen, alternatives, clean, as_json))


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
