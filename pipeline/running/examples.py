"""The folder of TFRecords a run reads: a person's own, or synthetic formulas made when they are first needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import data.pictures.synthetic
from data.dataset.record import SPLITS
from data.repository import REPOSITORY
from im2latex.errors import UserError
from pipeline.config.sections import SYNTHETIC, DataConfig
from pipeline.sources import files_of, fingerprint
from pipeline.workspace import Workspace


def examples_folder(config: DataConfig, workspace: Workspace) -> Path:
    """Where the examples are, or will be: for synthetic ones, a folder named by all that decides their bytes."""
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
    """The folder of examples, made first when they are synthetic and not there.

    Args:
        config: the section `data`.
        workspace: where synthetic examples are kept.
        progress: called with the number of formulas drawn since the last call.

    Raises:
        UserError: a person's folder that is missing or lacks a split.
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
    for split in SPLITS:
        if not any((folder / split).glob("*")):
            raise UserError(
                f"data.source: {folder / split} holds no TFRecords; `im2latex data import` makes such a folder, "
                "with train, eval and test",
            )
    return folder
