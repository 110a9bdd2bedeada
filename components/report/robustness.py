"""How a model reads other kinds of pictures: a table with a bar for each kind."""

from __future__ import annotations

from typing import NamedTuple

from components.evaluator.pictures import PICTURES
from components.evaluator.summary import CANDIDATE, Evaluation
from components.formula_metrics.scores import SCORES
from components.report.sections import FEW, Cell, Missing, cell
from components.report.wording import signed

# The first has the bars.
SHOWN = ("bleu", "exact_match", "edit_similarity")


class Row(NamedTuple):
    """A kind of picture."""

    kind: str
    help: str
    examples: int
    few: bool
    share: float  # of the bar's length, 0 to 1
    cells: list[Cell]  # of SHOWN
    difference: str  # of the first score, from that of the pictures as they are


class Robustness(NamedTuple):
    """The kinds of pictures that the model was tried on."""

    titles: list[str]
    rows: list[Row]
    seed: int
    mark: float  # where the bars would end as the pictures are, 0 to 1


def robustness(evaluation: Evaluation) -> Robustness:
    """Scores by kind of picture.

    Raises:
        Missing: the model was not tried on them.
    """
    found = evaluation.pictures
    if not found:
        raise Missing("The model was not tried on other kinds of pictures; evaluation.robustness=200 would try it.")
    rows = []
    for kind, scores in found.items():
        lost = evaluation.loss(kind)
        difference = "" if lost is None else signed(-lost)
        cells = [cell(SCORES[name], scores, name) for name in SHOWN]
        help = PICTURES[kind].help if kind in PICTURES else ""
        count = scores["examples"]
        rows.append(Row(kind, help, count, count < FEW, scores[CANDIDATE][SHOWN[0]], cells, difference))
    return Robustness([SCORES[name].title for name in SHOWN], rows, evaluation.robustness["seed"], rows[0].share)
