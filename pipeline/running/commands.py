"""`im2latex run` and `im2latex watch`: run the pipeline here."""

from __future__ import annotations

import functools
import time
from typing import Annotated

import typer

from pipeline.options import AllowFullDisk, ConfigFile, Preset, Settings

app = typer.Typer()


@app.command()
def run(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    first: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="First component to run; the outputs of earlier components come from the last run.",
            metavar="COMPONENT",
        ),
    ] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last component to run.", metavar="COMPONENT")] = None,
    cache: Annotated[
        bool, typer.Option(help="Reuse outputs that were made from the same inputs, settings and code.")
    ] = True,
    allow_full_disk: AllowFullDisk = False,
) -> None:
    """Run the pipeline: data, training, evaluation, push.

    Exit status: 0 done and pushed, 3 the model was not good enough or was withdrawn, 1 failed.
    """
    from pipeline.config import load_config
    from pipeline.running.launch import run_pipeline

    chosen = load_config(preset, config, settings or ())
    status = run_pipeline(chosen, first=first, last=last, cache=cache, allow_full_disk=allow_full_disk)
    raise typer.Exit(status)


@app.command()
def watch(
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    every: Annotated[float, typer.Option(min=1, help="Seconds between checks.", metavar="SECONDS")] = 60,
    once: Annotated[
        bool, typer.Option("--once", help="Check once, run if something has changed, and exit; for cron.")
    ] = False,
    allow_full_disk: AllowFullDisk = False,
) -> None:
    """Run the pipeline when data, configuration or code have changed.

    IM2LATEX_NOTIFY_COMMAND and IM2LATEX_NOTIFY_WEBHOOK name a command and a webhook that receive a notification of each
    failed run and each rejected model. Exit status with --once: that of the run, or 0 if nothing has changed.
    """
    from pipeline.config import load_config
    from pipeline.running.launch import run_pipeline
    from pipeline.running.watch import Watch
    from pipeline.running.watch import watch as watch_for_changes

    def say(sentence: str) -> None:
        typer.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {sentence}")

    load = functools.partial(load_config, preset, config, settings or ())
    run = functools.partial(run_pipeline, allow_full_disk=allow_full_disk)
    if once:
        load()
        raise typer.Exit(Watch(load, say, settled=True, run=run).check() or 0)
    watch_for_changes(load, every, say, run)
