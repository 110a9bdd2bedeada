"""Corrections among the examples: a file with their names, and properties of the artifact, for the lineage."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from data.dataset.record import SPLITS, decode
from im2latex.corrections import is_correction

# File in the artifact's folder: a line with split and name for each correction, sorted.
FILE = "corrections.txt"
# Properties of the artifact: SHA-256 of that file, and by split the number of corrections.
DIGEST = "corrections_digest"
COUNTS = {split: f"corrections_{split}" for split in SPLITS}


def line_of(content: bytes, split: str) -> Iterator[str]:
    """Yields the line of a serialised example if it is a correction; the same line for all its repetitions."""
    name = decode(content).name.partition("~")[0]
    if is_correction(name):
        yield f"{split}\t{name}"


def properties_of(text: str) -> dict[str, int | str]:
    """Returns the properties for the content of the file."""
    counts = Counter(line.partition("\t")[0] for line in text.splitlines())
    return {
        **{COUNTS[split]: counts[split] for split in SPLITS},
        DIGEST: hashlib.sha256(text.encode()).hexdigest(),
    }


def sentence(properties: Mapping[str, Any]) -> str:
    """Describes the corrections among an artifact's examples; "" if there are none."""
    if DIGEST not in properties:
        return ""
    counts = " + ".join(f"{int(properties[COUNTS[split]]):,} {split}" for split in SPLITS)
    return f"corrections: {counts} (digest {properties[DIGEST][:12]}); {FILE} lists them"
