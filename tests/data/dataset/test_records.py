from __future__ import annotations

import fcntl
import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.dataset.record import BadRecord, Record, decode, encode
from data.dataset.tfrecords import frame, read_records, read_split, shards
from data.dataset.writer import DatasetWriter
from im2latex.errors import UserError

RECORD = Record(b"\x89PNG", "\\alpha _ { 1 }", "a.png")
RECORDS = st.builds(Record, st.binary(max_size=200), st.text(max_size=50), st.text(max_size=20))


def framed_head(length: int) -> bytes:
    """Returns the header of a record with this length and a correct checksum."""
    head = struct.pack("<Q", length)
    return head + frame(head)[-4:]


def write(path: Path, records: list[Record], **options: object) -> DatasetWriter:
    with DatasetWriter(path, "test", **options) as writer:  # type: ignore[arg-type]
        for record in records:
            writer.write("train", record)
    return writer


@given(RECORDS)
def test_a_record_survives_encoding(record: Record) -> None:
    assert decode(encode(record)) == record


def test_records_are_exchanged_with_tensorflow_in_both_directions(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    writer = write(tmp_path / "set", [RECORD, Record(b"", "", "ä")])
    [shard] = (tmp_path / "set" / "train").iterdir()
    examples = [tf.train.Example.FromString(content.numpy()) for content in tf.data.TFRecordDataset(str(shard), "GZIP")]
    assert [example.features.feature["latex"].bytes_list.value[0] for example in examples] == [b"\\alpha _ { 1 }", b""]
    assert examples[1].features.feature["name"].bytes_list.value[0] == "ä".encode()
    assert writer.summary is not None and writer.summary.counts == {"train": 2, "eval": 0, "test": 0}

    with tf.io.TFRecordWriter(str(tmp_path / "theirs.tfrecord")) as theirs:
        theirs.write(examples[0].SerializeToString())
    assert list(read_records(tmp_path / "theirs.tfrecord")) == [RECORD]
    assert (tmp_path / "theirs.tfrecord").read_bytes() == frame(examples[0].SerializeToString())


@pytest.mark.parametrize("content", [b"\xff\xff", b"", encode(RECORD).replace(b"latex", b"latin")])
def test_an_invalid_record_is_refused(content: bytes) -> None:
    with pytest.raises(BadRecord):
        decode(content)


def test_bad_utf8_is_a_bad_record() -> None:
    with pytest.raises(BadRecord, match="bad UTF-8"):
        decode(encode(RECORD).replace(b"\\alpha", b"\xff\xfealph"[:6]))


def test_shards_are_numbered_and_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.dataset.writer.RECORDS_PER_SHARD", 2)
    records = [Record(bytes([i]), "x", str(i)) for i in range(5)]
    write(tmp_path / "set", records)
    names = sorted(path.name for path in (tmp_path / "set" / "train").iterdir())
    assert names == [f"data-0000{i}-of-00003.tfrecord.gz" for i in range(3)]
    assert list(read_records(tmp_path / "set" / "train")) == records


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a", [RECORD])
    write(tmp_path / "b", [RECORD])
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_the_fingerprint_follows_the_records(tmp_path: Path) -> None:
    writers = [write(tmp_path / name, [RECORD, Record(b"", latex, "b")]) for name, latex in (("a", "x"), ("b", "y"))]
    a, b = (writer.summary.fingerprint for writer in writers if writer.summary is not None)
    assert a != b


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-3], "record 1.*cut off"),
        (lambda content: content[:-6] + b"?" + content[-5:], "record 1.*checksum"),
        (lambda content: content[: len(frame(encode(RECORD))) + 5], "record 1.*cut off"),
        (lambda content: b"?" + content[1:], "record 0.*length.*or this is no TFRecord file"),
        (lambda content: b"notes on my formulas", "record 0.*or this is no TFRecord file"),
        (lambda content: b"notes", "record 0 .cut off, or this is no TFRecord file"),
        (lambda content: content + framed_head(2**50), "record 2.*its length is 1,125,899,906,842,624 bytes"),
    ],
)
def test_damage_is_reported_with_file_and_record(tmp_path: Path, damage, message: str) -> None:
    (tmp_path / "bad.tfrecord").write_bytes(damage(2 * frame(encode(RECORD))))
    with pytest.raises(UserError, match=f"bad.tfrecord.*{message}"):
        list(read_records(tmp_path / "bad.tfrecord"))


