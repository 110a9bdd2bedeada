"""Unusable data stops the first component, with a message that names the file and the record."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from google.protobuf import json_format
from PIL import Image
from tfx.proto import example_gen_pb2
from tfx.types import standard_artifacts

from components.example_gen.component import SHARDS, Executor, ImportExampleGen, read_usable
from data.dataset.record import SPLITS, Example, Record, encode
from data.dataset.tfrecords import frame, read_records, read_split
from data.dataset.writer import DatasetWriter
from data.pictures.synthetic import draw_png
from im2latex.errors import UserError
from tests.components.artifacts import artifact
from tests.data.importers.test_untrusted import picture

PNG = draw_png("x", 10)
GOOD = encode(Record(PNG, "x ^ { 2 }", "good"))


def example(**features: Any) -> bytes:
    """Returns a serialised Example of lists of bytes or integers."""
    message = Example()
    for name, value in features.items():
        feature = message.features.feature[name]
        (feature.int64_list if isinstance(value[0], int) else feature.bytes_list).value.extend(value)
    return message.SerializeToString()


def of(**changed: Any) -> bytes:
    return example(**{"image": [PNG], "latex": [b"x"], "name": [b"bad"], **changed})


BAD = {
    "without an image": (example(latex=[b"x"], name=[b"bad"]), "feature image is missing"),
    "without a formula": (example(image=[PNG], name=[b"bad"]), "feature latex is missing"),
    "a formula of numbers": (of(latex=[7]), "feature latex is of type int64 instead of bytes"),
    "two formulas": (of(latex=[b"x", b"y"]), "feature latex has 2 values instead of one"),
    "bad UTF-8": (of(latex=[b"x \xff\xfe y"]), "bad UTF-8"),
    "an empty formula": (of(latex=[b" "]), "empty formula"),
    "no image": (of(image=[b"no image"]), "undecodable image"),
    "half an image": (of(image=[PNG[: len(PNG) // 2]]), "undecodable image"),
    "a picture of 2.5 gigapixels": (
        of(image=[picture(50_000, 50_000)]),
        "image of more than 16,000,000 pixels, or 16,000 a side",
    ),
    "no Example": (b"\xff\xff\xff", "not a tf.train.Example"),
}


@pytest.mark.parametrize(("bad", "reason"), BAD.values(), ids=BAD)
def test_an_unusable_record_is_reported_with_its_number(bad: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "data.tfrecord.gz"
    file.write_bytes(gzip.compress(frame(GOOD) + frame(bad) + frame(GOOD)))
    with pytest.raises(UserError, match=f"^{file}, record 1: {reason}; `im2latex data check` finds all such"):
        list(read_usable(str(file)))
    file.write_bytes(gzip.compress(2 * frame(GOOD)))
    assert list(read_usable(str(file))) == [GOOD, GOOD]


def test_the_check_keeps_no_image_in_memory(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1000, 128, 256), np.uint8)
    contents = []
    for pixels in noise:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=0)
        contents.append(encode(Record(file.getvalue(), "x", "noise")))
    (tmp_path / "warm.tfrecord").write_bytes(b"".join(map(frame, contents[:200])))
    (tmp_path / "data.tfrecord").write_bytes(b"".join(map(frame, contents[200:])))
    assert sum(1 for _ in read_usable(str(tmp_path / "warm.tfrecord"))) == 200
    before = resident()
    assert sum(1 for _ in read_usable(str(tmp_path / "data.tfrecord"))) == 800
    assert resident() - before < 8 << 20  # the images together have 26 MB


def resident() -> int:
    """Returns the memory of this process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cut_between_records(contents: bytes) -> bytes:
    """Truncates a gzipped file between two records, like a full disk or a broken download."""
    compressor = zlib.compressobj(wbits=31)
    return compressor.compress(contents) + compressor.flush(zlib.Z_FULL_FLUSH)


