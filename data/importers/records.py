"""Import format: a data set of this project, with train/, eval/ and test/ as `data.dataset.writer` makes them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from data.dataset.record import SPLITS, BadRecord, decode
from data.dataset.tfrecords import read_tfrecords, shards
from data.importers.source import Candidate, Files, Format


def _detect(files: Files) -> bool:
    return any((files.source / split).is_dir() for split in SPLITS)


def _read(files: Files, vocabulary: Path | None) -> Iterator[Candidate]:
    """Yields the records. A record that does not follow the schema has its file and number as its name."""
    for split in SPLITS:
        for file in _shards_of(files.source, split):
            for number, content in enumerate(read_tfrecords(file)):
                try:
                    record = decode(content)
                except BadRecord as error:
                    yield Candidate(split, f"{file.name}:{number}", b"", b"", error.reason)
                else:
                    yield Candidate(split, record.name, record.image, record.latex.encode())


def _splits(files: Files) -> set[str]:
    contents = {split: map(read_tfrecords, _shards_of(files.source, split)) for split in SPLITS}
    return {split for split in SPLITS if next(itertools.chain.from_iterable(contents[split]), None) is not None}


def _shards_of(source: Path, split: str) -> list[Path]:
    return shards(source / split) if (source / split).is_dir() else []


FORMAT = Format("records", "records in train, eval and test", "train/", _detect, _read, _splits)
