from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from components.formula_metrics import scores
from data.latex.rendering import render, render_all
from im2latex.errors import UserError
from tests.components.formula_metrics import naive

# Few tokens, so that n-grams repeat; any white space.
formulas = st.lists(st.sampled_from(["x", "2", "^", "{", "}", r"\frac", ".", "ä"]), max_size=12).flatmap(
    lambda tokens: st.sampled_from([" ".join(tokens), "  ".join(tokens), " " + " ".join(tokens) + " "])
)
corpora = st.lists(st.tuples(formulas, formulas), min_size=1, max_size=8)


def text_values(pairs: list[tuple[str, str]]) -> dict[str, float]:
    """Computes every score that needs no images."""
    total = np.sum([scores.text_statistics(*pair) for pair in pairs], axis=0)
    return {
        name: score.value(total[score.part]) for name, score in scores.SCORES.items() if score.part.stop <= len(total)
    }


def corpus_bleu(pairs: list[tuple[str, str]]) -> float:
    return text_values(pairs)["bleu"]


def sacrebleu_of(pairs: list[tuple[str, str]]) -> float:
    references, predictions = zip(*pairs, strict=True)
    options = {"tokenize": "none", "force": True, "smooth_method": "none", "use_effective_order": False}
    return sacrebleu.corpus_bleu(predictions, [references], **options).score / 100


# --- text -------------------------------------------------------------------------------------


@given(corpora)
def test_bleu_equals_sacrebleu(pairs):
    assert corpus_bleu(pairs) == pytest.approx(sacrebleu_of(pairs), abs=1e-6)


@given(st.lists(formulas, min_size=1), st.randoms(use_true_random=False))
def test_bleu_of_nearly_right_predictions_equals_sacrebleu(references, random):
    pairs = [(text, " ".join(token for token in text.split() if random.random() < 0.9)) for text in references]
    assert corpus_bleu(pairs) == pytest.approx(sacrebleu_of(pairs), abs=1e-6)


def test_bleu_of_a_hand_worked_corpus():
    pairs = [("a b c d e f", "a b c d x"), ("a a b b", "a a a b b")]
    # Matches: 4 + 4 of 10 tokens (the third a of the second formula has none), 3 + 3 of 8 pairs (aa, ab, bb), 2 + 2 of
    # 6 triples (aab, abb), 1 + 1 of 4 quadruples (aabb). Both have 10 tokens, so there is no brevity penalty.
    np.testing.assert_array_equal(sum(scores.bleu_statistics(*pair) for pair in pairs), [8, 6, 4, 2, 10, 8, 6, 4, 10])
    assert corpus_bleu(pairs) == pytest.approx((8 / 10 * 6 / 8 * 4 / 6 * 2 / 4) ** 0.25, abs=1e-12)


def test_short_predictions_are_penalised():
    # Every n-gram matches; the brevity penalty for 4 tokens instead of 6 is exp(1 - 6 / 4).
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
def test_bleu_without_a_common_4_gram_is_zero(pairs):
    assert corpus_bleu(pairs) == 0 == sacrebleu_of(pairs)


@given(corpora)
def test_bleu_of_the_references_themselves_is_one(pairs):
    same = [(reference, reference) for reference, _ in pairs]
    expected = 1 if any(len(reference.split()) >= 4 for reference, _ in same) else 0
    assert corpus_bleu(same) == pytest.approx(expected, abs=1e-12)


def test_exact_match_is_the_share_of_equal_token_sequences():
    pairs = [("a b", "a b"), ("a b", "a  b "), ("a b", "b a"), ("a b", "ab"), ("a b", ""), ("", "")]
    assert text_values(pairs)["exact_match"] == 3 / 6


@given(corpora)
def test_edit_similarity_and_token_accuracy_equal_a_naive_calculation(pairs):
    split = [(reference.split(), prediction.split()) for reference, prediction in pairs]
    length = sum(max(map(len, pair)) for pair in split)
    distance = sum(naive.distance(*pair) for pair in split)
    equal = sum(a == b for pair in split for a, b in zip(*pair, strict=False))
    text_scores = text_values(pairs)
    assert text_scores["edit_similarity"] == pytest.approx(1 - distance / length if length else 0)
    assert text_scores["token_accuracy"] == pytest.approx(equal / length if length else 0)


