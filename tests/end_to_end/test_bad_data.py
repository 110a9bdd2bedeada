"""The command `im2latex run` on unusable data, and on unusual but valid data."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data.dataset.record import Record
from data.dataset.tfrecords import frame
from data.dataset.writer import DatasetWriter
from data.pictures.synthetic import draw_png
from tests.project import SETTINGS, Project

pytestmark = pytest.mark.one_stack

LONG = " ".join(["x"] * 10_000)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A data set with a single token and a formula of 10,000 tokens, in a workspace without runs."""
    data = tmp_path / "data"
    with DatasetWriter(data, source="test") as writer:
        for split, count in (("train", 24), ("eval", 8), ("test", 8)):
            for number in range(count):
                writer.write(split, Record(draw_png("x", 10 + number), "x", f"{split}-{number}"))
        writer.write("train", Record(draw_png("x", 9), LONG, "long"))
    settings = SETTINGS.split("[model]")[1]
    return Project.of(tmp_path, f'preset = "quickstart"\n[data]\nsource = "{data}"\n[model]{settings}')


def im2latex(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments], capture_output=True, text=True, timeout=300
    )


def test_after_bad_records_are_left_out_the_next_run_succeeds(project: Project) -> None:
    data = project.config.parent / "data"
    (data / "test" / "bad.tfrecord").write_bytes(frame(b"no example"))
    stopped = project.run()
    assert stopped.returncode == 1
    assert stopped.stderr.startswith(
        f"im2latex: ImportExampleGen: {data}/test/bad.tfrecord, record 0: not a tf.train.Example; `im2latex data check`"
    )
    assert stopped.stderr.count("\n") == 1 and ".log" in stopped.stderr

    checked = im2latex("data", "check", str(data))
    assert checked.returncode == 1
    assert "problem: not a tf.train.Example (1 records, first bad.tfrecord, record 0)" in checked.stdout

    left_out = im2latex("data", "import", str(data), "--out", str(data), "--max-tokens", "10000")
    assert left_out.returncode == 0, left_out.stderr
    assert "rejected 1 x not a tf.train.Example" in left_out.stdout

    done = project.run()
    assert done.returncode == 0, done.stderr
    assert "vocabulary of 1\n" in done.stdout
    assert "1 of 25 formulas are left out: more than 40 tokens (training.max_tokens)" in done.stdout
    assert len(project.versions()) == 1


def test_missing_and_empty_splits_are_reported(project: Project) -> None:
    eval_split = project.config.parent / "data" / "eval"
    (shard,) = eval_split.iterdir()
    shard.write_bytes(b"")
    empty = project.run()
    assert empty.returncode == 1
    assert f"ImportExampleGen: {eval_split}/* contains no records; every split needs some" in empty.stderr
    assert empty.stderr.count("\n") == 1
    shutil.rmtree(eval_split)
    missing = project.run()
    assert missing.returncode == 1
    assert f"data.source: {eval_split} contains no TFRecords" in missing.stderr
    assert missing.stderr.count("\n") == 1
