"""Checks a data set: statistics of each split, duplicates, and problems."""

from __future__ import annotations

import array
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.dataset.images import open_image
from data.dataset.record import SPLITS, BadRecord, Record, decode
from data.dataset.tfrecords import read_tfrecords, shards
from data.dataset.writer import is_dataset
from im2latex.errors import UserError

SAMPLES = 24
# Maximum share of a split's examples that may also be in train. Published data sets have a few; more is a leak.
MAX_SHARED = 0.01
_SHARD = re.compile(r"data-(\d{5})-of-(\d{5})\.tfrecord\.gz")


@dataclass
class SplitReport:
    """Statistics of a split. `width`, `height` (pixels) and `tokens` hold the median, 90th percentile and maximum."""

    records: int = 0
    bytes: int = 0
    width: list[int] = field(default_factory=list)
    height: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


@dataclass
class DatasetReport:
    """Statistics of a data set, and its problems; without problems it is fit for training.

    Attributes:
      rejected: number of records in rejects.jsonl.
      vocabulary: number of different tokens.
      most_common: the 20 most frequent tokens with their counts.
      seen_once: number of tokens that occur once.
      unseen: for eval and test, number of tokens that train lacks.
      duplicates: for each split, number of records whose formula occurred before in the split.
      shared: for eval and test, number of records whose formula is also in train.
    """

    path: str
    source: str
    splits: dict[str, SplitReport]
    rejected: int
    vocabulary: int
    most_common: list[tuple[str, int]]
    seen_once: int
    unseen: dict[str, int]
    duplicates: dict[str, int]
    shared: dict[str, int]
    problems: list[str]


@dataclass
class _SplitStatistics:
    """Values collected while the records of a split are read: 36 bytes for each record, and counts of tokens."""

    widths: array.array = field(default_factory=lambda: array.array("I"))
    heights: array.array = field(default_factory=lambda: array.array("I"))
    lengths: array.array = field(default_factory=lambda: array.array("I"))
    image_bytes: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    # Digests of 64 bits: of a million records, two that differ are equal with a probability of 3e-8.
    formulas: array.array = field(default_factory=lambda: array.array("Q"))
    pairs: array.array = field(default_factory=lambda: array.array("Q"))
    names: array.array = field(default_factory=lambda: array.array("Q"))
    samples: list[Record] = field(default_factory=list)
    unusable: int = 0


def check_dataset(
    path: Path | str, progress: Callable[[int], None] | None = None
) -> tuple[DatasetReport, list[Record]]:
    """Reads a whole data set and reports its statistics and problems.

    Args:
      path: folder of the data set.
      progress: called with the number of records read since the last call.

    Returns:
      The report, and sample records from all splits, for `contact_sheet`.

    Raises:
      UserError: the folder does not exist or holds no data set at all.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give the folder of a data set")
    if not any((path / split).is_dir() for split in SPLITS):
        raise UserError(f"{path} has none of the folders train, eval and test; give the folder of a data set")
    problems = _Problems()
    described = _description(path)
    if not described and (path / "dataset.json").exists():
        problems.add("dataset.json is unreadable")
    read = {split: _read_split(path / split, described, problems, progress) for split in SPLITS}
    rejects = path / "rejects.jsonl"
    rejected = rejects.read_bytes().count(b"\n") if rejects.is_file() else 0
    if described and rejected != sum(described["rejected"].values()):
        problems.add(f"rejects.jsonl has {rejected:,} lines, dataset.json says {sum(described['rejected'].values()):,}")
    train = read["train"]
    shared = {split: int(np.isin(read[split].formulas, train.formulas).sum()) for split in SPLITS[1:]}
    for split in SPLITS[1:]:
        pairs = np.unique(read[split].pairs)
        same = int(np.isin(pairs, train.pairs).sum())
        if same > MAX_SHARED * len(pairs):
            problems.add(f"{same:,} examples of {split}, image and formula, are in train too")
    vocabulary = sum((statistics.tokens for statistics in read.values()), Counter())
    report = DatasetReport(
        path=str(path),
        source=str(described.get("source", "not known, for there is no dataset.json that tells it")),
        splits={
            split: SplitReport(
                records=len(statistics.lengths),
                bytes=statistics.image_bytes,
                width=_spread(statistics.widths),
                height=_spread(statistics.heights),
                tokens=_spread(statistics.lengths),
            )
            for split, statistics in read.items()
        },
        rejected=rejected,
        vocabulary=len(vocabulary),
        most_common=[(_shown(token), count) for token, count in vocabulary.most_common(20)],
        seen_once=sum(count == 1 for count in vocabulary.values()),
        unseen={split: len(set(read[split].tokens) - set(train.tokens)) for split in SPLITS[1:]},
        duplicates={
            split: len(statistics.formulas) - len(np.unique(statistics.formulas)) for split, statistics in read.items()
        },
        shared=shared,
        problems=problems.listed(),
    )
    return report, [record for statistics in read.values() for record in statistics.samples]


def _description(path: Path) -> dict:
    """Returns the content of dataset.json, or {} if it is missing or not in the form that `DatasetWriter` writes."""
    description = json.loads((path / "dataset.json").read_text("utf-8")) if is_dataset(path) else {}
    counted = (description.get(name) for name in ("counts", "rejected"))
    is_valid = all(isinstance(counts, dict) and all(map(_is_count, counts.values())) for counts in counted)
    return description if is_valid else {}


def _is_count(value: object) -> bool:
    return isinstance(value, int)


def _shown(text: str) -> str:
    """Returns text that is safe to print: escaped if it contains control characters."""
    return text if text.isprintable() else ascii(text)


class _Problems:
    """Counts the problems found and remembers the first record with each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, what: str, record: str = "") -> None:
        self.counts[what] += 1
        if record:
            self.first.setdefault(what, _shown(record))

    def listed(self) -> list[str]:
        return [
            what + (f" ({count:,} records, first {self.first[what]})" if what in self.first else "")
            for what, count in self.counts.items()
        ]


