"""CDM, Character Detection Matching (Wang et al., arXiv 2409.03643), on the symbol boxes of the built-in typesetter.

Both formulas are typeset, the symbols of one are matched to those of the other, and the score is the F1 of the match.
The matching costs are those of the paper's program: 1 for a different symbol, 0.05 for the distance of the positions,
0.15 for the distance in reading order. Then inconsistent matches are dropped. The paper's program measures boxes in
pictures, and drops matches with RANSAC and a tolerance of 20 pixels at 200 dpi. The boxes here are exact, so this step
is deterministic and stricter. A match is kept if all of this holds:

- Both symbols have the same size (text or script), and the kept matches are in the same order in both formulas.
- Its vertical displacement is that of most matches, within a quarter of an em of the symbol's size. Runs of at least
  `RUN` matches with a common displacement are kept too, such as the rows of an array below a missing row; but not runs
  of scripts alone, because a subscript must not match a superscript.
- Its horizontal displacement is that of most matches in its segment: a line, up to the next symbol without a match,
  because a missing symbol moves what follows by its width. Runs with a common displacement are kept here too, because
  spaces are not symbols. Up to five passes look for such runs, as in the paper's program.
"""

from __future__ import annotations

import bisect
import functools
import itertools

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from data.latex.symbol_boxes import SymbolBoxes, symbol_boxes
from data.spelling import normal_form
from im2latex.tokenizer import FormulaError

SYMBOL_COST, POSITION_COST, ORDER_COST = 1.0, 0.05, 0.15
# Allowed distance of a symbol from its expected position, em of its own size; the narrowest symbols are wider.
TOLERANCE = 0.25
# Symbols with a greater vertical distance are in different lines, em.
LINE = 0.5
PASSES, RUN = 5, 3
# F1 is summed as an integer number of parts; 1.0 is this many.
PARTS = 1_000_000
_SAME_SIZE = 0.05
# A formula with more symbols counts as one that cannot be typeset: matching needs memory for the square of them.
MAX_SYMBOLS = 1_000


def cdm_statistics(reference: str, prediction: str) -> np.ndarray:
    """Computes the statistics of one pair of formulas for CDM.

    Returns:
        int64 (5,): F1 * `PARTS`, `PARTS`; 1 if F1 is 1 else 0, 1; 1 if the pair is left out else 0. A pair is left out
        if the reference cannot be typeset, and its other statistics are 0. If the prediction cannot be, F1 is 0.
    """
    target = boxes_of(reference)
    if target is None:
        return np.array([0, 0, 0, 0, 1], np.int64)
    read = boxes_of(prediction)
    score = 0.0 if read is None else f1(target, read)
    return np.array([round(score * PARTS), PARTS, score == 1, 1, 0], np.int64)


@functools.lru_cache(8192)
def boxes_of(latex: str) -> SymbolBoxes | None:
    """Typesets a formula in its normal form; returns None if the built-in typesetter cannot."""
    try:
        boxes = symbol_boxes(normal_form(latex).split())
    except (FormulaError, ValueError, RecursionError):
        return None
    return boxes if 0 < len(boxes.labels) <= MAX_SYMBOLS else None


def f1(target: SymbolBoxes, read: SymbolBoxes) -> float:
    """Returns 2 * matches / (symbols of the target + symbols of the prediction), from 0 to 1."""
    if target.labels == read.labels and np.array_equal(target.corners, read.corners):
        return 1.0
    return 2 * int(matches(target, read).sum()) / (len(target.labels) + len(read.labels))


