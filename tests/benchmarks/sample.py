"""Formulas for benchmarks: the real sample, or synthetic formulas without it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from data.defaults import MAX_TOKENS
from data.importers.importing import import_dataset
from data.pictures.synthetic import synthesize

SAMPLES = Path(os.environ.get("IM2LATEX_SAMPLES", Path(__file__).parents[3] / "shared")) / "im2latex-100k"
# Resolution of the synthetic formulas: the real images also have text of 10 pt, at half of 200 dots per inch.
DPI = 100


def make_sample(
    out: Path, examples: int, splits: Mapping[str, int] | None = None, max_tokens: int = MAX_TOKENS
) -> None:
    """Makes a data set of all real formulas; without them, of synthetic formulas of similar size, with a message.

    Args:
        out: the folder to make.
        examples, splits, max_tokens: arguments of `synthesize`, for the synthetic formulas.
    """
    if SAMPLES.exists():
        import_dataset(SAMPLES, out)
    else:
        print(f"{SAMPLES} is missing; using synthetic formulas")
        synthesize(out, examples, seed=1, level="full", dpi=DPI, splits=splits, max_tokens=max_tokens)