def _read_split(
    folder: Path, described: dict, problems: _Problems, progress: Callable[[int], None] | None = None
) -> _SplitStatistics:
    """Reads and checks the records of a split; the folder's name is the split's name."""
    split, statistics = folder.name, _SplitStatistics()
    if not folder.is_dir():
        problems.add(f"folder {split} is missing")
        return statistics
    files = shards(folder)
    numbers = [match.groups() for file in files if (match := _SHARD.fullmatch(file.name))]
    if numbers and {(f"{i:05d}", f"{len(files):05d}") for i in range(len(files))} != set(numbers):
        problems.add(f"the shards of {split} are incomplete: {', '.join(file.name for file in files[:3])} ...")
    expected = described.get("counts", {}).get(split, 0)
    stride = max(1, (expected or 1000) * len(SPLITS) // SAMPLES)
    for file in files:
        try:
            for number, serialised in enumerate(read_tfrecords(file)):
                try:
                    record = decode(serialised)
                except BadRecord as error:
                    statistics.unusable += 1
                    problems.add(error.reason, f"{file.name}, record {number}")
                else:
                    sampled = len(statistics.lengths) % stride == 0 and len(statistics.samples) < SAMPLES // len(SPLITS)
                    _check_formula(record, statistics, problems)
                    if _check_image(record, statistics, problems) and sampled:
                        statistics.samples.append(record)
                    if progress is not None:
                        progress(1)
        except UserError as error:
            problems.add(str(error))
    total = len(statistics.lengths) + statistics.unusable
    if described and expected != total:
        problems.add(f"{split} contains {total:,} records, dataset.json says {expected:,}")
    if not total:
        problems.add(f"{split} contains no records")
    if repeated := int((np.unique(statistics.names, return_counts=True)[1] > 1).sum()):
        problems.add(f"{repeated:,} names occur more than once in {split}")
    return statistics


def _check_formula(record: Record, statistics: _SplitStatistics, problems: _Problems) -> None:
    tokens = record.latex.split()
    statistics.lengths.append(len(tokens))
    statistics.image_bytes += len(record.image)
    statistics.tokens.update(tokens)
    statistics.formulas.append(_digest(record.latex.encode()))
    statistics.names.append(_digest(record.name.encode()))
    statistics.pairs.append(_digest(record.image + b"\0" + record.latex.encode()))
    if not tokens:
        problems.add("empty formula", record.name)
    elif " ".join(tokens) != record.latex:
        problems.add("tokens not separated by one space each", record.name)


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def _check_image(record: Record, statistics: _SplitStatistics, problems: _Problems) -> bool:
    """Checks a record's image and returns whether it can be decoded."""
    try:
        with open_image(record.image) as image:
            statistics.widths.append(image.width)
            statistics.heights.append(image.height)
            if image.format not in ("PNG", "JPEG"):
                problems.add("image is neither PNG nor JPEG", record.name)
            low, high = image.convert("L").getextrema()
            if low == high:
                problems.add("blank image", record.name)
    except BadRecord as error:
        problems.add(error.reason, record.name)
        return False
    return True


def _spread(values: Sequence[int]) -> list[int]:
    """Returns the median, 90th percentile and maximum."""
    return [round(float(value)) for value in np.percentile(values, (50, 90, 100))] if values else [0, 0, 0]


def contact_sheet(records: Sequence[Record], path: Path, columns: int = 3, cell: int = 420, scale: int = 2) -> None:
    """Writes a PNG with images and their formulas below them.

    Args:
      records: the records to show.
      path: the file to write.
      columns: images per row.
      cell: width of a column in pixels.
      scale: factor by which small images are enlarged.

    Raises:
      UserError: the file cannot be written.
    """
    font = _text_font()
    letters = int((cell - 20) / font.getlength("x"))
    panels = []
    for record in records:
        image = Image.open(io.BytesIO(record.image)).convert("RGB")
        factor = min(scale, (cell - 20) / image.width)
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.NEAREST if factor == scale else Image.Resampling.LANCZOS)
        text = _wrap(f"{record.name}\n{record.latex}", letters)
        panel = Image.new("RGB", (cell, image.height + 16 * len(text) + 30), "gainsboro")
        panel.paste(image, (10, 10))
        drawing = ImageDraw.Draw(panel)
        for number, line in enumerate(text):
            drawing.text((10, image.height + 14 + 16 * number), line, "gray" if number == 0 else "black", font)
        panels.append(panel)
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    sheet = Image.new(
        "RGB", (cell * columns, sum(max(panel.height for panel in row) for row in rows) or 1), "gainsboro"
    )
    y = 0
    for row in rows:
        for column, panel in enumerate(row):
            sheet.paste(panel, (column * cell, y))
        y += max(panel.height for panel in row)
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --sheet") from error


def _text_font() -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSansMono.ttf")), 12)


def _wrap(text: str, letters: int) -> list[str]:
    import textwrap

    return [line for part in text.split("\n") for line in textwrap.wrap(part, letters) or [""]][:10]
