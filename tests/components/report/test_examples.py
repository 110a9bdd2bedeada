from __future__ import annotations

import io
import json
import os
from pathlib import Path

from PIL import Image

from components.report.examples import coverage, images, measure, read_data
from data.dataset.record import Record
from tests.components.report.conftest import write_data, write_examples
from trainer_module.features import SPECIAL_TEXTS


def record(number: int, latex: str, width: int = 30, height: int = 20) -> Record:
    file = io.BytesIO()
    Image.new("L", (width, height), number).save(file, "PNG")
    return Record(file.getvalue(), latex, f"n{number}")


def test_a_split_is_measured(tmp_path: Path) -> None:
    write_examples(tmp_path, {"train": [record(0, "a b a"), record(1, "c", 40, 8), record(2, "a", 50, 9)]})
    split = measure(tmp_path / "Split-train")
    assert split.lengths.tolist() == [3, 1, 1]
    assert (split.widths.tolist(), split.heights.tolist()) == ([30, 40, 50], [20, 8, 9])
    assert split.tokens == {"a": 3, "b": 1, "c": 1}


def test_images_are_found_by_their_numbers_across_files(tmp_path: Path) -> None:
    records = [record(number, "a") for number in range(5)]
    write_examples(tmp_path, {"test": records})
    assert images(tmp_path / "Split-test", [4, 1]) == {1: records[1].image, 4: records[4].image}


def test_coverage_counts_missing_and_unused_tokens() -> None:
    counts = coverage([*SPECIAL_TEXTS, "a", "b", "z"], ["a b", "a q q", "r", "b"])
    assert (counts.size, counts.tokens, counts.distinct) == (3, 7, 4)
    assert counts.unknown == [("q", 2), ("r", 1)]
    assert (counts.unknown_distinct, counts.unknown_tokens) == (2, 3)
    assert (counts.formulas, counts.affected, counts.untried) == (4, 2, 1)


def test_special_tokens_do_not_count_as_known() -> None:
    assert coverage([*SPECIAL_TEXTS, "a"], ["<unknown> a"]).unknown == [("<unknown>", 1)]


def test_rejects_are_grouped_by_their_reason_the_most_frequent_first(tmp_path: Path) -> None:
    write_data(tmp_path / "set", {"train": [record(i, "a") for i in range(8)], "eval": [], "test": []})
    data = read_data(str(tmp_path / "set"), 0)
    assert data.rejects is not None
    assert [(reason.text[:8], reason.records) for reason in data.rejects] == [("undecoda", 4), ("bad name", 1)]
    assert data.rejects[0].names == ["train: broken0.png", "train: broken1.png", "train: broken2.png"]
    assert data.described["source"] == "drawn for a test" and data.described["counts"]["train"] == 8
    assert data.error == ""


def test_a_missing_unknown_or_newer_data_set_is_reported(tmp_path: Path) -> None:
    assert "no longer exists" in read_data(str(tmp_path / "gone"), 0).error
    assert "in a bucket" in read_data("s3://formulas/records", 0).error
    (tmp_path / "own").mkdir()
    assert "no dataset.json" in read_data(str(tmp_path / "own"), 0).error
    write_data(tmp_path / "set", {"train": [record(i, "a") for i in range(8)], "eval": [], "test": []})
    os.utime(tmp_path / "set" / "dataset.json", (1000, 1000))
    assert read_data(str(tmp_path / "set"), 1_000_001).error == ""
    newer = read_data(str(tmp_path / "set"), 999_999)
    assert "made again" in newer.error and newer.described == {} and newer.rejects is None


def test_names_can_contain_any_character(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{}")
    reject = {"name": "a\u2028b", "split": "train", "reason": "bad"}
    (tmp_path / "rejects.jsonl").write_text(json.dumps(reject, ensure_ascii=False) + "\n", "utf-8")
    (reason,) = read_data(str(tmp_path), 0).rejects or []
    assert reason.names == ["train: a\u2028b"]
