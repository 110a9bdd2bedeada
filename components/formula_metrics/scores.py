"""Scores of formulas from sums over examples, without TensorFlow.

A score has two parts: the statistics of one pair of formulas, integers that can be summed over any set of examples in
any order, and a function from such a sum to the score's value. `statistics` computes the statistics of all scores at
once, and `SCORES` says which columns belong to which score. Formulas are tokens separated by white space.

BLEU, edit similarity and the image scores are the measures of the paper (Deng et al. 2017, section 5), defined as in
im2markup's evaluation scripts unless stated otherwise. For the image scores both formulas are drawn. A pixel is ink if
its value is at most 128, and the lower image is padded with white at the bottom. If either formula cannot be drawn, the
pair does not match. CDM compares symbols and their positions; see `components.formula_metrics.cdm`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein
from sacrebleu.metrics.bleu import BLEU, MAX_NGRAM_ORDER
from sacrebleu.metrics.helpers import extract_all_word_ngrams

from components.formula_metrics.cdm import cdm_statistics
from data.latex.rendering import render_all
from data.spelling import NORMAL, respell
from im2latex.calibration import BINS, bins_of, expected_calibration_error

# im2markup draws at 12 pt and 200 dpi, which is 240 dpi at the 10 pt used here. The tolerances below are in pixels. Of
# the formulas with one wrong symbol, one of five still counts as a match; at 100 dpi it would be four of five.
DPI = 240
INK = 128
# Columns that differ in fewer pixels count as equal.
SAME_COLUMN = 5
# Images with this many differing columns in a row do not match.
MISMATCH = 5
# Probabilities are counted in these units.
MILLIONTH = 1_000_000
# Pairs of formulas drawn at once. A real formula's picture has 35 KB on average, so they need about 150 MB.
PAIRS_AT_ONCE = 2048


class Score(NamedTuple):
    """A score of predictions."""

    name: str  # in rules, configuration and files
    title: str  # for people
    heading: str  # of its column in a table of 80 characters; "" if the table leaves it out
    help: str
    part: slice  # its columns in the statistics
    value: Callable[[np.ndarray], float]  # from the sum of these columns to the score

    @property
    def is_count(self) -> bool:
        """Whether the score is a number of examples rather than a value from 0 to 1."""
        return self.value is first_count

    @property
    def is_better_low(self) -> bool:
        """Whether it is better the lower; else better the higher."""
        return self.is_count or self.value is calibration_error

    def shown(self, value: float) -> str:
        """Formats a value for people."""
        return f"{value:,.0f}" if self.is_count else f"{value:.3f}"


def statistics(
    references: Sequence[str],
    predictions: Sequence[str],
    renderer: str | None = None,
    progress: Callable[[int], None] | None = None,
    spelling: str = NORMAL,
    probabilities: Sequence[float] | None = None,
) -> np.ndarray:
    """Computes the statistics of all scores for pairs of formulas.

    Formulas are drawn on all cores, `PAIRS_AT_ONCE` pairs at a time, and each distinct formula of these pairs once.
    Only their pictures are in memory.

    Args:
        references: the correct formulas.
        predictions: the model's formulas, one for each reference; "" for an empty prediction.
        renderer: as in `data.latex.rendering`.
        progress: called with the number of pairs drawn since the last call.
        spelling: spelling in which both sides are compared token by token, as in `data.spelling.respell`. It does not
            affect how they are drawn.
        probabilities: the model's probability of each prediction, 0 to 1; None if it gives none.

    Returns:
        int64 (pairs, WIDTH).

    Raises:
        ValueError: the numbers of references, predictions and probabilities differ.
        UserError: the renderer is unknown or not installed, or the spelling is unknown.
    """
    pairs = list(zip(references, predictions, strict=True))
    probability_of = [None] * len(pairs) if probabilities is None else probabilities
    # Cached, because each reference is repeated for every model, and predictions are often equal to it.
    respelled = functools.lru_cache(PAIRS_AT_ONCE)(functools.partial(respell, spelling=spelling))
    formulas_drawn = 0

    def report_pairs(formulas: int) -> None:
        nonlocal formulas_drawn
        before, formulas_drawn = formulas_drawn, formulas_drawn + formulas
        if progress is not None:
            progress(formulas_drawn // 2 - before // 2)

    rows: list[np.ndarray] = []
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        chunk = pairs[start : start + PAIRS_AT_ONCE]
        pictures = render_all(list(itertools.chain(*chunk)), DPI, 0, renderer, progress=report_pairs)
        for pair, *images in zip(chunk, pictures[::2], pictures[1::2], strict=True):
            of_text = text_statistics(*map(respelled, pair))
            is_right = bool(SCORES["exact_match"].value(of_text[SCORES["exact_match"].part]))
            of_probability = calibration_statistics(probability_of[len(rows)], is_right)
            rows.append(np.concatenate([of_text, image_statistics(*images), cdm_statistics(*pair), of_probability]))
    return np.array(rows, np.int64).reshape(len(pairs), WIDTH)


def values(statistics: np.ndarray) -> dict[str, float]:
    """Returns every score by name, from int64 (examples, WIDTH) statistics; without examples all scores are 0."""
    total = statistics.sum(axis=0)
    return {name: score.value(total[score.part]) for name, score in SCORES.items()}


# --- text -------------------------------------------------------------------------------------


def text_statistics(reference: str, prediction: str) -> np.ndarray:
    """Computes the statistics of the scores on tokens.

    Returns:
        int64 (15,): `bleu_statistics` (9), `exact_match_statistics` (2), Levenshtein distance over tokens and length of
        the longer formula, number of tokens that are equal at the same position and length of the longer formula.
    """
    tokens, read = reference.split(), prediction.split()
    length = max(len(tokens), len(read))
    equal = sum(map(str.__eq__, tokens, read))
    return np.array(
        [
            *bleu_statistics(reference, prediction),
            *exact_match_statistics(reference, prediction),
            *(Levenshtein.distance(tokens, read), length),
            *(equal, length),
        ],
        np.int64,
    )


def bleu_statistics(reference: str, prediction: str) -> np.ndarray:
    """Computes the statistics of one pair for corpus BLEU (Papineni et al. 2002, section 2).

    Returns:
        int64 (9,): for n = 1 to 4 the matched n-grams, each counted at most as often as it occurs in the reference; for
        n = 1 to 4 the n-grams of the prediction; the number of tokens of the reference.
    """
    in_reference, reference_length = extract_all_word_ngrams(reference, 1, MAX_NGRAM_ORDER)
    in_prediction, _ = extract_all_word_ngrams(prediction, 1, MAX_NGRAM_ORDER)
    statistics = np.zeros(2 * MAX_NGRAM_ORDER + 1, np.int64)
    for ngram, count in in_prediction.items():
        statistics[len(ngram) - 1] += min(count, in_reference[ngram])
        statistics[MAX_NGRAM_ORDER + len(ngram) - 1] += count
    statistics[-1] = reference_length
    return statistics


def exact_match_statistics(reference: str, prediction: str) -> np.ndarray:
    """Returns int64 (2,): 1 if both have the same tokens, else 0; and 1, the number of pairs."""
    return np.array([reference.split() == prediction.split(), 1], np.int64)


def calibration_statistics(probability: float | None, is_right: bool) -> np.ndarray:
    """Counts what the calibration error needs of one prediction.

    Returns:
        (3 * BINS,) int64: for each bin of probability, 1 if the prediction is in it, whether it is right as well, and
        its probability in millionths; only 0 without a probability.
    """
    statistics = np.zeros((3, BINS), np.int64)
    if probability is not None:
        statistics[:, bins_of(probability)] = 1, is_right, round(MILLIONTH * float(probability))
    return statistics.reshape(-1)


# --- images -----------------------------------------------------------------------------------


def image_statistics(reference: np.ndarray | None, prediction: np.ndarray | None) -> np.ndarray:
    """Compares two drawn formulas column by column.

    Args:
        reference: uint8 (H, W), 255 is white; None if the formula cannot be drawn.
        prediction: likewise.

    Returns:
        int64 (8,): whether the images match, and 1; whether they match without their blank columns, and 1; Levenshtein
        distance over columns, and the number of columns of the wider image; whether the prediction could not be drawn,
        and whether the reference could not. If one image is missing, the distance is the width of the other.
    """
    missing = prediction is None, reference is None
    if reference is None or prediction is None:
        width = sum(image.shape[1] for image in (reference, prediction) if image is not None)
        return np.array([0, 1, 0, 1, width, width, *missing], np.int64)
    height = max(reference.shape[0], prediction.shape[0])
    columns = np.concatenate([_columns(reference, height), _columns(prediction, height)])
    # Equal columns get equal numbers, in order of first occurrence, from 0.
    seen: dict[bytes, int] = {}
    numbers = np.array([seen.setdefault(column.tobytes(), len(seen)) for column in columns])
    target, read = np.split(numbers, [reference.shape[1]])
    distance = Levenshtein.distance(target.tolist(), read.tolist())
    match = match_without_blanks = distance == 0
    if distance > 0:
        distinct = columns[np.unique(numbers, return_index=True)[1]]
        alike, ink = _alike(distinct), distinct.any(axis=1)
        match = _match(target, read, _symbols(alike))
        match_without_blanks = _match(target[ink[target]], read[ink[read]], _symbols(alike & ink & ink[:, None]))
    longer = max(len(target), len(read))
    return np.array([match, 1, match_without_blanks, 1, distance, longer, *missing], np.int64)


def _columns(image: np.ndarray, height: int) -> np.ndarray:
    """Returns the ink of each column, bool (W, height)."""
    return np.pad(image <= INK, ((0, height - image.shape[0]), (0, 0))).T


def _alike(columns: np.ndarray) -> np.ndarray:
    """bool (W, H) -> bool (W, W): which pairs of columns differ in fewer than `SAME_COLUMN` pixels."""
    ink = columns.astype(np.float32)  # counts of pixels are exact in float32
    count = ink.sum(axis=1)
    return count[:, None] + count - 2 * ink @ ink.T < SAME_COLUMN


def _symbols(alike: np.ndarray) -> np.ndarray:
    """bool (W, W) -> int64 (W,): gives similar columns the same symbol, the index of the first of them."""
    symbols = np.full(len(alike), -1)
    for i in range(len(alike)):
        if symbols[i] < 0:
            symbols[alike[i] & (symbols < 0)] = i
    return symbols


def _match(target: np.ndarray, read: np.ndarray, symbols: np.ndarray) -> bool:
    """Returns whether two images match: fewer than `MISMATCH` columns differ in a row.

    The columns, int64 (W,), are aligned by Levenshtein distance over their symbols. A run of differing columns lies
    between two columns that agree, and its length is the number of columns in the image that has more of them there.
    im2markup's script differs in two ways. It counts the target's columns alone, so extra columns in the prediction
    never count; and it counts substitutions, deletions and insertions in one place as three runs.
    """
    target_end = read_end = 0
    # The last block is empty, at the end of both.
    for block in Levenshtein.opcodes(symbols[target].tolist(), symbols[read].tolist()).as_matching_blocks():
        if max(block.a - target_end, block.b - read_end) >= MISMATCH:
            return False
        target_end, read_end = block.a + block.size, block.b + block.size
    return True


# --- values of sums ---------------------------------------------------------------------------


def bleu(statistics: np.ndarray) -> float:
    """Returns corpus BLEU-4, from 0 to 1, without smoothing, from summed `bleu_statistics`.

    It is sacrebleu's `corpus_bleu(..., tokenize="none", smooth_method="none") / 100`: 0 if the predictions have no
    4-gram in common with their references.
    """
    *ngrams, reference_length = statistics.tolist()
    matches, totals = ngrams[:MAX_NGRAM_ORDER], ngrams[MAX_NGRAM_ORDER:]
    return BLEU.compute_bleu(matches, totals, totals[0], reference_length).score / 100


def share(statistics: np.ndarray) -> float:
    """Returns part / whole, from 0 to 1, of summed (part, whole); 0 if whole is 0."""
    part, whole = statistics.tolist()
    return part / max(whole, 1)


def similarity(statistics: np.ndarray) -> float:
    """Returns 1 - distance / length, from 0 to 1, of summed (distance, length); 0 if length is 0."""
    distance, length = statistics.tolist()
    return (length - distance) / max(length, 1)


def first_count(statistics: np.ndarray) -> float:
    """Returns the first sum, as a float."""
    return float(statistics[0])


def calibration_error(statistics: np.ndarray) -> float:
    """Returns the expected calibration error, 0 to 1, from summed `calibration_statistics`."""
    count, right, millionths = statistics.reshape(3, BINS)
    return expected_calibration_error(count, right, millionths / MILLIONTH)


def _table(*rows: tuple[str, str, str, int, Callable[[np.ndarray], float], str]) -> dict[str, Score]:
    ends = list(itertools.accumulate(width for _, _, _, width, _, _ in rows))
    return {
        name: Score(name, title, heading, text, slice(end - width, end), value)
        for (name, title, heading, width, value, text), end in zip(rows, ends, strict=True)
    }


# In the order in which tables show them, which is also that of the columns of the statistics.
SCORES = _table(
    ("bleu", "BLEU", "BLEU", 2 * MAX_NGRAM_ORDER + 1, bleu, "corpus BLEU-4 on tokens, 0 to 1"),
    ("exact_match", "exact match", "exact", 2, share, "share of formulas with every token right"),
    (
        "edit_similarity",
        "edit similarity",
        "edit",
        2,
        similarity,
        "1 - edit distance / length of the longer, on tokens",
    ),
    ("token_accuracy", "token accuracy", "token", 2, share, "share of tokens that are right at their position"),
    ("image_match", "image match", "image", 2, share, "share of formulas that look right when drawn"),
    (
        "image_match_without_blanks",
        "image match without blanks",
        "image ink",
        2,
        share,
        "share of formulas that look right when drawn, blank columns left out",
    ),
    (
        "image_edit_similarity",
        "image edit similarity",
        "image edit",
        2,
        similarity,
        "1 - edit distance / width of the wider, on columns of pixels",
    ),
    ("unrendered", "unrendered", "not drawn", 2, first_count, "predictions that cannot be drawn; lower is better"),
    ("cdm", "CDM", "CDM", 2, share, "mean F1 of the symbols that are right and in the right place"),
    ("cdm_exp_rate", "ExpRate@CDM", "exp rate", 2, share, "share of formulas with a CDM of 1"),
    ("cdm_left_out", "left out of CDM", "", 1, first_count, "references that cannot be typeset; lower is better"),
    (
        "calibration_error",
        "calibration error",
        "",
        3 * BINS,
        calibration_error,
        "expected calibration error of the probabilities; lower is better",
    ),
)
WIDTH = max(score.part.stop for score in SCORES.values())