def test_a_cut_off_gzip_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "bad.tfrecord.gz").write_bytes(gzip.compress(100 * frame(encode(RECORD)))[:-20])
    with pytest.raises(UserError, match="bad.tfrecord.gz.*compression"):
        list(read_records(tmp_path / "bad.tfrecord.gz"))


def test_missing_files_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.tfrecord"):
        list(read_records(tmp_path / "nowhere.tfrecord"))
    with pytest.raises(UserError, match="contains no"):
        list(read_records(tmp_path))


def test_rejects_are_counted_and_named(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "set", "test") as writer:
        for i in range(19):
            writer.write("train", Record(b"", "x", str(i)))
        writer.reject("eval", "bad.png", "undecodable image")
    assert writer.summary is not None
    assert writer.summary.rejected == {"train": 0, "eval": 1, "test": 0}
    line = json.loads((tmp_path / "set" / "rejects.jsonl").read_text())
    assert line == {"name": "bad.png", "split": "eval", "reason": "undecodable image"}


def test_more_than_a_twentieth_rejected_is_an_error_unless_allowed(tmp_path: Path) -> None:
    def fill(share: float) -> None:
        with DatasetWriter(tmp_path / "set", "test", allow_rejects=share) as writer:
            for i in range(18):
                writer.write("train", Record(b"", "x", str(i)))
            writer.reject("train", "bad.png", "empty formula")

    with pytest.raises(UserError, match=r"1 of 19 .*1 x empty formula.*5%.*--allow-rejects"):
        fill(0.05)
    assert not (tmp_path / "set").exists()
    assert "bad.png" in (tmp_path / "set.rejects.jsonl").read_text()
    fill(0.06)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_foreign_folder_is_refused_and_a_data_set_is_replaced(tmp_path: Path) -> None:
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a data set"):
        write(foreign, [RECORD])
    assert (foreign / "chapter.tex").exists()
    write(foreign, [RECORD], overwrite=True)
    write(foreign, [RECORD, RECORD])
    assert len(list(read_records(foreign / "train"))) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write(tmp_path / "file", [RECORD])


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), DatasetWriter(tmp_path / "set", "test") as writer:
        writer.write("train", RECORD)
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_data_set_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import sys, time
        from data.dataset.writer import DatasetWriter
        from data.dataset.record import Record
        with DatasetWriter(sys.argv[1], "test") as writer:
            for i in range(10000):
                writer.write("train", Record(b"1" * 1000, "x", str(i)))
            print("ready", flush=True)
            time.sleep(600)
    """)
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "set")], stdout=subprocess.PIPE, cwd=root
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        [partial] = tmp_path.iterdir()
        assert partial.name.startswith(".set.") and len(list((partial / "train").iterdir())) == 3
        # A running writer's folder is not removed.
        write(tmp_path / "set", [RECORD])
        assert partial.exists()
        process.send_signal(signal.SIGKILL)
    assert list(read_records(tmp_path / "set" / "train")) == [RECORD]
    write(tmp_path / "set", [RECORD])
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_data_set_that_a_killed_writer_was_replacing_is_restored(tmp_path: Path) -> None:
    write(tmp_path / "set", [RECORD])
    partial = tmp_path / ".set.x.partial"
    partial.mkdir()
    (tmp_path / "set").rename(partial / "replaced")
    with pytest.raises(UserError, match="contains no records"):
        write(tmp_path / "set", [])
    assert list(read_records(tmp_path / "set" / "train")) == [RECORD]
    assert not partial.exists()


def test_the_lock_of_a_running_writer_is_held(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "set", "test") as writer:
        descriptor = os.open(writer.folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        writer.write("train", RECORD)


def test_a_split_of_example_gen_is_read_with_any_file_names(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "data", source="test") as writer:
        for split in ("train", "eval", "test"):
            for number in range(3):
                writer.write(split, Record(b"png", "x", f"{split} {number}"))
    (shard,) = shards(tmp_path / "data" / "test")
    shard.rename(shard.with_name("data_tfrecord-00000-of-00001.gz"))
    assert [record.name for record in read_split(tmp_path / "data" / "test")] == ["test 0", "test 1", "test 2"]
