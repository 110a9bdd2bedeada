"""The one record schema, its files, and the folders they stand in.

A record is a tf.train.Example with three features of bytes: `image` (PNG or JPEG), `latex` (UTF-8, tokens separated
by one space) and `name` (where it came from). A data set is a folder:

    train/ eval/ test/    data-00000-of-00007.tfrecord.gz ...
    dataset.json          source, records by split, what made it, fingerprint
    rejects.jsonl         what was set aside: {"name", "split", "reason"} a line

TensorFlow is not needed: TFRecord framing and the Example message are written down here, and a test holds them
against TensorFlow's own.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import gzip
import hashlib
import json
import os
import shutil
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import google_crc32c
from google.protobuf import descriptor_pb2, message_factory

from data.errors import UserError

SPLITS = ("train", "eval", "test")
FORMAT = "im2latex-records-1"
RECORDS_PER_SHARD = 4096
MAX_REJECTED_SHARE = 0.05
# Memory is not taken for whatever length a damaged file says; protobuf's own limit is 2 GiB.
MAX_RECORD_BYTES = 256 * 1024 * 1024
# The importers' defaults, here because the command line reads them before it needs the importers.
MAX_TOKENS = 150
EVAL_SHARE = 0.05
DRAW_REJECTED_SHARE = 0.5
HELD_OUT_FONT = "antykwa"
TEST_SHARE = 0.5


@dataclass(frozen=True)
class Record:
    """One example: an encoded image, its tokens separated by one space, and its name."""

    image: bytes
    latex: str
    name: str


class BadRecord(Exception):
    """A record that cannot be used, with the reason; it is set aside and counted, and the import goes on."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _example_class() -> Any:
    """The message class of tf.train.Example, from tensorflow/core/example/{example,feature}.proto."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="im2latex/example.proto", package="tensorflow", syntax="proto3")

    def message(name: str, parent: Any = None) -> Any:
        made = (parent.nested_type if parent is not None else file.message_type).add()
        made.name = name
        return made

    def add(owner: Any, name: str, number: int, kind: int, **options: Any) -> None:
        owner.field.add(name=name, number=number, type=kind, **{"label": field.LABEL_OPTIONAL, **options})

    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        add(message(name), "value", 1, kind, label=field.LABEL_REPEATED)
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes", "float", "int64"), start=1):
        list_name = f".tensorflow.{name.capitalize()}List"
        add(feature, f"{name}_list", number, field.TYPE_MESSAGE, type_name=list_name, oneof_index=0)
    features = message("Features")
    entry = message("FeatureEntry", features)
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, type_name=".tensorflow.Feature")
    entry_name = ".tensorflow.Features.FeatureEntry"
    add(features, "feature", 1, field.TYPE_MESSAGE, type_name=entry_name, label=field.LABEL_REPEATED)
    add(message("Example"), "features", 1, field.TYPE_MESSAGE, type_name=".tensorflow.Features")
    # In a pool of their own: TensorFlow registers the same names in the default one.
    return message_factory.GetMessages([file])["tensorflow.Example"]


Example = _example_class()


def encode(record: Record) -> bytes:
    """A record as a serialised tf.train.Example; the same record gives the same bytes."""
    example = Example()
    for key, value in (("image", record.image), ("latex", record.latex.encode()), ("name", record.name.encode())):
        example.features.feature[key].bytes_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def decode(serialised: bytes) -> Record:
    """The record in a serialised tf.train.Example.

    Raises:
      BadRecord: not an Example, or a feature is missing, of another type, doubled or not UTF-8.
    """
    example = Example()
    try:
        example.ParseFromString(serialised)
    except Exception as error:  # protobuf's DecodeError is another class in each of its implementations
        raise BadRecord("not a tf.train.Example") from error
    values = {}
    for key in ("image", "latex", "name"):
        feature = example.features.feature.get(key)
        if feature is None or feature.WhichOneof("kind") is None:
            raise BadRecord(f"feature {key} is missing")
        if (kind := feature.WhichOneof("kind")) != "bytes_list":
            raise BadRecord(f"feature {key} is of type {kind.removesuffix('_list')} instead of bytes")
        if len(feature.bytes_list.value) != 1:
            raise BadRecord(f"feature {key} has {len(feature.bytes_list.value):,} values instead of one")
        values[key] = feature.bytes_list.value[0]
    try:
        return Record(values["image"], values["latex"].decode(), values["name"].decode())
    except UnicodeDecodeError as error:
        raise BadRecord("bad UTF-8") from error


def _masked_crc(content: bytes) -> int:
    """TFRecord's checksum: CRC-32C, rotated and offset (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(content: bytes) -> bytes:
    """A record of a TFRecord file: length, its checksum, content, its checksum."""
    length = struct.pack("<Q", len(content))
    checksums = struct.pack("<I", _masked_crc(length)), struct.pack("<I", _masked_crc(content))
    return length + checksums[0] + content + checksums[1]


