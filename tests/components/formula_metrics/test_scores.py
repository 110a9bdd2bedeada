from __future__ import annotations

import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from components.formula_metrics import scores

# Few tokens, so that n-grams repeat; white space as it comes.
formulas = st.lists(st.sampled_from(["x", "2", "^", "{", "}", r"\frac", ".", "ä"]), max_size=12).flatmap(
    lambda tokens: st.sampled_from([" ".join(tokens), "  ".join(tokens), " " + " ".join(tokens) + " "])
)
corpora = st.lists(st.tuples(formulas, formulas), min_size=1, max_size=8)


def corpus_bleu(pairs: list[tuple[str, str]]) -> float:
    return scores.bleu(sum(scores.bleu_statistics(*pair) for pair in pairs))


def sacrebleu_of(pairs: list[tuple[str, str]]) -> float:
    references, predictions = zip(*pairs, strict=True)
    options = {"tokenize": "none", "force": True, "smooth_method": "none", "use_effective_order": False}
    return sacrebleu.corpus_bleu(predictions, [references], **options).score / 100


@given(corpora)
def test_bleu_is_sacrebleus(pairs):
    assert corpus_bleu(pairs) == pytest.approx(sacrebleu_of(pairs), abs=1e-6)


@given(st.lists(formulas, min_size=1), st.randoms(use_true_random=False))
def test_bleu_of_nearly_right_predictions_is_sacrebleus(references, random):
    pairs = [(text, " ".join(token for token in text.split() if random.random() < 0.9)) for text in references]
    assert corpus_bleu(pairs) == pytest.approx(sacrebleu_of(pairs), abs=1e-6)


def test_bleu_of_a_hand_worked_corpus():
    pairs = [("a b c d e f", "a b c d x"), ("a a b b", "a a a b b")]
    # Of 10 tokens 4 + 4 match (the third a of the second finds no partner), of 8 pairs 3 + 3 (aa, ab, bb),
    # of 6 triples 2 + 2 (aab, abb), of 4 runs of four 1 + 1 (aabb). Both have 10 tokens: no brevity penalty.
    np.testing.assert_array_equal(sum(scores.bleu_statistics(*pair) for pair in pairs), [8, 6, 4, 2, 10, 8, 6, 4, 10])
    assert corpus_bleu(pairs) == pytest.approx((8 / 10 * 6 / 8 * 4 / 6 * 2 / 4) ** 0.25, abs=1e-12)


def test_short_predictions_are_penalised():
    # Every n-gram matches; 4 tokens of 6: exp(1 - 6 / 4).
    assert corpus_bleu([("a b c d e f", "a b c d")]) == pytest.approx(math.exp(-0.5), abs=1e-12)


@pytest.mark.parametrize(
    "pairs",
    [
        [("a b c d", "")],
        [("x", "x")],
        [("a b c d", "d c b a")],
        [("", "a b c d e")],
        [("", "")],
    ],
)
def test_bleu_without_a_common_run_of_four_is_zero(pairs):
    assert corpus_bleu(pairs) == 0 == sacrebleu_of(pairs)


@given(corpora)
def test_bleu_of_the_references_themselves_is_one(pairs):
    same = [(reference, reference) for reference, _ in pairs]
    expected = 1 if any(len(reference.split()) >= 4 for reference, _ in same) else 0
    assert corpus_bleu(same) == pytest.approx(expected, abs=1e-12)


def test_exact_match_is_the_share_of_equal_token_sequences():
    pairs = [("a b", "a b"), ("a b", "a  b "), ("a b", "b a"), ("a b", "ab"), ("a b", ""), ("", "")]
    assert scores.exact_match(sum(scores.exact_match_statistics(*pair) for pair in pairs)) == 3 / 6


def test_scores_of_no_examples_are_zero():
    assert scores.bleu(np.zeros(9, np.int64)) == 0
    assert scores.exact_match(np.zeros(2, np.int64)) == 0
