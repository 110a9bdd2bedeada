"""Scores of formulas from sums over examples, without TensorFlow.

Each score has two halves: the statistics of one pair of formulas, whole numbers that are added over any set of examples
in any grouping, and the value of such a sum. `statistics` counts all of them at once; `SCORES` says which columns
belong to which score. Formulas are tokens separated by white space.

BLEU, edit similarity and those of images are the measures of the paper (Deng et al. 2017, section 5), defined as in
im2markup's evaluation scripts where nothing else is said. For images both formulas are drawn; a pixel is ink if it is
at most 128, and the lower image is filled up with white below. A formula that cannot be drawn, on either side, is a
miss. CDM compares symbols and where they stand; see `components.formula_metrics.cdm`.
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
from trainer_module.calibration import BINS, bins_of

# im2markup draws at 12 pt and 200 dpi for this; here a formula is of 10 pt. At 100 dpi the tolerances below, which are
# in pixels, would let four of five formulas with one wrong symbol pass as a match; so it is one of five.
DPI = 240
INK = 128
# Columns that differ in fewer pixels count as the same.
SAME_COLUMN = 5
# Images with so many differing columns in a row do not match.
MISMATCH = 5
# Probabilities are counted in these.
MILLIONTH = 1_000_000
# Pairs of formulas whose pictures are in memory together: 35 KB each in the mean of real ones, 150 MB in all.
PAIRS_AT_ONCE = 2048


class Score(NamedTuple):
    """A score: its name, what people call it, the heading of its column in a table of 80 characters ("" if none),
    what it says, its columns in the statistics, its value of their sum."""

    name: str
    title: str
    heading: str
    help: str
    part: slice
    value: Callable[[np.ndarray], float]

    @property
    def is_count(self) -> bool:
        """Whether it is a number of examples; else it is from 0 to 1."""
        return self.value is first_count

    @property
    def is_better_low(self) -> bool:
        """Whether it is better the lower; else better the higher."""
        return self.is_count or self.value is calibration_error

    def shown(self, value: float) -> str:
        """A value for people."""
        return f"{value:,.0f}" if self.is_count else f"{value:.3f}"


def statistics(
    references: Sequence[str],
    predictions: Sequence[str],
    renderer: str | None = None,
    progress: Callable[[int], None] | None = None,
    spelling: str = NORMAL,
    probabilities: Sequence[float] | None = None,
) -> np.ndarray:
    """Counts what all scores need.

    Args:
        references: the formulas that are right.
        predictions: what was read, one for each reference; "" where nothing was.
        renderer: as in `data.latex.rendering`. Formulas are drawn on all cores, of `PAIRS_AT_ONCE` pairs in a row each
            distinct one once; no more pictures are in memory than theirs.
        progress: called with the number of pairs drawn since the last call.
        spelling: in which both sides are compared token by token, as `data.spelling.respell` takes it. They are drawn
            as they are.
        probabilities: of being right, 0 to 1, one for each prediction, as the model says; None where it says none.

    Returns:
        (pairs, WIDTH) int64.

    Raises:
        ValueError: not as many predictions, or probabilities, as references.
        UserError: the renderer is unknown or not installed, or there is no such spelling.
    """
    pairs = list(zip(references, predictions, strict=True))
    given = [None] * len(pairs) if probabilities is None else probabilities
    # References come once for each model, and predictions are often right.
    respelled = functools.lru_cache(PAIRS_AT_ONCE)(functools.partial(respell, spelling=spelling))
    drawn = 0

    def tell(formulas: int) -> None:
        nonlocal drawn
        before, drawn = drawn, drawn + formulas
        if progress is not None:
            progress(drawn // 2 - before // 2)

    rows = []
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        together = pairs[start : start + PAIRS_AT_ONCE]
        pictures = render_all(list(itertools.chain(*together)), DPI, 0, renderer, progress=tell)
        for pair, *images in zip(together, pictures[::2], pictures[1::2], strict=True):
            of_text = text_statistics(*map(respelled, pair))
            is_right = bool(SCORES["exact_match"].value(of_text[SCORES["exact_match"].part]))
            of_probability = calibration_statistics(given[len(rows)], is_right)
            rows.append(np.concatenate([of_text, image_statistics(*images), cdm_statistics(*pair), of_probability]))
    return np.array(rows, np.int64).reshape(len(pairs), WIDTH)


def values(statistics: np.ndarray) -> dict[str, float]:
    """Every score, by name, of (examples, WIDTH) statistics; of no examples all are 0."""
    total = statistics.sum(axis=0)
    return {name: score.value(total[score.part]) for name, score in SCORES.items()}


# --- text -------------------------------------------------------------------------------------


def text_statistics(reference: str, prediction: str) -> np.ndarray:
    """Returns (15,) int64: `bleu_statistics`; `exact_match_statistics`; distance and length; equal tokens and length.

    The distance is Levenshtein's over tokens, the length that of the longer formula, and equal tokens are those at the
    same position.
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
    """Counts what corpus BLEU needs of one pair (Papineni et al. 2002, section 2).

    Returns:
        (9,) int64: for n from 1 to 4 the n-grams of the prediction that the reference has too,
        each at most as often as there; for n from 1 to 4 the n-grams of the prediction; the
        number of the reference's tokens.
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
    """Returns (2,) int64: 1 if the tokens of both are the same, else 0; and 1."""
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
        reference: uint8 (H, W), 255 is white; None if it cannot be drawn.
        prediction: the same.

    Returns:
        (8,) int64: whether the images match, and 1; whether they match without blank columns, and 1; the distance of
        the columns, and the columns of the wider image; whether the prediction, and whether the reference, could not be
        drawn. The distance is Levenshtein's; to an image that is missing it is the width of the other.
    """
    missing = prediction is None, reference is None
    if reference is None or prediction is None:
        width = sum(image.shape[1] for image in (reference, prediction) if image is not None)
        return np.array([0, 1, 0, 1, width, width, *missing], np.int64)
    height = max(reference.shape[0], prediction.shape[0])
    columns = np.concatenate([_columns(reference, height), _columns(prediction, height)])
    # Equal columns have equal numbers, counted from 0 in the order in which they come first.
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
    """bool (W, height): where a column has ink."""
    return np.pad(image <= INK, ((0, height - image.shape[0]), (0, 0))).T


