"""The table of `im2latex evaluate --published`: a model's scores on im2latex-100k next to published ones."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

from components.evaluator.summary import CANDIDATE, Evaluation


class Published(NamedTuple):
    """Published scores on the test split of im2latex-100k in percent, as cited by later papers."""

    name: str
    bleu: float
    edit: float
    match: float


# The names of the corresponding scores in an evaluation.
SCORES = ("bleu", "image_edit_similarity", "image_match", "image_match_without_blanks")
PUBLISHED = (
    Published("Im2Markup (Deng et al. 2017)", 87.73, 87.60, 77.46),
    Published("DoubleAttention", 88.42, 88.57, 79.81),
    Published("MI2LS (arXiv 1908.11415)", 89.08, 91.09, 79.39),
    Published("MI2LS, with reinforcement on BLEU", 90.28, 92.28, 82.33),
    Published("Sumen-base (2024), a larger data set", 95.59, 97.30, 69.23),
)
WIDTH = 100


def published_table(evaluation: Evaluation, data: str, split: str) -> str:
    """Returns the table of scores, with a list of other differences between its rows than the model.

    Args:
        evaluation: an evaluation in the spelling of the source.
        data: name of the evaluated data.
        split: name of the evaluated split.
    """
    lines = [f"{'percent':<38}{'BLEU':>8}{'edit':>8}{'match':>8}{'no blanks':>11}"]
    for model, scores in evaluation.slices[""].items():
        if model != "examples":
            bleu, edit, match, without = (f"{100 * scores[name]:.2f}" for name in SCORES)
            name = "this model" if model == CANDIDATE else model
            lines.append(f"{name:<38}{bleu:>8}{edit:>8}{match:>8}{without:>11}")
    lines += [f"{row.name:<38}{row.bleu:>8.2f}{row.edit:>8.2f}{row.match:>8.2f}" for row in PUBLISHED]
    differences = (
        "Data: published scores are of the test split of im2latex-100k; here, "
        f"{evaluation.examples:,} examples of {data}, split {split}, as they are spelled there.",
        "BLEU compares spellings: a model that learned the normal form writes other ones than the data.",
        f"Edit and match: both formulas are drawn by {evaluation.renderer}, in the paper by LaTeX at the same scale. "
        "Here a run of differing columns counts on either side; in the paper's script, on the target's side "
        "alone, so that anything extra in a prediction passes.",
    )
    wrapped = [textwrap.fill(text, WIDTH, initial_indent="- ", subsequent_indent="  ") for text in differences]
    return "\n".join([*lines, "What differs besides the models:", *wrapped])
