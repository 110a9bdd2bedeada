from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.dataset.record import SPLITS, BadRecord, Record, encode
from data.dataset.tfrecords import frame, read_records
from data.importers.convert import crop_page
from data.importers.importing import import_dataset
from data.pictures.synthetic import draw_png
from im2latex.errors import UserError

ROOT = Path(__file__).parents[3]
SAMPLES = Path(os.environ.get("IM2LATEX_SAMPLES", ROOT.parent / "shared"))


def processed(folder: Path, count: int = 40, archive: bool = False) -> Path:
    """A data set in the processed layout, without a test list; formula i is `x _ { i }`."""
    (folder / "formula_images_processed").mkdir(parents=True)
    formulas = [f"x _ {{ {' '.join(str(i))} }}" for i in range(count)]
    (folder / "im2latex_formulas.norm.lst").write_text("".join(f"{formula}\n" for formula in formulas))
    for i, formula in enumerate(formulas):
        (folder / "formula_images_processed" / f"{i}.png").write_bytes(draw_png(formula, 10))
    lists = {"train": range(count // 2), "validate": range(count // 2, count)}
    for name, rows in lists.items():
        (folder / f"im2latex_{name}_filter.lst").write_text("".join(f"{i}.png {i}\n" for i in rows))
    if archive:
        with tarfile.open(folder / "formula_images_processed.tar.gz", "w:gz") as tar:
            tar.add(folder / "formula_images_processed", "formula_images_processed")
        for path in (folder / "formula_images_processed").iterdir():
            path.unlink()
        (folder / "formula_images_processed").rmdir()
    return folder


def records(path: Path) -> dict[str, list[Record]]:
    return {
        split: list(read_records(path / split)) for split in ("train", "eval", "test") if any((path / split).iterdir())
    }


@pytest.mark.parametrize("archive", [False, True])
def test_the_processed_layout_is_imported_unchanged(tmp_path: Path, archive: bool) -> None:
    summary = import_dataset(processed(tmp_path / "source", archive=archive), tmp_path / "out", workers=1)
    splits = records(tmp_path / "out")
    assert summary.counts["train"] == 20 and summary.counts["eval"] + summary.counts["test"] == 20
    assert splits["train"][7] == Record(draw_png("x _ { 7 }", 10), "x _ { 7 }", "7.png")
    # Half of the validation list is held out for the test, the same half each time.
    assert 5 <= summary.counts["test"] <= 15
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["held_out"] == {"test": "50% of eval"}
    import_dataset(tmp_path / "source", tmp_path / "again", workers=1)
    assert records(tmp_path / "again") == splits


def test_workers_do_not_change_the_bytes(tmp_path: Path) -> None:
    source = processed(tmp_path / "source", 300)
    one, two = (import_dataset(source, tmp_path / str(workers), workers=workers) for workers in (1, 2))
    assert one.fingerprint == two.fingerprint


def test_a_test_list_is_used_where_there_is_one(tmp_path: Path) -> None:
    source = processed(tmp_path / "source")
    (source / "im2latex_test_filter.lst").write_text("3.png 3\n")
    summary = import_dataset(source, tmp_path / "out", workers=1)
    assert summary.counts == {"train": 20, "eval": 20, "test": 1}


def test_each_bad_record_is_rejected_with_its_reason(tmp_path: Path) -> None:
    source = processed(tmp_path / "source")
    images = source / "formula_images_processed"
    (images / "0.png").write_bytes((images / "0.png").read_bytes()[:60])
    (images / "1.png").unlink()
    (images / "2.png").write_text("<html>404</html>")
    lines = (source / "im2latex_formulas.norm.lst").read_bytes().split(b"\n")
    lines[3:6] = [b"", b"x " * 151, b"\xff\xfe"]
    (source / "im2latex_formulas.norm.lst").write_bytes(b"\n".join(lines))
    rows = (source / "im2latex_train_filter.lst").read_text().splitlines()
    rows[6:10] = ["6.png 40", "7.png -1", "8.png", "../../secret.png 9"]
    (source / "im2latex_train_filter.lst").write_text("\n".join(rows))
    with pytest.raises(UserError, match=r"10 of 40 records.*--allow-rejects"):
        import_dataset(source, tmp_path / "out", workers=1)
    summary = import_dataset(source, tmp_path / "out", allow_rejects=0.5, workers=1)
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert {reject["name"]: reject["reason"] for reject in rejects} == {
        "0.png": "undecodable image",
        "1.png": "missing image file",
        "2.png": "undecodable image",
        "3.png": "empty formula",
        "4.png": "formula of more than 150 tokens",
        "5.png": "bad UTF-8",
        "6.png": "formula line out of range",
        "7.png": "formula line out of range",
        "im2latex_train_filter.lst:9": "line without image and formula line",
        "../../secret.png": "missing image file",
    }
    assert summary.rejected == {"train": 10, "eval": 0, "test": 0} and summary.counts["train"] == 10


def test_pages_are_cropped_bordered_and_halved() -> None:
    page = Image.new("L", (400, 600), 255)
    page.paste(0, (100, 200, 164, 232))
    cropped = np.asarray(crop_page(page))
    assert cropped.shape == ((32 + 16) // 2, (64 + 16) // 2)
    # Lanczos rings by a few grey values at the edges.
    assert cropped[6:18, 6:34].max() <= 3
    assert min(cropped[:3].min(), cropped[-3:].min(), cropped[:, :3].min(), cropped[:, -3:].min()) >= 250
    with pytest.raises(BadRecord, match="blank"):
        crop_page(Image.new("L", (400, 600), 255))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "RGB"])
def test_pages_of_every_mode_give_the_same_crop(mode: str) -> None:
    page = Image.new("RGBA", (200, 200), (0, 0, 0, 0) if mode in ("RGBA", "LA") else "white")
    page.paste((0, 0, 0, 255), (50, 50, 90, 70))
    converted = page.convert(mode)
    expected = Image.new("L", (200, 200), 255)
    expected.paste(0, (50, 50, 90, 70))
    assert np.array_equal(np.asarray(crop_page(converted)), np.asarray(crop_page(expected)))


def test_the_raw_layout_is_cropped_and_tokenised(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    (source / "formulas.lst").write_text("x^2_i \\label{a_b_c}\n%{1\\over 2}% \\alpha\n\\left( x\n")
    (source / "train.lst").write_text("0 aa basic\n1 bb basic\n2 cc basic\n")
    (source / "test.lst").write_text("1 bb basic\n")
    for name in ("aa", "bb", "cc"):
        page = Image.new("L", (400, 600), 255)
        page.paste(Image.open(io.BytesIO(draw_png("x", 40))), (100, 100))
        page.save(source / "images" / f"{name}.png")
    with tarfile.open(tmp_path / "raw.tar.gz", "w:gz") as tar:
        tar.add(source, ".")
    for path in (source, tmp_path / "raw.tar.gz"):
        summary = import_dataset(path, tmp_path / "out", allow_rejects=0.5, eval_share=0, workers=1)
        splits = records(tmp_path / "out")
        assert [record.latex for record in splits["train"]] == ["x _ { i } ^ { 2 }", "\\frac { 1 } { 2 }"]
        assert summary.reasons == {"unreadable formula: \\left without \\right": 1}
        assert splits["test"][0].name == "bb.png" and Image.open(io.BytesIO(splits["test"][0].image)).height < 30


def test_formulas_keep_the_spelling_of_their_source_on_request(tmp_path: Path) -> None:
    source = processed(tmp_path / "source")
    lines = (source / "im2latex_formulas.norm.lst").read_text().split("\n")
    (source / "im2latex_formulas.norm.lst").write_text("\n".join(f"{{ {line} }}" for line in lines if line) + "\n")
    for spelling, latex in (("normal", "x _ { 7 }"), ("im2markup", "{ x _ { 7 } }")):
        import_dataset(source, tmp_path / spelling, workers=1, spelling=spelling)
        assert records(tmp_path / spelling)["train"][7].latex == latex
        assert json.loads((tmp_path / spelling / "dataset.json").read_text())["spelling"] == spelling
    with pytest.raises(UserError, match="there is no spelling latin"):
        import_dataset(source, tmp_path / "none", workers=1, spelling="latin")


@pytest.mark.parametrize("start", [501, 502])
def test_the_tfrecords_of_image2latex_are_read_in_both_numberings(tmp_path: Path, start: int) -> None:
    tf = pytest.importorskip("tensorflow")
    source = tmp_path / "source"
    source.mkdir()
    tokens = [f"\\t{'abcdefghij'[i // 100]}{'abcdefghij'[i // 10 % 10]}{'abcdefghij'[i % 10]}" for i in range(499)]
    (source / "latex_vocab.txt").write_text("\n".join(tokens))
    buffer = io.BytesIO()
    Image.open(io.BytesIO(draw_png("x", 20))).save(buffer, "JPEG")

    def example(inputs: list[int], outputs: list[int]) -> bytes:
        ids = {"latex_seq_in": inputs, "latex_seq_out": outputs}
        features = {key: tf.train.Feature(int64_list=tf.train.Int64List(value=value)) for key, value in ids.items()}
        features["image"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[buffer.getvalue()]))
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

    end, unknown = start + 1, start - 1
    for split in ("train", "val", "test"):
        with tf.io.TFRecordWriter(str(source / f"{split}_100K_00of01.tfrecord")) as writer:
            writer.write(example([start, 1, 499, 7], [1, 499, 7, end]))
            writer.write(example([start, 2, 0, 0], [2, end, 0, 0]))  # padded
            if split == "train":
                writer.write(example([start, unknown], [unknown, end]))
                writer.write(example([start, 3], [4, end]))
    with pytest.raises(UserError, match="2 of 8"):
        import_dataset(source, tmp_path / "out", workers=1)
    import_dataset(source, tmp_path / "out", allow_rejects=0.3, workers=1)
    splits = records(tmp_path / "out")
    assert [record.latex for record in splits["eval"]] == [f"{tokens[0]} {tokens[498]} {tokens[6]}", tokens[1]]
    assert splits["train"][0].image == buffer.getvalue() and splits["train"][0].name == "train_100K_00of01.tfrecord:0"
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert reasons == ["a token outside the vocabulary", "latex_seq_in and latex_seq_out do not fit together"]
    (source / "latex_vocab.txt").rename(tmp_path / "vocabulary")
    with pytest.raises(UserError, match="--vocabulary"):
        import_dataset(source, tmp_path / "out2", workers=1)
    import_dataset(source, tmp_path / "out2", vocabulary=tmp_path / "vocabulary", allow_rejects=0.3, workers=1)
    assert records(tmp_path / "out2") == splits


def test_invalid_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.tar.gz").write_bytes(b"\x1f\x8b nonsense")
    incomplete = processed(tmp_path / "incomplete")
    (incomplete / "im2latex_formulas.norm.lst").unlink()
    for source, message in (
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "empty", "known layouts"),
        (tmp_path / "bad.tar.gz", "not a readable"),
        (incomplete, "lacks"),
    ):
        with pytest.raises(UserError, match=message):
            import_dataset(source, tmp_path / "out", workers=1)
    with pytest.raises(UserError, match="no format csv"):
        import_dataset(incomplete, tmp_path / "out", layout="csv", workers=1)
    assert not (tmp_path / "out").exists()


