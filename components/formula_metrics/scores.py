"""Scores of formulas from sums over examples, without TensorFlow.

Each score has two halves: the statistics of one pair of formulas, a vector that is added over
any set of examples in any grouping, and the score of such a sum. Formulas are tokens separated
by white space.
"""

from __future__ import annotations

import numpy as np
from sacrebleu.metrics.bleu import BLEU, MAX_NGRAM_ORDER
from sacrebleu.metrics.helpers import extract_all_word_ngrams


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


def bleu(statistics: np.ndarray) -> float:
    """Corpus BLEU-4 of summed `bleu_statistics`, from 0 to 1, without smoothing.

    It is sacrebleu's `corpus_bleu(..., tokenize="none", smooth_method="none") / 100`: 0 where
    the predictions have no 4-gram in common with their references.
    """
    *ngrams, reference_length = statistics.tolist()
    matches, totals = ngrams[:MAX_NGRAM_ORDER], ngrams[MAX_NGRAM_ORDER:]
    return BLEU.compute_bleu(matches, totals, totals[0], reference_length).score / 100


def exact_match_statistics(reference: str, prediction: str) -> np.ndarray:
    """Returns (2,) int64: 1 if the tokens of both are the same, else 0; and 1."""
    return np.array([reference.split() == prediction.split(), 1], np.int64)


def exact_match(statistics: np.ndarray) -> float:
    """Share of the examples predicted exactly, from 0 to 1, of summed `exact_match_statistics`; 0 of none."""
    matches, examples = statistics.tolist()
    return matches / max(examples, 1)
