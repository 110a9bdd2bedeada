"""What the parts of the `im2latex` command share: options, exit statuses, and quiet imports."""

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
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def hush() -> None:
    """Keeps what TensorFlow and its company say when they are imported from between the lines of an answer."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Not for tests, which call this in their own process.
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
