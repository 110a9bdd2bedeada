"""The result of an evaluation, as stored in `summary.json`; does not import TensorFlow."""

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
# The names of the models in TFMA and `summary.json`, and of their columns in `predictions.parquet`.
CANDIDATE, BASELINE = "candidate", "baseline"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation, as stored in `summary.json`."""

    examples: int
    renderer: str
    # Facts about each model: `seconds` to read all images, and what the caller adds.
    models: dict[str, dict[str, Any]]
    # By slice ("" for all examples, else `key=value`): the number of examples, and every model's scores.
    slices: dict[str, dict[str, Any]]
    gate: list[Verdict]
    # How it was tested on other kinds of pictures, a `components.evaluator.pictures.RobustnessTest`; {} if it was not.
    robustness: dict[str, int] = dataclasses.field(default_factory=dict)
    # Spelling in which formulas were compared token by token, as in `data.spelling.respell`.
    spelling: str = AS_THE_SOURCE

    @property
    def pictures(self) -> dict[str, dict[str, Any]]:
        """The scores by kind of picture, as in `slices`; the first is the unchanged examples."""
        before = f"{PICTURE}="
        return {name.removeprefix(before): of for name, of in self.slices.items() if name.startswith(before)}

    def loss(self, kind: str, model: str = CANDIDATE) -> float | None:
        """Returns by how much a model's BLEU is lower on a kind of picture than on the unchanged examples.

        None for the unchanged examples, and if the model was not tested on other kinds.
        """
        native = self.pictures.get(NATIVE)
        return None if native is None or kind == NATIVE else native[model]["bleu"] - self.pictures[kind][model]["bleu"]

    @property
    def hardest_pictures(self) -> str:
        """The three kinds of pictures with the lowest BLEU, as text; "" if the model was not tested on them."""
        scores = {kind: of[CANDIDATE]["bleu"] for kind, of in self.pictures.items()}
        if (native := scores.pop(NATIVE, None)) is None:
            return ""
        lowest = ", ".join(f"{kind} {scores[kind]:.3f}" for kind in sorted(scores, key=scores.__getitem__)[:3])
        return f"BLEU {native:.3f} as they are; lowest: {lowest}"

    @property
    def blessed(self) -> bool:
        """Whether the model passes every rule of the gate."""
        return all(verdict.passed for verdict in self.gate)

    @property
    def reasons(self) -> list[str]:
        """The rules that the model fails, as text."""
        return [verdict.text for verdict in self.gate if not verdict.passed]

    @property
    def other_vocabulary(self) -> str:
        """A note that the models have different vocabularies; "" if they do not, or if one is not of this project."""
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
    # By position: version 0.1.0 named the field `passed` otherwise.
    return Evaluation(**document | {"gate": [Verdict(*verdict.values()) for verdict in document["gate"]]})
