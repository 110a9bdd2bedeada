from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from data.commands import app
from data.dataset.check import check_dataset, contact_sheet
from data.dataset.record import SPLITS, Record, encode
from data.dataset.tfrecords import frame
from data.dataset.writer import DatasetWriter
from data.pictures.synthetic import draw_png, synthesize
from im2latex.errors import UserError


def dataset(path: Path, **splits: list[str]) -> Path:
    with DatasetWriter(path, "test") as writer:
        for split, formulas in splits.items():
            for i, formula in enumerate(formulas):
                writer.write(split, Record(draw_png(formula, 10), formula, f"{split}-{i}"))
    return path


def test_a_good_data_set_is_measured(tmp_path: Path) -> None:
    path = dataset(tmp_path / "set", train=["x", "x + y", "x + y + 1"], eval=["z + x"], test=["x + y"])
    report, samples = check_dataset(path)
    assert {name: split.records for name, split in report.splits.items()} == {"train": 3, "eval": 1, "test": 1}
    assert report.splits["train"].tokens == [3, 5, 5]  # 1, 3, 5: median 3, 90th percentile 4.6, maximum 5
    assert (report.vocabulary, report.seen_once) == (5, 2)  # x + y 1 z; 1 and z once
    assert report.most_common[0] == ("x", 5) and report.unseen == {"eval": 1, "test": 0}
    assert report.shared == {"eval": 0, "test": 1}
    # The test formula is in train with the same picture: a leak.
    assert report.problems == ["1 examples of test, image and formula, are in train too"]
    assert len(samples) == 5


def test_a_synthetic_data_set_has_nothing_wrong(tmp_path: Path) -> None:
    synthesize(tmp_path / "set", 60, 1, workers=1)
    report, samples = check_dataset(tmp_path / "set")
    assert report.problems == [] and report.duplicates == {"train": 0, "eval": 0, "test": 0}
    contact_sheet(samples, tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png").convert("L")
    assert sheet.width == 1260 and sheet.getextrema() == (0, 255)


def test_problems_are_found(tmp_path: Path) -> None:
    path = tmp_path / "set"
    with DatasetWriter(path, "test") as writer:
        writer.write("train", Record(b"GIF89a?", "x", "broken"))
        writer.write("train", Record(draw_png("x", 10), "", "empty"))
        writer.write("train", Record(draw_png("x", 10), "x  y", "spaces"))
        writer.write("eval", Record(draw_png("x", 10), "x", "fine"))
    description = json.loads((path / "dataset.json").read_text())
    description["counts"]["eval"] = 2
    (path / "dataset.json").write_text(json.dumps(description))
    [shard] = (path / "train").iterdir()
    shard.write_bytes(gzip.compress(gzip.decompress(shard.read_bytes()) + b"torn"))
    problems = "\n".join(check_dataset(path)[0].problems)
    for expected in (
        "undecodable image (1 records, first broken)",
        "empty formula (1 records, first empty)",
        "tokens not separated by one space each (1 records, first spaces)",
        "is damaged at record 3 (cut off)",
        "eval contains 1 records, dataset.json says 2",
        "test contains no records",
    ):
        assert expected in problems


def test_a_missing_shard_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.dataset.writer.RECORDS_PER_SHARD", 10)
    synthesize(tmp_path / "set", 60, 1, workers=1)
    (tmp_path / "set" / "train" / "data-00002-of-00006.tfrecord.gz").unlink()
    problems = check_dataset(tmp_path / "set")[0].problems
    assert any("shards of train are incomplete" in problem for problem in problems)


def test_a_folder_without_a_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the folders"):
        check_dataset(tmp_path)
    with pytest.raises(UserError, match="nowhere does not exist; give the folder of a data set"):
        check_dataset(tmp_path / "nowhere")


def test_every_record_that_does_not_follow_the_schema_is_counted_and_the_others_are_read(tmp_path: Path) -> None:
    path = dataset(tmp_path / "set", train=["x", "y"], eval=["z"], test=["z + 1"])
    (shard,) = (path / "train").iterdir()
    good = gzip.decompress(shard.read_bytes())
    without_formula = encode(Record(b"", "x", "")).replace(b"latex", b"latin")
    bad_utf8 = encode(Record(b"", "xy", "")).replace(b"xy", b"\xff\xfe")
    shard.write_bytes(gzip.compress(good + 2 * frame(without_formula) + frame(bad_utf8) + good))
    report, _ = check_dataset(path)
    assert report.splits["train"].records == 4
    for expected in (
        f"feature latex is missing (2 records, first {shard.name}, record 2)",
        f"bad UTF-8 (1 records, first {shard.name}, record 4)",
        "train contains 7 records, dataset.json says 2",
    ):
        assert expected in report.problems


def test_records_that_another_tool_wrote_need_no_description(tmp_path: Path) -> None:
    path = dataset(tmp_path / "set", train=["x"], eval=["y"], test=["z"])
    (path / "dataset.json").unlink()
    report, _ = check_dataset(path)
    assert report.problems == [] and report.source.startswith("not known")


@pytest.mark.parametrize("counts", [None, [1], {"train": "many"}])
def test_a_changed_description_is_reported(counts: object, tmp_path: Path) -> None:
    path = dataset(tmp_path / "set", train=["x"], eval=["y"], test=["z"])
    described = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps(described | {"counts": counts}))
    (path / "rejects.jsonl").write_bytes(b"\xff\n")
    assert check_dataset(path)[0].problems == ["dataset.json is unreadable"]


def test_text_of_records_is_escaped_for_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "set"
    with DatasetWriter(path, "[/red]") as writer:
        for split in SPLITS:
            writer.write(split, Record(b"", "\x1b]0;title\x07 [/b]", f"\x1b[2J{split}"))
    shown = CliRunner().invoke(app, ["check", str(path), "--sheet", str(tmp_path / "sheet.png")])
    assert shown.exit_code == 1 and isinstance(shown.exception, SystemExit)
    assert "\x1b" not in shown.stdout and "\\x1b[2Jtrain" in shown.stdout and "[/red]" in shown.stdout
