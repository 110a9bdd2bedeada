"""Pictures with .tex files, imported alone and with another data set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from data.dataset.check import check_dataset
from data.dataset.record import Record
from data.dataset.tfrecords import read_records
from data.dataset.writer import DatasetWriter
from data.importers.importing import import_dataset
from data.pictures.synthetic import draw_png
from im2latex.corrections import Corrections


def records(path: Path, split: str) -> list[Record]:
    return list(read_records(path / split)) if any((path / split).iterdir()) else []


def pair(folder: Path, name: str, latex: str = "x", suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}{suffix}").write_bytes(draw_png("x", 10))
    (folder / f"{name}.tex").write_text(latex, "utf-8")


def test_corrections_are_imported_into_their_splits(tmp_path: Path) -> None:
    corrections = Corrections(tmp_path / "corrections", 10**6)
    names = [corrections.save(draw_png(f"{i} ^ {{ x }}", 10), f"{i}^x", "ada").name for i in range(5)]
    summary = import_dataset(tmp_path / "corrections", tmp_path / "out", workers=1)
    assert summary.counts == {"train": 3, "eval": 1, "test": 1}
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["layout"] == "pairs"
    by_name = {one.name: one for split in ("train", "eval", "test") for one in records(tmp_path / "out", split)}
    assert {name: one.latex for name, one in by_name.items()} == {n: f"{i} ^ {{ x }}" for i, n in enumerate(names)}
    assert [one.name for one in records(tmp_path / "out", "test")] == [names[1]]
    assert check_dataset(tmp_path / "out")[0].problems == []


def test_pairs_in_one_folder_are_split_by_the_given_shares_and_bad_ones_named(tmp_path: Path) -> None:
    for i in range(20):
        pair(tmp_path / "mine", f"{i:02}", rf"$\frac{i % 10}x$", (".png", ".jpg")[i % 2])
    pair(tmp_path / "mine", "broken", r"\frac {")
    (tmp_path / "mine" / "alone.png").write_bytes(draw_png("x", 10))
    (tmp_path / "mine" / "latin.tex").write_bytes(b"\xff")
    pair(tmp_path / "mine", "without")
    (tmp_path / "mine" / "without.png").unlink()
    (tmp_path / "mine" / "latin.png").write_bytes(draw_png("x", 10))
    summary = import_dataset(
        tmp_path / "mine", tmp_path / "out", workers=1, eval_share=0.5, test_share=0.5, allow_rejects=0.2
    )
    assert sum(summary.counts.values()) == 20 and min(summary.counts.values()) >= 1
    reasons = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert {one["name"]: one["reason"].partition(":")[0] for one in reasons} == {
        "broken": "unreadable formula", "latin": "bad UTF-8", "without": "missing image file"
    }  # fmt: skip
    formulas = {one.name: one.latex for split in ("train", "eval", "test") for one in records(tmp_path / "out", split)}
    assert formulas["03"] == r"\frac { 3 } { x }"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "old", "a test") as writer:
        for split, count in (("train", 400), ("eval", 7), ("test", 9)):
            for i in range(count):
                writer.write(split, Record(draw_png("y", 10), "y", f"{split}-{i}"))
    return tmp_path / "old"


def test_a_sample_of_another_data_set_is_added_to_repeated_records(tmp_path: Path, old: Path) -> None:
    for split in ("train", "test"):
        pair(tmp_path / "new" / split, f"correction-{split}")
    import_dataset(tmp_path / "new", tmp_path / "out", workers=1, repeat=3, added=old, added_share=0.25)
    train = records(tmp_path / "out", "train")
    assert [one.name for one in train[:3]] == ["correction-train", "correction-train~2", "correction-train~3"]
    assert len({one.image for one in train[:3]}) == 1
    sample = [one.name for one in train[3:]]
    # Binomial with 400 draws at 1/4: 100 with a standard deviation of 9.
    assert 64 <= len(sample) <= 136 and all(name.startswith("train-") for name in sample)
    assert Counter(one.latex for one in records(tmp_path / "out", "test")) == {"x": 1, "y": 9}
    assert len(records(tmp_path / "out", "eval")) == 7
    # All these pictures are the same, but no name is.
    assert not any("names" in problem for problem in check_dataset(tmp_path / "out")[0].problems)
    # A larger share contains the smaller one.
    import_dataset(tmp_path / "new", tmp_path / "more", workers=1, added=old, added_share=0.5)
    assert set(sample) < {one.name for one in records(tmp_path / "more", "train")}