def test_edit_similarity_and_token_accuracy_of_hand_worked_corpora():
    # An extra token at the front is one edit of 4, but moves all four tokens.
    assert text_values([("a b c", "x a b c")]) | {"bleu": 0} == {
        "bleu": 0, "exact_match": 0, "edit_similarity": 3 / 4, "token_accuracy": 0
    }  # fmt: skip
    # Tokens are compared, not letters; non-ASCII letters are allowed.
    assert text_values([(r"\alpha", r"\alpho"), ("ä", "ä")])["edit_similarity"] == 1 / 2
    # Sums over the corpus, not means over formulas: 1 of 1 + 3 and 3 of 3 + 1.
    assert text_values([("a", ""), ("a b c", "a b c")])["token_accuracy"] == 3 / 4
    # Neither score falls below 0.
    assert text_values([("a", "b c d")])["edit_similarity"] == 0


# --- images -----------------------------------------------------------------------------------

MATCH, MATCH_WITHOUT_BLANKS, DISTANCE, LONGER, NO_PREDICTION, NO_REFERENCE = 0, 2, 4, 5, 6, 7


def picture(*columns: str, ink: int = 0) -> np.ndarray:
    """Returns an image from its columns, each a text from top to bottom, # for ink."""
    return np.array([[ink if pixel == "#" else 255 for pixel in column] for column in columns], np.uint8).T


# Columns of ten pixels; a, b, c, d and the blank differ from each other in at least five.
A, B, C, D, BLANK = "#####.....", ".....#####", "##########", "#.#.#.#.#.", ".........."
WORD = (A, B, C, D, A, C)


def compared(target: tuple[str, ...], read: tuple[str, ...]) -> list[int]:
    return scores.image_statistics(picture(*target), picture(*read)).tolist()


def test_equal_images_match():
    assert compared(WORD, WORD) == [1, 1, 1, 1, 0, 6, 0, 0]


@pytest.mark.parametrize("run", range(1, 8))
def test_images_match_while_fewer_than_five_columns_in_a_row_differ(run):
    more = (*WORD, *(B,) * run, *WORD)
    other = (*WORD, *(D,) * run, *WORD)
    less = (*WORD, *WORD)
    expected = run < 5
    for target, read in ((more, other), (more, less), (less, more)):
        statistics = compared(target, read)
        assert statistics[MATCH] == statistics[MATCH_WITHOUT_BLANKS] == expected
        assert statistics[DISTANCE] == run


def test_runs_are_separated_by_a_matching_column():
    assert compared((*WORD, B, B, B, B, A, B, B, B, B, *WORD), (*WORD, D, D, D, D, A, D, D, D, D, *WORD))[MATCH]
    assert not compared((*WORD, B, B, B, B, B, B, B, B, *WORD), (*WORD, D, D, D, D, D, D, D, D, *WORD))[MATCH]


def test_a_run_has_the_length_of_the_image_with_more_columns():
    # Three columns become six other columns: the alignment replaces three and inserts three.
    assert not compared((*WORD, B, B, B, *WORD), (*WORD, D, D, D, D, D, D, *WORD))[MATCH]
    assert not compared((*WORD, D, D, D, D, D, D, *WORD), (*WORD, B, B, B, *WORD))[MATCH]


def test_columns_that_differ_in_fewer_than_five_pixels_are_equal():
    four, five = "####......", "#####....."
    without = (C, C, C, C, C, C, C)
    assert compared((*without, *(BLANK,) * 7), (*without, *(four,) * 7))[:1] == [1]
    assert compared((*without, *(BLANK,) * 7), (*without, *(five,) * 7))[:1] == [0]
    # The distance compares columns exactly.
    assert compared((*without, *(BLANK,) * 7), (*without, *(four,) * 7))[DISTANCE] == 7


def test_columns_are_compared_with_the_first_of_their_group():
    # Low and high differ in six pixels, the middle in three from both.
    low, middle, high = "......####", "...#######", "##########"
    assert naive.symbols([low, middle, high]) == [low, low, high]
    assert naive.symbols([middle, low, high]) == [middle] * 3
    assert compared((low,) * 6 + (middle,) * 6, (low,) * 12)[MATCH] == 1
    assert compared((low,) * 6 + (high,) * 6, (low,) * 12)[MATCH] == 0
    assert compared((middle,) + (low,) * 6, (middle,) + (high,) * 6)[MATCH] == 1


