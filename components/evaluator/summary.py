"""What an evaluation came to, as `summary.json` holds it; without TensorFlow."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from components.evaluator.gate import Verdict
from components.evaluator.pictures import NATIVE, PICTURE
from data.spelling import AS_THE_SOURCE

PREDICTIONS = "predictions.parquet"
PICTURE_PREDICTIONS = "pictures.parquet"
SUMMARY = "summary.json"
# Models by their names in TFMA, in `summary.json`, and as columns of `predictions.parquet`.
CANDIDATE, BASELINE = "candidate", "baseline"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to; `summary.json` holds it."""

    examples: int
    renderer: str
    # What is known of each model: seconds, and whatever the caller adds.
    models: dict[str, dict[str, Any]]
    # By slice ("" is all of them, else `key=value`): its examples, and every model's scores.
    slices: dict[str, dict[str, Any]]
    gate: list[Verdict]
    # How it was tried on other kinds of pictures, as `components.evaluator.pictures.Robustness`; empty if it was not.
    robustness: dict[str, int] = dataclasses.field(default_factory=dict)
    # In which formulas were compared token by token, as `data.spelling.respell` takes it.
    spelling: str = AS_THE_SOURCE

    @property
    def pictures(self) -> dict[str, dict[str, Any]]:
        """The slices of kinds of pictures, by kind; the first is the examples as they are."""
        before = f"{PICTURE}="
        return {name.removeprefix(before): of for name, of in self.slices.items() if name.startswith(before)}

    def loss(self, kind: str, model: str = CANDIDATE) -> float | None:
        """How much BLEU a kind of picture costs a model, beside the examples as they are; None of those."""
        native = self.pictures.get(NATIVE)
        return None if native is None or kind == NATIVE else native[model]["bleu"] - self.pictures[kind][model]["bleu"]

    @property
    def hardest_pictures(self) -> str:
        """The kinds of pictures with the lowest BLEU, in words; "" where the model was not tried on them."""
        scores = {kind: of[CANDIDATE]["bleu"] for kind, of in self.pictures.items()}
        if (native := scores.pop(NATIVE, None)) is None:
            return ""
        lowest = ", ".join(f"{kind} {scores[kind]:.3f}" for kind in sorted(scores, key=scores.__getitem__)[:3])
        return f"BLEU {native:.3f} as they are; lowest: {lowest}"

    @property
    def blessed(self) -> bool:
        """Whether every rule of the gate is kept."""
        return all(verdict.kept for verdict in self.gate)

    @property
    def reasons(self) -> list[str]:
        """What was broken, in words."""
        return [verdict.text for verdict in self.gate if not verdict.kept]

    @property
    def other_vocabulary(self) -> str:
        """That the models know different tokens, in words; "" where they know the same, or are not of this project."""
        known = [self.models.get(name, {}) for name in (CANDIDATE, BASELINE)]
        if (
            not all("vocabulary_digest" in model for model in known)
            or len({m["vocabulary_digest"] for m in known}) == 1
        ):
            return ""
        new, old = (model["vocabulary"] for model in known)
        return f"this model knows {new:,} tokens, the one serving now {old:,}, not the same"

    def write(self, folder: Path) -> None:
        """Writes `summary.json`."""
        document = dataclasses.asdict(self) | {"gate": [verdict._asdict() for verdict in self.gate]}
        (folder / SUMMARY).write_text(json.dumps(document | {"blessed": self.blessed}, indent=1) + "\n", "utf-8")


def read_evaluation(folder: str | Path) -> Evaluation:
    """Reads `summary.json`."""
    document = json.loads(Path(folder, SUMMARY).read_text("utf-8"))
    document.pop("blessed")
    return Evaluation(**document | {"gate": [Verdict(**verdict) for verdict in document["gate"]]})
