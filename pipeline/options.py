"""Options, exit statuses and helpers that the sub-commands of `im2latex` share."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from pipeline import presets

# Exit status after Ctrl-C; UserError has its own.
INTERRUPTED = 130

Preset = Annotated[str | None, typer.Option(help=f"Preset: {', '.join(presets.names())}.", metavar="NAME")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file with changes to the preset.", metavar="FILE")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Set one knob, such as training.epochs=3; repeatable.", metavar="KNOB=VALUE"),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="SavedModel, or `reader`: the model that comes with im2latex. Default: the model pushed last, else the "
        "reader.",
        metavar="DIR",
    ),
]
AllowFullDisk = Annotated[
    bool, typer.Option("--allow-full-disk", help="Start even if the disk seems too small for the run.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def hush() -> None:
    """Suppresses the warnings and log lines of TensorFlow and other packages, so that they do not mix with output."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Not in tests, which set warning options and call this in their own process.
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