def test_blank_columns_are_left_out_of_the_second_match_only():
    wide = (A, B, *(BLANK,) * 5, C, D)
    assert compared(wide, (A, B, C, D))[:4] == [0, 1, 1, 1]
    assert compared((A, B, C, D), wide)[:4] == [0, 1, 1, 1]
    # A blank column is not similar to any other, even if they differ in fewer than five pixels.
    light = "##........"
    assert compared((BLANK, *(light,) * 6), (*(light,) * 6,))[:4] == [1, 1, 1, 1]


def test_a_blank_column_separates_two_runs_in_the_first_match_only():
    # Two runs of three columns; without the blank column between them, they are one run of six.
    target, read = ((*WORD, *(column,) * 3, BLANK, *(column,) * 3, *WORD) for column in (B, D))
    assert compared(target, read)[:4] == [1, 1, 0, 1]


def test_images_without_ink_match_without_blanks():
    faint = picture(A, B, C, D, A, ink=129)
    assert scores.image_statistics(faint, picture(BLANK)).tolist() == [1, 1, 1, 1, 4, 5, 0, 0]
    wider = np.pad(faint, ((0, 0), (0, 5)), constant_values=255)
    assert scores.image_statistics(wider, picture(BLANK))[:4].tolist() == [0, 1, 1, 1]
    assert scores.image_statistics(faint, picture(A, B, C, D, A, ink=128))[:4].tolist() == [0, 1, 0, 1]


def test_the_lower_image_is_padded_at_the_bottom():
    high = picture(*(column + "....." for column in WORD))
    assert scores.image_statistics(picture(*WORD), high).tolist() == [1, 1, 1, 1, 0, 6, 0, 0]
    lowered = picture(*("....." + column for column in WORD))
    assert scores.image_statistics(picture(*WORD), lowered)[MATCH] == 0


def test_a_formula_that_cannot_be_drawn_has_the_other_width_as_distance():
    image = picture(*WORD)
    assert scores.image_statistics(image, None).tolist() == [0, 1, 0, 1, 6, 6, 1, 0]
    assert scores.image_statistics(None, image).tolist() == [0, 1, 0, 1, 6, 6, 0, 1]
    assert scores.image_statistics(None, None).tolist() == [0, 1, 0, 1, 0, 0, 1, 1]


shapes = st.tuples(st.integers(1, 9), st.integers(1, 12))
images = arrays.arrays(np.uint8, shapes, elements=st.sampled_from([0, 128, 129, 255]))


@given(images, images)
def test_the_distance_of_images_equals_a_naive_calculation(target, read):
    statistics = scores.image_statistics(target, read)
    assert tuple(statistics[[DISTANCE, LONGER]]) == naive.image_distance(target, read)


@given(images, images)
def test_images_match_exactly_when_their_symbols_can_be_aligned(target, read):
    height = max(len(target), len(read))
    pieces = naive.columns(target, height) + naive.columns(read, height)
    symbols = naive.symbols(pieces)
    edits = naive.distance(symbols[: target.shape[1]], symbols[target.shape[1] :])
    # Fewer than five edits cannot be a run of five; five or more extra columns may be one run or several.
    if edits < 5:
        assert scores.image_statistics(target, read)[MATCH] == 1
    if not set(symbols[: target.shape[1]]) & set(symbols[target.shape[1] :]):
        assert scores.image_statistics(target, read)[MATCH] == (max(target.shape[1], read.shape[1]) < 5)


# --- all of them ------------------------------------------------------------------------------

REFERENCES = [r"x ^ { 2 }", r"\frac { a } { b }", "y + z", "x", r"\broken", "", "ä"]
PREDICTIONS = [r"x ^ { 2 }", "", r"\frac { a", "x", "x", "", "ä"]


