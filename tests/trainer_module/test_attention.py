from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_module import model as model_module
from trainer_module.attention import Memories, Memory, attend, in_blocks, lookups, out_of_blocks, sparsemax
from trainer_module.config.model import ModelConfig
from trainer_module.model import FormulaModel
from trainer_module.training import TokenCrossEntropy


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# --- sparsemax --------------------------------------------------------------------------------


def project(x: np.ndarray) -> np.ndarray:
    """Returns the nearest point of the simplex, by trying all supports."""
    best = np.full(len(x), np.inf)
    for size in range(1, len(x) + 1):
        for support in itertools.combinations(range(len(x)), size):
            point = np.zeros(len(x))
            point[list(support)] = x[list(support)] - (x[list(support)].sum() - 1) / size
            if (point >= 0).all() and ((x - point) ** 2).sum() < ((x - best) ** 2).sum():
                best = point
    return best


SCORES = st.lists(st.integers(-400, 400).map(lambda n: n / 100), min_size=1, max_size=6)


@settings(deadline=None)
@given(SCORES)
def test_sparsemax_is_the_projection_onto_the_simplex(scores):
    weights = sparsemax(np.array([scores], np.float32)).numpy()[0]
    np.testing.assert_allclose(weights, project(np.array(scores)), atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(SCORES, st.integers(0, 99))
def test_sparsemax_has_the_gradient_of_finite_differences(scores, seed):
    scores, direction = np.array(scores), np.random.default_rng(seed).normal(size=len(scores))
    step = 1e-6
    differences = [
        direction @ (project(scores + step * axis) - project(scores - step * axis)) / (2 * step)
        for axis in np.eye(len(scores))
    ]
    # The gradient is undefined where the support changes.
    supports = {
        tuple(project(scores + sign * 1e-3 * axis) > 1e-9) for axis in np.eye(len(scores)) for sign in (-1, 0, 1)
    }
    if len(supports) > 1:
        return
    given_scores = tf.constant(scores[None])
    with tf.GradientTape() as tape:
        tape.watch(given_scores)
        value = tf.reduce_sum(sparsemax(given_scores)[0] * direction)
    np.testing.assert_allclose(tape.gradient(value, given_scores)[0], differences, atol=1e-5)


def test_sparsemax_ignores_masked_cells():
    scores = np.array([[1.0, -1e9, 0.9, -1e9], [-1e9, -1e9, -1e9, 7.0]], np.float32)
    np.testing.assert_allclose(sparsemax(scores), [[0.55, 0, 0.45, 0], [0, 0, 0, 1]], atol=1e-6)


# --- grids and memories -----------------------------------------------------------------------


def test_blocks_hold_four_by_four_cells_in_reading_order():
    grid = np.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3)
    cells = np.array(in_blocks(grid))
    assert cells.shape == (2, 96, 3)
    for row, column in itertools.product(range(2), range(3)):
        expected = grid[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(2, 16, 3)
        start = 16 * (3 * row + column)
        np.testing.assert_array_equal(cells[:, start : start + 16], expected)
    np.testing.assert_array_equal(out_of_blocks(cells[..., 0], 8, 12), grid[..., 0])


def memories():
    """Returns two images of three blocks. One and a half blocks of the second image are padding."""
    rng = np.random.default_rng(0)

    def memory(mask):
        values, keys = (rng.normal(size=(*mask.shape, 5)).astype(np.float32) for _ in range(2))
        return Memory(values, keys.swapaxes(1, 2), mask)

    coarse, fine = np.ones((2, 3), bool), np.ones((2, 48), bool)
    coarse[1, 2], fine[1, 24:] = False, False
    return Memories(memory(coarse), memory(fine))


QUERY = np.random.default_rng(1).normal(size=(2, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("kind", ["hierarchical", "sparsemax", "hard"])
def test_fine_weights_divide_the_coarse_ones_within_each_block(kind):
    coarse, fine = memories()
    attended = attend(kind, QUERY, memories())
    choose = {"hierarchical": softmax, "sparsemax": project, "hard": lambda x: np.eye(3)[x.argmax()]}[kind]
    for image, query in itertools.product(range(2), range(4)):
        weights = choose(np.where(coarse.mask[image], QUERY[image, query] @ coarse.keys[image], -1e4))
        np.testing.assert_allclose(attended.coarse[image, query], weights, atol=1e-5)
        scores = np.where(fine.mask[image], QUERY[image, query] @ fine.keys[image], -1e9)
        expected = (weights[:, None] * softmax(scores.reshape(3, 16))).reshape(48)
        np.testing.assert_allclose(attended.fine[image, query], expected, atol=1e-5)
        np.testing.assert_allclose(attended.context[image, query], expected @ fine.values[image], atol=1e-5)
        assert not np.array(attended.fine)[image, query][~fine.mask[image]].any()


def test_lookups_are_the_cells_that_are_scored():
    coarse, fine = memories()

    def counted(kind, seen):
        attended = attend(kind, QUERY, seen)
        return *(np.array(count) for count in lookups(attended, seen)), attended

    coarse_count, fine_count, _ = counted("standard", Memories(None, fine))
    assert (coarse_count == 0).all()
    assert fine_count.tolist() == [[48] * 4, [24] * 4]
    coarse_count, fine_count, _ = counted("coarse_only", Memories(coarse, None))
    assert coarse_count.tolist() == [[3] * 4, [2] * 4]
    assert (fine_count == 0).all()
    coarse_count, fine_count, _ = counted("hierarchical", memories())
    assert coarse_count.tolist() == [[3] * 4, [2] * 4]
    assert fine_count.tolist() == [[48] * 4, [24] * 4]
    cells = fine.mask.reshape(2, 3, 16).sum(axis=-1)
    _, fine_count, attended = counted("hard", memories())
    assert fine_count.tolist() == np.take_along_axis(cells, np.array(attended.coarse).argmax(axis=-1), 1).tolist()
    _, fine_count, attended = counted("sparsemax", memories())
    assert fine_count.tolist() == ((np.array(attended.coarse) > 0) * cells[:, None]).sum(axis=-1).tolist()
    assert fine_count[0].min() < 48  # sparse at least once


# --- hard attention ---------------------------------------------------------------------------


def test_hard_attention_samples_the_coarse_cells_by_their_weight():
    coarse, _ = memories()
    count = 20_000
    uniform = np.random.default_rng(2).uniform(1e-9, 1, (2, count, 3))
    query = np.repeat(QUERY[:, :1], count, axis=1)
    attended = attend("hard", query, memories(), noise=-np.log(-np.log(uniform)).astype(np.float32))
    for image in range(2):
        scores = np.where(coarse.mask[image], QUERY[image, 0] @ coarse.keys[image], -1e9)
        weights = softmax(scores)
        frequencies = np.array(attended.coarse)[image].mean(axis=0)
        np.testing.assert_allclose(frequencies, weights, atol=4 * np.sqrt(0.25 / count))
        chosen = np.array(attended.coarse)[image].argmax(axis=-1)
        np.testing.assert_allclose(attended.chosen[image], np.log(weights[chosen]), rtol=1e-3)


@pytest.mark.parametrize("baseline", [0.0, 2.5])
@pytest.mark.parametrize("discount", [1.0, 0.5])
def test_the_estimator_has_the_expectation_of_the_exact_gradient(monkeypatch, discount, baseline):
    """Sums the estimates over all nine pairs of choices (two steps, three cells), weighted by their probabilities.

    A choice is credited with the discounted rewards from its step on. Without discount, the sum is the gradient
    of the expected log-likelihood. The baseline does not change it.
    """
    monkeypatch.setattr(model_module, "HARD_DISCOUNT", discount)
    tiny = {"filters": (2, 2, 2, 2, 2, 2), "decoder_units": 2, "embedding_units": 2}
    model = FormulaModel(ModelConfig(**tiny, attention="hard"), 4)
    model.compile(loss=TokenCrossEntropy())
    rng = np.random.default_rng(3)
    scores = tf.Variable(rng.normal(size=(2, 3)))  # of the choices at each step
    first, second = rng.normal(0, 2, (3, 4)), rng.normal(0, 2, (3, 3, 4))  # logits, by the choices so far
    targets, weights = np.array([[1, 2]]), np.ones((1, 2), np.float32)

    def log_likelihoods(one, other):
        logits = np.stack([first[one], second[one, other]])
        return np.log(softmax(logits))[[0, 1], targets[0]]

    expected_gradient = np.zeros((2, 3))
    for one, other in itertools.product(range(3), range(3)):
        model.baseline.assign(baseline)
        with tf.GradientTape() as tape:
            log_weights = tf.nn.log_softmax(scores)
            chosen = tf.cast(tf.stack([log_weights[0, one], log_weights[1, other]])[None], tf.float32)
            logits = tf.constant(np.stack([first[one], second[one, other]])[None], tf.float32)
            predicted = {"logits": logits, "chosen": chosen}
            loss = model.compute_loss(y=targets, y_pred=predicted, sample_weight=weights)
        assert float(loss) == pytest.approx(-log_likelihoods(one, other).mean(), rel=1e-5)
        probability = np.exp(log_weights[0, one] + log_weights[1, other])
        expected_gradient += probability * tape.gradient(loss, scores).numpy()

    exact = np.zeros((2, 3))
    probabilities = softmax(scores.numpy())
    for one, other in itertools.product(range(3), range(3)):
        rewards = log_likelihoods(one, other)
        credits = [rewards[0] + discount * rewards[1], rewards[1]]
        for step, choice in enumerate((one, other)):
            score_function = np.eye(3)[choice] - probabilities[step]
            weight = probabilities[0, one] * probabilities[1, other]
            exact[step] -= weight * credits[step] * score_function / 2  # the loss is the mean of two tokens
    np.testing.assert_allclose(expected_gradient, exact, atol=1e-5)
    if discount == 1:
        with tf.GradientTape() as tape:
            p = tf.nn.softmax(scores)
            likelihood = sum(
                p[0, one] * p[1, other] * log_likelihoods(one, other).sum()
                for one, other in itertools.product(range(3), range(3))
            )
            value = -likelihood / 2
        np.testing.assert_allclose(expected_gradient, tape.gradient(value, scores), atol=1e-5)


def test_the_baseline_is_a_moving_average_of_the_credits():
    tiny = {"filters": (2, 2, 2, 2, 2, 2), "decoder_units": 2, "embedding_units": 2}
    model = FormulaModel(ModelConfig(**tiny, attention="hard"), 4)
    model.compile(loss=TokenCrossEntropy())
    predicted = {"logits": np.zeros((1, 3, 4), np.float32), "chosen": np.zeros((1, 3), np.float32)}
    weights = np.array([[1, 1, 0]], np.float32)
    reward = -np.log(4)
    mean = (reward * 1.5 + reward) / 2  # of two tokens, the first with half of the second's
    for expected in (0.01 * mean, 0.01 * mean + 0.99 * 0.01 * mean):
        model.compute_loss(y=np.zeros((1, 3), np.int32), y_pred=predicted, sample_weight=weights)
        assert float(model.baseline.numpy()) == pytest.approx(expected, rel=1e-4)