def flipped(content: bytes) -> bytes:
    """Flips one bit in the middle."""
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 4
    return bytes(changed)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda contents: contents[: len(contents) // 2],
    "flipped": flipped,
    "gzipped and cut": lambda contents: gzip.compress(contents)[: len(gzip.compress(contents)) // 2],
    "gzipped and cut between records": cut_between_records,
    "gzipped and flipped": lambda contents: flipped(gzip.compress(contents)),
    "no TFRecord file": lambda contents: b"these are my formulas\n",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_reported_and_never_truncated_silently(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    file = tmp_path / "data.tfrecord"
    file.write_bytes(damage(9 * frame(GOOD)))
    with pytest.raises(UserError, match=rf"^{file} is damaged at record \d \(.*\); make or download it again$"):
        list(read_usable(str(file)))


def run(data: Path, out: Path, spelling: str = "normal") -> Path:
    """Runs the executor on the splits of a folder. Returns the folder of the examples."""
    return Path(run_to_artifact(data, out, spelling).uri)


def run_to_artifact(data: Path, out: Path, spelling: str = "normal") -> standard_artifacts.Examples:
    splits = [example_gen_pb2.Input.Split(name=split, pattern=f"{split}/*") for split in SPLITS]
    properties = {
        "input_base": str(data),
        "input_config": json_format.MessageToJson(example_gen_pb2.Input(splits=splits)),
        "output_config": "{}",
        "spelling": spelling,
        "output_data_format": example_gen_pb2.FORMAT_TF_EXAMPLE,
        "output_file_format": example_gen_pb2.FORMAT_TFRECORDS_GZIP,
    }
    output = artifact(standard_artifacts.Examples, out)
    context = Executor.Context(beam_pipeline_args=["--runner=FnApiRunner"])
    Executor(context).Do({}, {"examples": [output]}, properties)
    return output


def dataset(folder: Path) -> Path:
    """Writes nine records per split; in train, gzipped and plain files with any names."""
    with DatasetWriter(folder, "test") as writer:
        for split in SPLITS:
            for number in range(9):
                writer.write(split, Record(PNG, "x", f"{split}-{number}"))
    (folder / "train" / "more.tfrecord").write_bytes(frame(encode(Record(PNG, "y", "more"))))
    (folder / "train" / "still-more").write_bytes(gzip.compress(frame(encode(Record(PNG, "z", "still more")))))
    return folder


def test_every_record_of_good_files_is_imported(tmp_path: Path) -> None:
    out = run(dataset(tmp_path / "data"), tmp_path / "out")
    names = {split: sorted(record.name for record in read_split(out / f"Split-{split}")) for split in SPLITS}
    assert names["train"] == ["more", "still more", *(f"train-{number}" for number in range(9))]
    assert names["eval"] == [f"eval-{number}" for number in range(9)]
    assert len(names["test"]) == 9


def test_each_split_is_shuffled_into_reproducible_files(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "data", "test") as writer:
        for split, count in zip(SPLITS, (160, 40, 40), strict=True):
            for number in range(count):
                writer.write(split, Record(PNG, "x", f"{number:03d}"))
    out, again = run(tmp_path / "data", tmp_path / "a"), run(tmp_path / "data", tmp_path / "b")
    files = sorted(file.relative_to(out) for file in out.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(again) for file in again.rglob("*") if file.is_file())
    assert all((out / file).read_bytes() == (again / file).read_bytes() for file in files)
    assert {file.parts[0] for file in files} == {f"Split-{split}" for split in SPLITS}  # nothing unfinished
    names = [[record.name for record in read_records(out / file)] for file in files if file.parts[0] == "Split-train"]
    assert len(names) == SHARDS
    assert sorted(name for file in names for name in file) == [f"{number:03d}" for number in range(160)]
    assert all(file[0] < "080" < file[-1] for file in names if len(file) > 4)  # from all over the split


def test_a_file_that_beam_cannot_move_stops_the_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(*_: object) -> None:
        raise BeamIOError("the disk is read-only")

    data = dataset(tmp_path / "data")
    monkeypatch.setattr(FileSystems, "rename", rename)
    with pytest.raises(OSError, match=r"Split-\w+/data_tfrecord-\d\d-00000-of-00001\.gz could not be written"):
        run(data, tmp_path / "out")


def test_the_spelling_of_formulas_is_configurable(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "data", "test") as writer:
        for split in SPLITS:
            for number, latex in enumerate(("{ \\cal D } _ { 1 }", "x ^ {", "\\alpha")):
                writer.write(split, Record(PNG, latex, f"{number}"))
    normal = {record.name: record for record in read_split(run(tmp_path / "data", tmp_path / "a") / "Split-eval")}
    assert [normal[name].latex for name in "012"] == ["\\mathcal { D } _ { 1 }", "x ^ {", "\\alpha"]
    assert {record.image for record in normal.values()} == {PNG}
    kept = read_split(run(tmp_path / "data", tmp_path / "b", "im2markup") / "Split-train")
    assert sorted(record.latex for record in kept) == ["\\alpha", "x ^ {", "{ \\cal D } _ { 1 }"]


def test_corrections_are_listed_and_counted_without_their_repetitions(tmp_path: Path) -> None:
    names = {
        "train": ["a", "correction-2-b", "correction-1-a", "correction-1-a~2", "correction-1-a~3"],
        "eval": ["correction-3-c"],
        "test": ["b"],
    }
    with DatasetWriter(tmp_path / "data", "test") as writer:
        for split, of_split in names.items():
            for name in of_split:
                writer.write(split, Record(PNG, "x", name))
    examples = run_to_artifact(tmp_path / "data", tmp_path / "out")
    text = "eval\tcorrection-3-c\ntrain\tcorrection-1-a\ntrain\tcorrection-2-b\n"
    assert (tmp_path / "out" / "corrections.txt").read_text() == text
    counts = {split: examples.get_int_custom_property(f"corrections_{split}") for split in SPLITS}
    assert counts == {"train": 2, "eval": 1, "test": 0}
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert examples.get_string_custom_property("corrections_digest") == digest
    assert len(list(read_split(tmp_path / "out" / "Split-train"))) == 5


def test_the_spelling_is_a_property_of_the_component() -> None:
    component = ImportExampleGen(input_base="data", spelling="im2markup")
    assert component.exec_properties["spelling"] == "im2markup"
    assert ImportExampleGen(input_base="data").exec_properties["spelling"] == "normal"
    with pytest.raises(UserError, match="there is no spelling latin; the spellings are normal, im2markup"):
        ImportExampleGen(input_base="data", spelling="latin")


def test_the_component_fails_with_the_message_and_runs_with_repaired_data(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data")
    bad = data / "test" / "bad.tfrecord"
    bad.write_bytes(frame(of(image=[b"no image"])))
    with pytest.raises(UserError, match=f"^{bad}, record 0: undecodable image; .* without them$"):
        run(data, tmp_path / "out")
    bad.write_bytes(gzip.compress(b""))  # a file without records is valid, but a split without records is not
    run(data, tmp_path / "repaired")
    next(data.glob("test/data-*")).unlink()
    with pytest.raises(UserError, match=rf"^{data}/test/\* contains no records; every split needs some"):
        run(data, tmp_path / "empty")


def test_the_message_of_a_worker_error_is_extracted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = """Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1520, in apache_beam.runners.common.DoFnRunner.process
im2latex.errors.UserError: /data/x.tfrecord, record 3: empty formula; leave it out

During handling of the above exception, another exception occurred:

im2latex.errors.UserError: /data/x.tfrecord, record 3: empty formula; leave it out [while running 'eval/Read']
"""

    def raising(error: Exception) -> Callable[..., None]:
        def make_pipeline(_: object) -> None:
            raise error

        return make_pipeline

    monkeypatch.setattr(Executor, "_make_beam_pipeline", raising(RuntimeError(message)))
    with pytest.raises(UserError, match="^/data/x.tfrecord, record 3: empty formula; leave it out$"):
        run(tmp_path, tmp_path / "out")
    monkeypatch.setattr(Executor, "_make_beam_pipeline", raising(RuntimeError("the cluster is gone")))
    with pytest.raises(RuntimeError, match="the cluster is gone"):
        run(tmp_path, tmp_path / "out")
