from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from data.dataset.tfrecords import read_records
from im2latex.errors import UserError
from pipeline.config.sections import DataConfig
from pipeline.running.examples import examples_folder, prepare_examples
from pipeline.workspace import Workspace


def test_synthetic_examples_are_drawn_once_with_the_configured_counts(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    config = DataConfig(train=6, eval=2, test=3, level="digits")
    drawn: list[int] = []
    folder = prepare_examples(config, workspace, drawn.append)
    assert sum(drawn) == 11
    counts = {split: len(list(read_records(folder / split))) for split in ("train", "eval", "test")}
    assert counts == {"train": 6, "eval": 2, "test": 3}
    assert prepare_examples(config, workspace, drawn.append) == folder
    assert sum(drawn) == 11


@pytest.mark.parametrize(
    "change",
    [{"train": 7}, {"eval": 3}, {"test": 4}, {"level": "simple"}, {"seed": 2}, {"dpi": 99}, {"max_tokens": 30}],
)
def test_every_knob_of_synthetic_data_changes_the_folder(change: dict[str, Any], tmp_path: Path) -> None:
    knobs: dict[str, Any] = {"train": 6, "eval": 2, "test": 3, "level": "digits", "seed": 1, "dpi": 80}
    first = examples_folder(DataConfig(**knobs), Workspace(tmp_path))
    assert examples_folder(DataConfig(**{**knobs, **change}), Workspace(tmp_path)) != first


def test_a_folder_of_the_user_without_a_split_is_refused(tmp_path: Path) -> None:
    for split in ("train", "eval"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "data.tfrecord").touch()
    with pytest.raises(UserError, match=f"data.source: there is no folder {tmp_path / 'nowhere'}; .* makes one"):
        prepare_examples(DataConfig(source=str(tmp_path / "nowhere")), Workspace(tmp_path / "workspace"))
    with pytest.raises(UserError, match=r"/test contains no TFRecords"):
        prepare_examples(DataConfig(source=str(tmp_path)), Workspace(tmp_path / "workspace"))


def test_a_pipe_among_the_records_is_refused(tmp_path: Path) -> None:
    for split in ("train", "eval", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "data.tfrecord").touch()
    os.mkfifo(tmp_path / "eval" / "pipe.tfrecord")
    with pytest.raises(UserError, match=r"eval/pipe.tfrecord is a link, pipe or device instead of a file; remove it"):
        prepare_examples(DataConfig(source=str(tmp_path)), Workspace(tmp_path / "workspace"))
