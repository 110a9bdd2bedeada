"""The result of comparing new examples with the training data of the serving model, and its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from im2latex.drift import Comparison, drifted

# Name of the file in the component's output, and of the property with the result as a sentence.
FILE, SENTENCE = "drift.json", "drift"
# Beginning of the sentence if there is drift.
DRIFT = "drift from"


class Drift(NamedTuple):
    """The comparison of new examples with the training data of the serving model.

    Attributes:
        version: the version that serves; "" if there is none.
        reason: why they were not compared; "" if they were.
        examples: number of new examples that were measured.
        comparisons: of the features that both have.
    """

    version: str = ""
    reason: str = ""
    examples: int = 0
    comparisons: tuple[Comparison, ...] = ()

    @property
    def sentence(self) -> str:
        """The result in a few words."""
        if self.reason:
            return self.reason
        if above := drifted(self.comparisons):
            return f"{DRIFT} version {self.version}: {', '.join(comparison.text for comparison in above)}"
        largest = max(self.comparisons, key=lambda comparison: comparison.distance / comparison.threshold)
        return f"no drift from version {self.version}, most in {largest.text}"


def write(drift: Drift, folder: str) -> None:
    """Writes `FILE`."""
    comparisons = [comparison._asdict() for comparison in drift.comparisons]
    Path(folder, FILE).write_text(json.dumps({**drift._asdict(), "comparisons": comparisons}, indent=1), "utf-8")


def read(folder: Path) -> Drift:
    """Reads what `write` wrote.

    Raises:
        KeyError, TypeError, ValueError: it is damaged, or of another version.
    """
    document = json.loads((folder / FILE).read_text("utf-8"))
    return Drift(**{**document, "comparisons": tuple(Comparison(**one) for one in document["comparisons"])})
