"""The section on robustness: a table of scores, with a bar for each kind of picture."""

from __future__ import annotations

from typing import NamedTuple

from components.evaluator.pictures import PICTURES
from components.evaluator.summary import CANDIDATE, Evaluation
from components.formula_metrics.scores import SCORES
from components.report.sections import FEW, Missing, ScoreCell, cell
from components.report.wording import signed

# The scores of the table; the bars show the first.
SHOWN = ("bleu", "exact_match", "edit_similarity")


class PictureKindRow(NamedTuple):
    """A kind of picture."""

    kind: str
    help: str
    examples: int
    few: bool  # whether there are fewer examples than FEW
    share: float  # length of the bar, 0 to 1
    cells: list[ScoreCell]  # one for each score of SHOWN
    difference: str  # of the first score, from its value on the unchanged pictures


class RobustnessSection(NamedTuple):
    """The section's content."""

    titles: list[str]
    rows: list[PictureKindRow]
    seed: int
    mark: float  # length of the bar for the unchanged pictures, 0 to 1


def robustness(evaluation: Evaluation) -> RobustnessSection:
    """Builds the section from the scores by kind of picture.

    Raises:
        Missing: the model was not tested on other kinds of pictures.
    """
    scores_by_kind = evaluation.pictures
    if not scores_by_kind:
        raise Missing("The model was not evaluated on other kinds of pictures; set evaluation.robustness=200.")
    rows = []
    for kind, scores in scores_by_kind.items():
        lost = evaluation.loss(kind)
        difference = "" if lost is None else signed(-lost)
        cells = [cell(SCORES[name], scores, name) for name in SHOWN]
        help = PICTURES[kind].help if kind in PICTURES else ""
        count = scores["examples"]
        rows.append(PictureKindRow(kind, help, count, count < FEW, scores[CANDIDATE][SHOWN[0]], cells, difference))
    return RobustnessSection([SCORES[name].title for name in SHOWN], rows, evaluation.robustness["seed"], rows[0].share)
