"""Reads and frames TFRecord files, with their checksums, without TensorFlow."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import google_crc32c

from data.dataset.record import SPLITS, BadRecord, Record, decode
from im2latex.errors import UserError

# Limit on the length field, so that a damaged file cannot make us allocate too much; protobuf's limit is 2 GiB.
MAX_RECORD_BYTES = 256 * 1024 * 1024


def _masked_crc(content: bytes) -> int:
    """Computes TFRecord's checksum: CRC-32C, rotated and offset (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(content: bytes) -> bytes:
    """Frames content as a record of a TFRecord file: length, its checksum, content, its checksum."""
    length = struct.pack("<Q", len(content))
    checksums = struct.pack("<I", _masked_crc(length)), struct.pack("<I", _masked_crc(content))
    return length + checksums[0] + content + checksums[1]


def read_tfrecords(path: Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file, gzipped or not, as bytes.

    Raises:
      UserError: the file is missing, no regular file, cut off, or a checksum is wrong; names the file and the record's
        number.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for another process
        raise UserError(f"{path} is a link, pipe or device instead of a file; replace it by the file")
    try:
        with open(path, "rb") as raw:
            yield from parse_tfrecords(raw, str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the path") from error


def parse_tfrecords(raw: IO[bytes], path: str) -> Iterator[bytes]:
    """Yields the records of an open TFRecord file as bytes. The content tells whether it is gzipped.

    Args:
      raw: a seekable file.
      path: its name, for error messages.

    Raises:
      UserError: the file is cut off, or a checksum is wrong; names the file and the record's number.
    """
    number = 0

    def damaged(what: str, foreign: bool = False) -> UserError:
        what += ", or this is no TFRecord file" if foreign and number == 0 else ""
        return UserError(f"{path} is damaged at record {number} ({what}); make or download it again")

    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[assignment]
    try:
        while header := stream.read(12):
            if len(header) < 12:
                raise damaged("cut off", foreign=True)
            length, checksum = struct.unpack("<QI", header)
            if _masked_crc(header[:8]) != checksum:
                raise damaged("its length's checksum is wrong", foreign=True)
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
    """Returns the TFRecord files of a split's folder, in order."""
    return sorted(path for path in folder.iterdir() if path.name.endswith((".tfrecord.gz", ".tfrecord")))


def examples_of(data: Path, split: str) -> Path:
    """Returns the path for `read_records`: the folder of a split, or `data` itself if it has no splits.

    Raises:
      UserError: it has no such split, or is not there.
    """
    if (data / split).is_dir():
        return data / split
    if splits := [name for name in SPLITS if (data / name).is_dir()]:
        raise UserError(f"{data} has no split {split}, but {' and '.join(splits)}; choose one of them with --split")
    if not data.exists():
        raise UserError(f"{data} does not exist; give a folder that `im2latex data` made, or TFRecords")
    return data


class Records(Iterable[Record]):
    """The records of TFRecord files, in order. They are read again for each iteration.

    Iterating raises UserError if a file is damaged, or a record does not follow the schema.
    """

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __iter__(self) -> Iterator[Record]:
        for file in self._files:
            for number, content in enumerate(read_tfrecords(file)):
                try:
                    yield decode(content)
                except BadRecord as error:
                    raise UserError(f"{file}, record {number}: {error.reason}; make the data set again") from error


def read_records(path: Path | str) -> Records:
    """Returns the records of a TFRecord file, or of all files of a split's folder.

    Raises:
      UserError: there is no file.
    """
    path = Path(path)
    files = shards(path) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} contains no .tfrecord or .tfrecord.gz files; make a data set with `im2latex data`")
    return Records(files)


def read_split(folder: Path | str) -> Records:
    """Returns the records of a split written by ExampleGen, from all files in its folder."""
    return Records(sorted(path for path in Path(folder).iterdir() if path.is_file()))