def _alike(columns: np.ndarray) -> np.ndarray:
    """bool (W, H) -> bool (W, W): which columns differ in fewer than `SAME_COLUMN` pixels."""
    ink = columns.astype(np.float32)  # counts pixels, exactly
    count = ink.sum(axis=1)
    return count[:, None] + count - 2 * ink @ ink.T < SAME_COLUMN


def _symbols(alike: np.ndarray) -> np.ndarray:
    """bool (W, W) -> int64 (W,): each column's symbol, the first one that it is like; like none, it is a new one."""
    symbols = np.full(len(alike), -1)
    for i in range(len(alike)):
        if symbols[i] < 0:
            symbols[alike[i] & (symbols < 0)] = i
    return symbols


def _match(target: np.ndarray, read: np.ndarray, symbols: np.ndarray) -> bool:
    """Whether no run of `MISMATCH` or more columns differs when columns, int64 (W,), are aligned by their symbols.

    The alignment is Levenshtein's. A run lies between columns that agree, and is as long as what it takes of either
    image, whichever is more. im2markup's script counts what it takes of the target alone, so that whatever a prediction
    has too much passes there, and counts what is replaced, missing and too much in one place as three runs.
    """
    target_end = read_end = 0
    # The last block is empty and stands at the end of both.
    for block in Levenshtein.opcodes(symbols[target].tolist(), symbols[read].tolist()).as_matching_blocks():
        if max(block.a - target_end, block.b - read_end) >= MISMATCH:
            return False
        target_end, read_end = block.a + block.size, block.b + block.size
    return True


# --- values of sums ---------------------------------------------------------------------------


def bleu(statistics: np.ndarray) -> float:
    """Corpus BLEU-4 of summed `bleu_statistics`, from 0 to 1, without smoothing.

    It is sacrebleu's `corpus_bleu(..., tokenize="none", smooth_method="none") / 100`: 0 where
    the predictions have no 4-gram in common with their references.
    """
    *ngrams, reference_length = statistics.tolist()
    matches, totals = ngrams[:MAX_NGRAM_ORDER], ngrams[MAX_NGRAM_ORDER:]
    return BLEU.compute_bleu(matches, totals, totals[0], reference_length).score / 100


def share(statistics: np.ndarray) -> float:
    """Of summed (part, whole): the share, from 0 to 1; 0 of nothing."""
    part, whole = statistics.tolist()
    return part / max(whole, 1)


def similarity(statistics: np.ndarray) -> float:
    """Of summed (distance, length): how much agrees, from 0 to 1; 0 of nothing."""
    distance, length = statistics.tolist()
    return (length - distance) / max(length, 1)


def first_count(statistics: np.ndarray) -> float:
    """The first of the sums."""
    return float(statistics[0])


def calibration_error(statistics: np.ndarray) -> float:
    """Of summed `calibration_statistics`: the expected calibration error (Naeini et al. 2015), 0 to 1; 0 of nothing."""
    counts, right, millionths = statistics.reshape(3, BINS)
    return float(np.abs(right - millionths / MILLIONTH).sum() / max(counts.sum(), 1))


def _table(*rows: tuple[str, str, str, int, Callable[[np.ndarray], float], str]) -> dict[str, Score]:
    ends = list(itertools.accumulate(width for _, _, _, width, _, _ in rows))
    return {
        name: Score(name, title, heading, text, slice(end - width, end), value)
        for (name, title, heading, width, value, text), end in zip(rows, ends, strict=True)
    }


# In the order of tables, and of the columns of the statistics.
SCORES = _table(
    ("bleu", "BLEU", "BLEU", 2 * MAX_NGRAM_ORDER + 1, bleu, "corpus BLEU-4 on tokens, 0 to 1"),
    ("exact_match", "exact match", "exact", 2, share, "share of formulas of which every token is right"),
    (
        "edit_similarity",
        "edit similarity",
        "edit",
        2,
        similarity,
        "1 - edit distance / length of the longer, on tokens",
    ),
    ("token_accuracy", "token accuracy", "token", 2, share, "share of tokens that are right where they stand"),
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
    ("cdm", "CDM", "CDM", 2, share, "mean F1 of the symbols that are right and where they should be"),
    ("cdm_exp_rate", "ExpRate@CDM", "exp rate", 2, share, "share of formulas of which CDM is 1"),
    ("cdm_left_out", "left out of CDM", "", 1, first_count, "references that CDM cannot set; lower is better"),
    (
        "calibration_error",
        "calibration error",
        "",
        3 * BINS,
        calibration_error,
        "how far probabilities lie from the share that is right; lower is better",
    ),
)
WIDTH = max(score.part.stop for score in SCORES.values())