def matches(target: SymbolBoxes, read: SymbolBoxes) -> np.ndarray:
    """Matches the symbols of two formulas. Returns which symbols of the target have a match, bool (symbols,)."""
    ids: dict[object, int] = {}
    target_ids, read_ids = (
        np.array([ids.setdefault(label, len(ids)) for label in boxes.labels]) for boxes in (target, read)
    )
    cost = SYMBOL_COST * (target_ids[:, None] != read_ids)
    cost = cost + POSITION_COST * _distances(_relative(target.corners), _relative(read.corners))
    cost += ORDER_COST * _distances(_order(target_ids), _order(read_ids))
    rows, columns = linear_sum_assignment(cost)
    same_symbol = target_ids[rows] == read_ids[columns]
    same_symbol &= np.abs(target.sizes[rows] - read.sizes[columns]) < _SAME_SIZE
    rows, columns = rows[same_symbol], columns[same_symbol]
    in_order = _longest_increasing(columns)
    rows, columns = rows[in_order], columns[in_order]
    target_corners, read_corners = target.corners[rows], read.corners[columns]
    displacement = _centres(read_corners) - _centres(target_corners)
    # A stretchy symbol (a fraction bar, a bracket) may be longer on both sides in the other formula.
    slack = TOLERANCE * target.sizes[rows, None] + np.abs(_extents(target_corners) - _extents(read_corners)) / 2
    kept = _consistent(displacement[:, 1], slack[:, 1], target.sizes[rows] > 1 - _SAME_SIZE)
    any_size = np.ones(len(rows), bool)
    for start, stop in itertools.pairwise(_edges(rows, columns, _centres(target_corners)[:, 1])):
        segment = slice(start, stop)
        kept[segment] &= _consistent(displacement[segment, 0], slack[segment, 0], any_size[segment])
    matched = np.zeros(len(target.labels), bool)
    matched[rows[kept]] = True
    return matched


def _edges(rows: np.ndarray, columns: np.ndarray, height: np.ndarray) -> list[int]:
    """Returns the boundaries of the segments: after a symbol without a match, and where a new line begins."""
    if not len(rows):
        return []
    begins = (np.diff(rows) > 1) | (np.diff(columns) > 1) | (np.abs(np.diff(height)) > LINE)
    return [0, *(np.flatnonzero(begins) + 1).tolist(), len(rows)]


def _relative(corners: np.ndarray) -> np.ndarray:
    """Scales corners to the formula's width and height, 0 to 1."""
    start = corners[:, :2].min(axis=0)
    size = np.maximum(corners[:, 2:].max(axis=0) - start, 1e-9)
    return (corners - np.tile(start, 2)) / np.tile(size, 2)


def _order(symbols: np.ndarray) -> np.ndarray:
    return (np.arange(len(symbols)) / len(symbols))[:, None]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the mean absolute difference between each row of `a` and each row of `b`, (rows of a, rows of b)."""
    return cdist(a, b, "cityblock") / a.shape[1]


def _centres(corners: np.ndarray) -> np.ndarray:
    return (corners[:, :2] + corners[:, 2:]) / 2


def _extents(corners: np.ndarray) -> np.ndarray:
    return corners[:, 2:] - corners[:, :2]


def _longest_increasing(values: np.ndarray) -> list[int]:
    """Returns the indices of a longest increasing subsequence."""
    tails: list[int] = []
    last: list[int] = []
    previous: list[int] = []
    for index, value in enumerate(values.tolist()):
        length = bisect.bisect_left(tails, value)
        previous.append(last[length - 1] if length else -1)
        tails[length : length + 1] = [value]
        last[length : length + 1] = [index]
    chosen = []
    index = last[-1] if last else -1
    while index >= 0:
        chosen.append(index)
        index = previous[index]
    return chosen[::-1]


def _consistent(moved: np.ndarray, slack: np.ndarray, may_move: np.ndarray) -> np.ndarray:
    """Returns which matches have a displacement that enough others share, bool (matches,).

    Args:
        moved: float64 (matches,): displacement of the symbol between the two formulas, em.
        slack: float64 (matches,): allowed difference of displacements, em.
        may_move: bool (matches,): a run with another displacement than most needs at least one such match.
    """
    if len(moved) < 2:
        return np.ones(len(moved), bool)
    # Displacements within 0.05 em give the same result, so one of them is tried.
    first = np.unique(np.round(moved / 0.05), return_index=True)[1]
    agrees = np.abs(moved[first, None] - moved) <= slack
    kept = agrees[agrees.sum(axis=1).argmax()]
    for _ in range(PASSES - 1):
        rows = [row for row in agrees & ~kept if np.count_nonzero(row) >= RUN]
        best = max((_runs(row, may_move) for row in rows), key=np.count_nonzero, default=None)
        if best is None or not best.any():
            break
        kept = kept | best
    return kept


def _runs(agrees: np.ndarray, may_move: np.ndarray) -> np.ndarray:
    """Keeps the runs of `RUN` or more true values that contain a match that `may_move`. Returns bool (matches,)."""
    kept = np.zeros(len(agrees), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], agrees, [False]]).astype(int)))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - start >= RUN and may_move[start:stop].any():
            kept[start:stop] = True
    return kept
