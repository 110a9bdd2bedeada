"""Prepares the folder of TFRecords for a run: the user's own, or synthetic formulas, which are drawn once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import data.pictures.synthetic
from data.dataset.record import SPLITS
from data.importers.source import NOT_REGULAR
from data.repository import REPOSITORY
from im2latex.errors import UserError
from pipeline.config.sections import SYNTHETIC, DataConfig
from pipeline.sources import files_of, fingerprint
from pipeline.workspace import Workspace


def examples_folder(config: DataConfig, workspace: Workspace) -> Path:
    """Returns the folder of the examples; the name of a synthetic one depends on the settings and on the code."""
    if config.source != SYNTHETIC:
        return Path(config.source).expanduser().absolute()
    code = fingerprint(REPOSITORY, files_of([data.pictures.synthetic.__name__]))
    counts = "-".join(str(getattr(config, split)) for split in SPLITS)
    name = f"{config.level}{config.max_tokens}-{counts}-seed{config.seed}-dpi{config.dpi}-{code[:8]}"
    return workspace.data / name


def prepare_examples(
    config: DataConfig,
    workspace: Workspace,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Returns the folder of the examples; draws synthetic examples if they do not exist yet.

    Args:
        config: the section `data`.
        workspace: workspace for synthetic examples.
        progress: called with the number of formulas drawn since the last call.

    Raises:
        UserError: the user's folder is missing, lacks a split, or has pipes or devices in place of files.
    """
    folder = examples_folder(config, workspace)
    if config.source == SYNTHETIC:
        if not folder.exists():
            counts = {split: getattr(config, split) for split in SPLITS}
            data.pictures.synthetic.synthesize(
                folder,
                sum(counts.values()),
                config.seed,
                level=config.level,
                dpi=config.dpi,
                max_tokens=config.max_tokens,
                splits=counts,
                progress=progress,
            )
        return folder
    if not folder.is_dir():
        raise UserError(
            f"data.source: there is no folder {folder}; `im2latex data import` makes one, with train, eval and test"
        )
    for split in SPLITS:
        files = list((folder / split).glob("*"))
        if not files:
            raise UserError(
                f"data.source: {folder / split} contains no TFRecords; `im2latex data import` makes such a folder, "
                "with train, eval and test",
            )
        for file in files:
            if not file.is_file() and not file.is_dir():  # reading a pipe would wait for another process
                raise UserError(f"data.source: {file} is a {NOT_REGULAR}; remove it")
    return folder