def test_a_killed_import_leaves_the_old_data_set(tmp_path: Path) -> None:
    source = processed(tmp_path / "source", 2000)
    before = import_dataset(processed(tmp_path / "small"), tmp_path / "out", workers=1)
    command = [sys.executable, "-c", "from data.commands import app; app()"]
    arguments = ["import", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    with subprocess.Popen(command + arguments, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob(".out.*/train/data-*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["fingerprint"] == before.fingerprint
    import_dataset(source, tmp_path / "out", workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "small", "source"]


def test_real_pages_become_small_images_of_their_formulas(tmp_path: Path) -> None:
    path = SAMPLES / "im2markup-sample.tar.gz"
    if not path.is_file():
        pytest.skip(f"no real sample: {path} is missing")
    wanted = {f"./{name}" for name in ("formulas.lst", "train.lst", "test.lst", "validate.lst")}
    source = tmp_path / "raw"
    (source / "images").mkdir(parents=True)
    with tarfile.open(path) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None and member.name in wanted:
                (source / Path(member.name).name).write_bytes(content.read())
        rows = (source / "train.lst").read_text().splitlines()[:20]
        for row in rows:
            content = tar.extractfile(f"./images/{row.split()[1]}.png")
            assert content is not None
            (source / "images" / f"{row.split()[1]}.png").write_bytes(content.read())
    (source / "train.lst").write_text("\n".join(rows))
    (source / "test.lst").unlink()
    (source / "validate.lst").unlink()
    summary = import_dataset(source, tmp_path / "out", allow_rejects=0.3, eval_share=0.2, workers=1)
    assert sum(summary.counts.values()) >= 17
    for record in records(tmp_path / "out")["train"]:
        width, height = Image.open(io.BytesIO(record.image)).size
        assert 10 < width < 800 and 10 < height < 300 and len(record.image) < 20_000


def test_records_are_imported_without_the_bad_ones_and_splits_are_held_out(tmp_path: Path) -> None:
    source = tmp_path / "own"
    (source / "train").mkdir(parents=True)
    (source / "eval").mkdir()
    good = [Record(draw_png("x", 10), "x  ^ { 2 }", f"formula {number}") for number in range(40)]
    bad = [b"\xff", encode(Record(b"no image", "x", "blurred")), encode(good[0]).replace(b"latex", b"latin")]
    contents = [*map(encode, good[:20]), *bad, *map(encode, good[20:])]
    (source / "train" / "mine.tfrecord").write_bytes(b"".join(map(frame, contents)))
    (source / "eval" / "none.tfrecord.gz").write_bytes(gzip.compress(b""))
    summary = import_dataset(source, tmp_path / "set", eval_share=0.3, allow_rejects=0.1, workers=1)
    assert summary.reasons == {"not a tf.train.Example": 1, "undecodable image": 1, "feature latex is missing": 1}
    rejects = [json.loads(line) for line in (tmp_path / "set" / "rejects.jsonl").read_text().splitlines()]
    assert [reject["name"] for reject in rejects] == ["mine.tfrecord:20", "blurred", "mine.tfrecord:22"]
    read = [record for split in SPLITS for record in read_records(tmp_path / "set" / split)]
    assert sorted(record.name for record in read) == sorted(record.name for record in good)
    assert {record.latex for record in read} == {"x ^ { 2 }"}
    assert summary.counts["eval"] > 0 and summary.counts["test"] > 0
    # In its own place too: the source is replaced when all of it was read.
    again = import_dataset(tmp_path / "set", tmp_path / "set", workers=1)
    assert again.counts == summary.counts and again.reasons == {}


def test_a_damaged_file_of_records_is_not_imported_in_part(tmp_path: Path) -> None:
    (tmp_path / "own" / "train").mkdir(parents=True)
    shard = tmp_path / "own" / "train" / "mine.tfrecord"
    shard.write_bytes((9 * frame(encode(Record(draw_png("x", 10), "x", "x"))))[:-1])
    with pytest.raises(UserError, match=r"mine.tfrecord is damaged at record 8"):
        import_dataset(tmp_path / "own", tmp_path / "set", workers=1)
    assert not (tmp_path / "set").exists()
