"""CDM, Character Detection Matching (Wang et al., arXiv 2409.03643), from where the built-in typesetter puts symbols.

Both formulas are set, the symbols of one are matched to those of the other, and the score is the F1 of the matching.
The costs of a match are those of the paper's program: 1 for another symbol, 0.05 for its place in the picture, 0.15 for
its place in the order. Then matches that are not consistent with the others are dropped. The paper's program finds them
with RANSAC and 20 pixels of tolerance in pictures of 200 dpi, as its boxes are measured in pictures; boxes here are
exact, so this step is deterministic and stricter:

- A symbol is of the same size, text or script, and stands in the same order.
- It stands as far up or down as most do, within a quarter of an em of its own size. Runs of at least `RUN` matches that
  are all moved up or down by the same, as the rows of an array below a missing one, are right too; but not those of
  scripts alone, since an index is no exponent.
- It stands as far to the side as most of its neighbours do: those in the same line up to the next symbol that has no
  match, since what follows a missing symbol is moved by its width. Runs that are moved by the same are right here too,
  since spaces are no symbols. There are up to five passes for them, as in the paper's program.
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
# How far from where it belongs a symbol may stand, em of its own size; the narrowest symbols are wider than that.
TOLERANCE = 0.25
# Symbols that are further up or down than that are in another line, em.
LINE = 0.5
PASSES, RUN = 5, 3
# F1 is added in this many parts.
PARTS = 1_000_000
_SAME_SIZE = 0.05
# A formula with more is taken for one that cannot be set: matching takes the square of it in memory.
MAX_SYMBOLS = 1_000


def cdm_statistics(reference: str, prediction: str) -> np.ndarray:
    """Counts what CDM needs of a pair.

    Returns:
        (5,) int64: F1 in parts of `PARTS`, and `PARTS`; 1 if F1 is 1, and 1; and whether the pair was left out: all
        others are 0 where the reference cannot be set. Where the prediction cannot be set, F1 is 0.
    """
    target = boxes_of(reference)
    if target is None:
        return np.array([0, 0, 0, 0, 1], np.int64)
    read = boxes_of(prediction)
    score = 0.0 if read is None else f1(target, read)
    return np.array([round(score * PARTS), PARTS, score == 1, 1, 0], np.int64)


@functools.lru_cache(8192)
def boxes_of(latex: str) -> SymbolBoxes | None:
    """The symbols of a formula in its normal form, or None where the built-in typesetter cannot set it."""
    try:
        boxes = symbol_boxes(normal_form(latex).split())
    except (FormulaError, ValueError, RecursionError):
        return None
    return boxes if 0 < len(boxes.labels) <= MAX_SYMBOLS else None


def f1(target: SymbolBoxes, read: SymbolBoxes) -> float:
    """2 * matches / (symbols of one + symbols of the other), from 0 to 1."""
    if target.labels == read.labels and np.array_equal(target.corners, read.corners):
        return 1.0
    return 2 * int(matches(target, read).sum()) / (len(target.labels) + len(read.labels))


def matches(target: SymbolBoxes, read: SymbolBoxes) -> np.ndarray:
    """Which symbols of the target are found in the other formula, bool (symbols,)."""
    number: dict[object, int] = {}
    of_target, of_read = (
        np.array([number.setdefault(label, len(number)) for label in boxes.labels]) for boxes in (target, read)
    )
    cost = SYMBOL_COST * (of_target[:, None] != of_read)
    cost = cost + POSITION_COST * _distances(_relative(target.corners), _relative(read.corners))
    cost += ORDER_COST * _distances(_order(of_target), _order(of_read))
    rows, columns = linear_sum_assignment(cost)
    alike = of_target[rows] == of_read[columns]
    alike &= np.abs(target.sizes[rows] - read.sizes[columns]) < _SAME_SIZE
    rows, columns = rows[alike], columns[alike]
    in_order = _longest_increasing(columns)
    rows, columns = rows[in_order], columns[in_order]
    at, read_at = target.corners[rows], read.corners[columns]
    moved = _centres(read_at) - _centres(at)
    # What stretches (a fraction's bar, a bracket) may be longer there on both sides.
    slack = TOLERANCE * target.sizes[rows, None] + np.abs(_extents(at) - _extents(read_at)) / 2
    kept = _consistent(moved[:, 1], slack[:, 1], target.sizes[rows] > 1 - _SAME_SIZE)
    anywhere = np.ones(len(rows), bool)
    for start, stop in itertools.pairwise(_edges(rows, columns, _centres(at)[:, 1])):
        part = slice(start, stop)
        kept[part] &= _consistent(moved[part, 0], slack[part, 0], anywhere[part])
    found = np.zeros(len(target.labels), bool)
    found[rows[kept]] = True
    return found


def _edges(rows: np.ndarray, columns: np.ndarray, height: np.ndarray) -> list[int]:
    """Where the places of symbols in a line are compared anew: behind what has no match, and in another line."""
    if not len(rows):
        return []
    anew = (np.diff(rows) > 1) | (np.diff(columns) > 1) | (np.abs(np.diff(height)) > LINE)
    return [0, *(np.flatnonzero(anew) + 1).tolist(), len(rows)]


def _relative(corners: np.ndarray) -> np.ndarray:
    """Corners as shares of the picture's width and height."""
    start = corners[:, :2].min(axis=0)
    size = np.maximum(corners[:, 2:].max(axis=0) - start, 1e-9)
    return (corners - np.tile(start, 2)) / np.tile(size, 2)


def _order(symbols: np.ndarray) -> np.ndarray:
    return (np.arange(len(symbols)) / len(symbols))[:, None]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The mean absolute difference of each row of one to each of the other."""
    return cdist(a, b, "cityblock") / a.shape[1]


def _centres(corners: np.ndarray) -> np.ndarray:
    return (corners[:, :2] + corners[:, 2:]) / 2


def _extents(corners: np.ndarray) -> np.ndarray:
    return corners[:, 2:] - corners[:, :2]


def _longest_increasing(values: np.ndarray) -> list[int]:
    """The places of a longest increasing subsequence."""
    tails: list[int] = []
    places: list[int] = []
    before: list[int] = []
    for place, value in enumerate(values.tolist()):
        at = bisect.bisect_left(tails, value)
        before.append(places[at - 1] if at else -1)
        tails[at : at + 1] = [value]
        places[at : at + 1] = [place]
    found = []
    place = places[-1] if places else -1
    while place >= 0:
        found.append(place)
        place = before[place]
    return found[::-1]


def _consistent(moved: np.ndarray, slack: np.ndarray, may_move: np.ndarray) -> np.ndarray:
    """Which matches, in order, are where the others let one expect them.

    Args:
        moved: float64 (matches,): how far the symbol stands from there in the other formula, em.
        slack: float64 (matches,): by how much that may differ, em.
        may_move: bool (matches,): one of a run has to be so if the run is moved otherwise than most.
    """
    if len(moved) < 2:
        return np.ones(len(moved), bool)
    # Displacements that are nearly the same lead to the same; the first of them stands for all.
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
    """What of bool (matches,) is in runs of `RUN` or more that may be moved together."""
    found = np.zeros(len(agrees), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], agrees, [False]]).astype(int)))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - start >= RUN and may_move[start:stop].any():
            found[start:stop] = True
    return found