def read_tfrecords(path: Path) -> Iterator[bytes]:
    """The contents of a TFRecord file, gzipped or not.

    Raises:
      UserError: the file is missing, cut off, or a checksum is wrong; names the file and the record's number.
    """
    try:
        with open(path, "rb") as raw:
            yield from parse_tfrecords(raw, str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the path") from error


def parse_tfrecords(raw: IO[bytes], path: str) -> Iterator[bytes]:
    """The contents of an open TFRecord file, gzipped or not, whatever its name is.

    Args:
      raw: the file; it can seek.
      path: its name, for the error.

    Raises:
      UserError: the file is cut off, or a checksum is wrong; names the file and the record's number.
    """
    number = 0

    def damaged(what: str) -> UserError:
        return UserError(f"{path} is damaged at record {number} ({what}); make or download it again")

    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[assignment]
    try:
        while header := stream.read(12):
            if len(header) < 12:
                raise damaged("cut off")
            length, checksum = struct.unpack("<QI", header)
            if _masked_crc(header[:8]) != checksum:
                foreign = "" if number else ", or this is no TFRecord file"
                raise damaged(f"its length's checksum is wrong{foreign}")
            if length > MAX_RECORD_BYTES:
                raise damaged(f"its length is {length:,} bytes, more than {MAX_RECORD_BYTES:,}")
            content, tail = stream.read(length), stream.read(4)
            if len(content) < length or len(tail) < 4:
                raise damaged("cut off")
            if _masked_crc(content) != struct.unpack("<I", tail)[0]:
                raise damaged("its checksum is wrong")
            yield content
            number += 1
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise damaged("the compression is broken or cut off") from error


def shards(folder: Path) -> list[Path]:
    """The TFRecord files of a split's folder, in order."""
    return sorted(path for path in folder.iterdir() if path.name.endswith((".tfrecord.gz", ".tfrecord")))


def read_records(path: Path | str) -> Iterator[Record]:
    """The records of a TFRecord file or of all files of a split's folder, in order.

    Raises:
      UserError: nothing there, a damaged file, or a record that does not follow the schema.
    """
    path = Path(path)
    files = shards(path) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no .tfrecord or .tfrecord.gz files; make a data set with `im2latex data`")
    yield from _read(files)


def read_split(folder: Path | str) -> Iterator[Record]:
    """The records of a split of ExampleGen's, in order: of all files in its folder, whatever they are called.

    Raises:
      UserError: a damaged file, or a record that does not follow the schema.
    """
    return _read(sorted(path for path in Path(folder).iterdir() if path.is_file()))


def _read(files: list[Path]) -> Iterator[Record]:
    for file in files:
        for number, content in enumerate(read_tfrecords(file)):
            try:
                yield decode(content)
            except BadRecord as error:
                raise UserError(f"{file}, record {number}: {error.reason}; make the data set again") from error


@dataclass(frozen=True)
class Summary:
    """What a writer wrote: records and rejects by split, the reasons of the rejects, the fingerprint."""

    path: Path
    counts: dict[str, int]
    rejected: dict[str, int]
    reasons: dict[str, int]
    fingerprint: str


class _Shards:
    """The growing shards of one split; the number of shards is known and named only at the end."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.count = 0
        self.digest = hashlib.sha256()
        self.files: list[Path] = []
        self.raw: IO[bytes] | None = None
        self.stream: gzip.GzipFile | None = None

    def write(self, content: bytes) -> None:
        if self.count % RECORDS_PER_SHARD == 0:
            self.close()
            self.files.append(self.folder / f"data-{len(self.files):05d}")
            self.raw = open(self.files[-1], "wb")  # noqa: SIM115, closed with its split
            # No name and no time in the header: the same records give the same bytes.
            self.stream = gzip.GzipFile("", "wb", compresslevel=6, fileobj=self.raw, mtime=0)
        assert self.stream is not None
        self.stream.write(frame(content))
        self.digest.update(hashlib.sha256(content).digest())
        self.count += 1

    def close(self) -> None:
        for file in (self.stream, self.raw):
            if file is not None:
                file.close()
        self.stream = self.raw = None

    def finish(self) -> None:
        self.close()
        for file in self.files:
            file.rename(file.with_name(f"{file.name}-of-{len(self.files):05d}.tfrecord.gz"))


class DatasetWriter:
    """Writes a data set into a temporary folder and moves it in place when all of it is there.

    A context manager: leaving it normally finishes and moves, leaving it by an exception removes everything. What a
    killed process left is removed by the next writer to the same place; a folder in use is held by a file lock, which
    the system lets go of when its process dies.

    Args:
      path: the folder to make. A data set made by this class is replaced; another folder is refused unless empty or
        `overwrite`.
      source: what the records were made from, for dataset.json.
      details: further entries of dataset.json, for instance the seed.
      allow_rejects: the share of rejected records above which the whole is refused.
      overwrite: replace a folder that is not a data set too.

    Raises:
      UserError: the place is taken or not writable, no record was written, or too many were rejected.
    """

    def __init__(
        self,
        path: Path | str,
        source: str,
        details: Mapping[str, Any] | None = None,
        allow_rejects: float = MAX_REJECTED_SHARE,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path).absolute()
        self.source = source
        self.details = dict(details or {})
        self.allow_rejects = allow_rejects
        self.overwrite = overwrite
        self.rejects: list[dict[str, str]] = []
        self.summary: Summary | None = None

    def __enter__(self) -> DatasetWriter:
        self._refuse_taken_place()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.path.parent, glob.escape(self.path.name))
            self.folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", suffix=".partial", dir=self.path.parent))
            self.folder.chmod(0o777 & ~_umask())
            self.lock = os.open(self.folder, os.O_RDONLY)
            fcntl.flock(self.lock, fcntl.LOCK_EX)
            self.splits = {split: _Shards(self.folder / split) for split in SPLITS}
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; choose another --out") from error
        return self

    def write(self, split: str, record: Record) -> None:
        """Appends a record to a split."""
        self.write_encoded(split, encode(record))

    def write_encoded(self, split: str, example: bytes) -> None:
        """Appends what `encode` made, for callers that encode in other processes."""
        try:
            self.splits[split].write(example)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; free some space") from error

    def reject(self, split: str, name: str, reason: str) -> None:
        """Sets a record aside."""
        self.rejects.append({"name": name, "split": split, "reason": reason})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as broken:
            raise UserError(f"cannot write {self.path}: {broken.strerror}; free some space") from broken
        finally:
            for split in self.splits.values():
                with contextlib.suppress(OSError):  # a full disk: the folder goes anyway
                    split.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self.lock)

    def _refuse_taken_place(self) -> None:
        if self.path.is_dir():
            if self.overwrite or is_dataset(self.path) or not any(self.path.iterdir()):
                return
            raise UserError(f"{self.path} is not a data set and not empty; choose another --out, or give --overwrite")
        if self.path.exists():
            raise UserError(f"{self.path} is a file; --out names a folder")

    def _finish(self) -> None:
        rejected = Counter(reject["split"] for reject in self.rejects)
        reasons = Counter(reject["reason"] for reject in self.rejects)
        written = sum(split.count for split in self.splits.values())
        total = written + len(self.rejects)
        common = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        lines = "".join(json.dumps(reject, ensure_ascii=False) + "\n" for reject in self.rejects)
        if total == 0:
            raise UserError(f"{self.source} holds no records; check that it is the right folder")
        if len(self.rejects) > self.allow_rejects * total or written == 0:
            kept = self.path.with_name(f"{self.path.name}.rejects.jsonl")
            kept.write_text(lines, "utf-8")
            raise UserError(
                f"{len(self.rejects):,} of {total:,} records of {self.source} were rejected ({common}), more than "
                f"{self.allow_rejects:.0%}: see {kept}, or allow it with --allow-rejects SHARE"
            )
        for split in self.splits.values():
            split.finish()
        (self.folder / "rejects.jsonl").write_text(lines, "utf-8")
        fingerprint = hashlib.sha256("".join(split.digest.hexdigest() for split in self.splits.values()).encode())
        self.summary = Summary(
            path=self.path,
            counts={name: split.count for name, split in self.splits.items()},
            rejected={name: rejected[name] for name in SPLITS},
            reasons=dict(reasons.most_common()),
            fingerprint=fingerprint.hexdigest(),
        )
        description = {
            "format": FORMAT,
            "source": self.source,
            **self.details,
            "counts": self.summary.counts,
            "rejected": self.summary.rejected,
            "fingerprint": self.summary.fingerprint,
        }
        (self.folder / "dataset.json").write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", "utf-8")
        # The finished folder gets a name of its own first, so that it can move without the lock and the folder
        # that it replaces.
        finished = self.folder / "finished"
        finished.mkdir()
        finished.chmod(0o777 & ~_umask())
        for entry in [*SPLITS, "rejects.jsonl", "dataset.json"]:
            (self.folder / entry).rename(finished / entry)
        if self.path.exists():
            self.path.rename(self.folder / "replaced")
        finished.rename(self.path)
        self.path.with_name(f"{self.path.name}.rejects.jsonl").unlink(missing_ok=True)


def remove_unfinished(parent: Path, name: str = "*") -> None:
    """Removes what killed writers of data sets left beside them.

    Args:
      parent: of the data sets.
      name: pattern of their names.
    """
    for folder in parent.glob(f".{name}.*.partial"):
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # another import to the same place is running
        finally:
            os.close(lock)
        # An import killed between its two renames has the data set it was about to replace in here.
        whole = parent / folder.name[1:].removesuffix(".partial").rpartition(".")[0]
        if not whole.exists() and (folder / "replaced").exists():
            (folder / "replaced").rename(whole)
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def is_dataset(path: Path) -> bool:
    """Whether a folder was made by DatasetWriter."""
    try:
        return json.loads((path / "dataset.json").read_text("utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False