def test_statistics_of_every_score_from_formulas():
    progress: list[int] = []
    counted = scores.statistics(REFERENCES, PREDICTIONS, "builtin", progress.append)
    assert counted.shape == (7, scores.WIDTH) and counted.dtype == np.int64
    assert sum(progress) == 7
    widths = [render(formula, scores.DPI, 0, "builtin").shape[1] for formula in REFERENCES[:4]]
    expected = scores.values(counted)
    assert list(expected) == list(scores.SCORES)
    # Of the seven pairs, the first and the fourth match when drawn; the fifth's reference cannot be drawn.
    assert expected["image_match"] == expected["image_match_without_blanks"] == 2 / 7
    # A missing prediction or reference counts the width of the other image; the last two pairs have no image.
    missed = widths[1] + widths[2] + widths[3]
    assert expected["image_edit_similarity"] == pytest.approx(1 - missed / (widths[0] + missed + widths[3]))
    # Two empty predictions, one with unbalanced braces, and one with a letter that the fonts lack.
    assert expected["unrendered"] == 4
    # The longer formulas have 5, 7, 3, 1, 1, 0, 1 tokens; 5, 0, 0, 1, 0, 0, 1 are correct.
    assert expected["token_accuracy"] == pytest.approx(7 / 18)
    # Edits: all of the second, four of `\frac { a` for three, and one.
    assert expected["edit_similarity"] == pytest.approx(1 - (7 + 3 + 1) / 18)
    assert expected["exact_match"] == 4 / 7


def test_the_spelling_of_the_comparison_is_configurable():
    references, predictions = [r"{ \cal D } \rightarrow x", "y ^ {"], [r"\mathcal { D } \, \to x", "y ^ {"]
    normal = scores.values(scores.statistics(references, predictions, "builtin"))
    assert normal["exact_match"] == normal["edit_similarity"] == normal["token_accuracy"] == 1
    assert normal["bleu"] == pytest.approx(1)
    as_they_are = scores.values(scores.statistics(references, predictions, "builtin", spelling="im2markup"))
    assert as_they_are["exact_match"] == 0.5
    # Of 7 + 3 tokens of the longer: { \cal D } \rightarrow x, and \mathcal { D } \, \to x, where D and } are in place.
    assert as_they_are["token_accuracy"] == pytest.approx((2 + 3) / 10)
    with pytest.raises(UserError, match="there is no spelling latin"):
        scores.statistics(["x"], ["x"], "builtin", spelling="latin")


def test_few_pictures_are_in_memory_at_once(monkeypatch):
    whole = scores.statistics(REFERENCES, PREDICTIONS, "builtin")
    drawn: list[int] = []
    progress: list[int] = []

    def counting(formulas, *arguments, **options):
        drawn.append(len(formulas))
        return render_all(formulas, *arguments, **options)

    monkeypatch.setattr(scores, "render_all", counting)
    monkeypatch.setattr(scores, "PAIRS_AT_ONCE", 3)
    np.testing.assert_array_equal(scores.statistics(REFERENCES, PREDICTIONS, "builtin", progress.append), whole)
    assert drawn == [6, 6, 2] and sum(progress) == 7


def test_columns_of_scores_are_contiguous():
    stops = [score.part.stop for score in scores.SCORES.values()]
    starts = [score.part.start for score in scores.SCORES.values()]
    assert starts == [0, *stops[:-1]] and stops[-1] == scores.WIDTH
    assert [score.name for score in scores.SCORES.values()] == list(scores.SCORES)


def test_scores_of_no_examples_are_zero():
    counted = scores.statistics([], [], "builtin")
    assert counted.shape == (0, scores.WIDTH)
    assert scores.values(counted) == dict.fromkeys(scores.SCORES, 0)


def test_every_reference_needs_a_prediction():
    with pytest.raises(ValueError, match="shorter"):
        scores.statistics(["x", "y"], ["x"], "builtin")
    with pytest.raises(UserError, match="renderers are"):
        scores.statistics(["x"], ["x"], "word")


pairs_of_few = st.lists(
    st.tuples(*2 * [st.sampled_from(["", "x", "y ^ { 2 }", r"\frac { x } { y }", r"\broken", "{"])]), max_size=6
)


@settings(max_examples=30)
@given(st.lists(pairs_of_few, min_size=1, max_size=4), st.data())
def test_statistics_do_not_depend_on_the_grouping(groups, data):
    def of(pairs):
        return scores.statistics([pair[0] for pair in pairs], [pair[1] for pair in pairs], "builtin")

    whole = of([pair for group in groups for pair in group])
    parts = [of(group) for group in groups]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    shuffled = data.draw(st.permutations(parts))
    cut = data.draw(st.integers(0, len(shuffled)))
    nothing = np.zeros(scores.WIDTH, int)
    sums = [sum((part.sum(axis=0) for part in half), nothing) for half in (shuffled[:cut], shuffled[cut:])]
    assert scores.values(np.array(sums)) == scores.values(whole)


def test_scores_need_no_tensorflow():
    code = "import sys, components.formula_metrics.scores as s; print({'tensorflow', 'apache_beam'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
