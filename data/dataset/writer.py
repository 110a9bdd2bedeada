"""Writes a data set atomically. A data set is a folder:

train/ eval/ test/    data-00000-of-00007.tfrecord.gz ...
dataset.json          source, record counts by split, how it was made, fingerprint
rejects.jsonl         rejected records, one {"name", "split", "reason"} per line
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
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from data.dataset.record import SPLITS, Record, encode
from data.dataset.tfrecords import frame
from data.defaults import MAX_REJECTED_SHARE
from im2latex.errors import UserError

FORMAT = "im2latex-records-1"
RECORDS_PER_SHARD = 4096
REJECTS = "rejects.jsonl"


@dataclass(frozen=True)
class DatasetSummary:
    """Summary of a written data set.

    Attributes:
      path: the folder.
      counts: number of records by split.
      rejected: number of rejected records by split.
      reasons: number of rejected records by reason, most frequent first.
      fingerprint: SHA-256 over all records, in order.
    """

    path: Path
    counts: dict[str, int]
    rejected: dict[str, int]
    reasons: dict[str, int]
    fingerprint: str


class _Shards:
    """Writes the shards of a split. `finish` gives them their names, which contain the number of shards."""

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
            self.raw = open(self.files[-1], "wb")  # noqa: SIM115, `close` closes it
            # The header has no name and no time, so that the same records give the same bytes.
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
    """Writes a data set into a temporary folder and moves it to its path once it is complete.

    Use it as a context manager: a normal exit completes and moves the data set, an exception removes it. The next
    writer to the same path removes what a killed process left behind; a file lock, which the system releases when its
    process dies, marks a temporary folder in use.

    Args:
      path: the folder to make. An existing data set is replaced; any other folder is refused unless it is empty or
        `overwrite` is set.
      source: what the records were made from, for dataset.json.
      details: further entries of dataset.json, for instance the seed.
      allow_rejects: maximum share of rejected records; with more, the data set is not written.
      overwrite: also replace a folder that is not a data set.

    Raises:
      UserError: the path is taken or not writable, no record was written, or too many were rejected.
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
        self._rejected: Counter[str] = Counter()  # by split
        self._reasons: Counter[str] = Counter()
        self.summary: DatasetSummary | None = None

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
            self._rejects = (self.folder / REJECTS).open("w", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; choose another --out") from error
        return self

    def write(self, split: str, record: Record) -> None:
        """Appends a record to a split."""
        self.write_encoded(split, encode(record))

    def write_encoded(self, split: str, example: bytes) -> None:
        """Appends a record that was encoded by `encode`, for callers that encode in other processes."""
        try:
            self.splits[split].write(example)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; free some space") from error

    def reject(self, split: str, name: str, reason: str) -> None:
        """Counts a rejected record and adds it to rejects.jsonl."""
        self._rejected[split] += 1
        self._reasons[reason] += 1
        try:
            self._rejects.write(json.dumps({"name": name, "split": split, "reason": reason}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; free some space") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as broken:
            raise UserError(f"cannot write {self.path}: {broken.strerror}; free some space") from broken
        finally:
            for close in (self._rejects.close, *(split.close for split in self.splits.values())):
                with contextlib.suppress(OSError):  # the disk may be full; the folder is removed anyway
                    close()
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self.lock)

    def _refuse_taken_place(self) -> None:
        if self.path.is_dir():
            if self.overwrite or is_dataset(self.path) or not any(self.path.iterdir()):
                return
            raise UserError(f"{self.path} is not a data set and not empty; choose another --out, or use --overwrite")
        if self.path.exists():
            raise UserError(f"{self.path} is a file; --out names a folder")

    def _finish(self) -> None:
        self._rejects.close()
        rejected = self._rejected.total()
        written = sum(split.count for split in self.splits.values())
        total = written + rejected
        common = "; ".join(f"{count} x {reason}" for reason, count in self._reasons.most_common(3))
        if total == 0:
            raise UserError(f"{self.source} contains no records; check that it is the right folder")
        if rejected > self.allow_rejects * total or written == 0:
            file = self.path.with_name(f"{self.path.name}.rejects.jsonl")
            (self.folder / REJECTS).rename(file)
            raise UserError(
                f"{rejected:,} of {total:,} records of {self.source} were rejected ({common}), more than "
                f"{self.allow_rejects:.0%}: see {file}, or allow it with --allow-rejects SHARE"
            )
        for split in self.splits.values():
            split.finish()
        fingerprint = hashlib.sha256("".join(split.digest.hexdigest() for split in self.splits.values()).encode())
        self.summary = DatasetSummary(
            path=self.path,
            counts={name: split.count for name, split in self.splits.items()},
            rejected={name: self._rejected[name] for name in SPLITS},
            reasons=dict(self._reasons.most_common()),
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
        # A subfolder collects the finished data set, so that it can be moved without the locked folder around it,
        # which also takes the replaced data set.
        finished = self.folder / "finished"
        finished.mkdir()
        finished.chmod(0o777 & ~_umask())
        for entry in [*SPLITS, REJECTS, "dataset.json"]:
            (self.folder / entry).rename(finished / entry)
        if self.path.exists():
            self.path.rename(self.folder / "replaced")
        finished.rename(self.path)
        self.path.with_name(f"{self.path.name}.rejects.jsonl").unlink(missing_ok=True)


def remove_unfinished(parent: Path, name: str = "*") -> None:
    """Removes the temporary folders of killed writers, and restores a data set that was being replaced.

    Args:
      parent: the folder that contains the data sets.
      name: glob pattern of the data sets' names.
    """
    for folder in parent.glob(f".{name}.*.partial"):
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # another process is writing to the same path
        finally:
            os.close(lock)
        # A writer killed between its two renames left the data set that it was replacing in this folder.
        whole = parent / folder.name[1:].removesuffix(".partial").rpartition(".")[0]
        if not whole.exists() and (folder / "replaced").exists():
            (folder / "replaced").rename(whole)
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def is_dataset(path: Path) -> bool:
    """Returns whether DatasetWriter made the folder."""
    try:
        return json.loads((path / "dataset.json").read_text("utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False
