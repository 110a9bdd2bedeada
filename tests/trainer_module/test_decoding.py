from __future__ import annotations

import numpy as np
import pytest

from tests.trainer_module.test_model import TINY, VARIANTS, VOCABULARY, drawing, made, padded, teacher_forced
from trainer_module.decoding import greedy
from trainer_module.features import END, PAD, START
from trainer_module.model import FormulaModel

MAX_TOKENS = 12
# Images that the model below reads as formulas of different lengths, some of them cut.
IMAGES = [drawing(height, width, seed=i) for i, (height, width) in enumerate([(8, 8), (17, 40), (30, 9), (24, 24)] * 3)]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def read_slowly(logits, image: np.ndarray, max_tokens: int) -> tuple[list[int], float]:
    """The likeliest token after each beginning, by whole teacher-forced passes; and its log-probability."""
    tokens: list[int] = []
    log_probability = 0.0
    while True:
        log_probabilities = log_softmax(logits([image], np.array([[START, *tokens]], np.int32))[0, -1])
        allowed = [END] if len(tokens) == max_tokens else [i for i in range(VOCABULARY) if i not in (PAD, START)]
        best = max(allowed, key=lambda token: log_probabilities[token])
        log_probability += log_probabilities[best]
        if best == END:
            return tokens, log_probability
        tokens.append(best)


def sharpened(variant: dict, seed: int) -> FormulaModel:
    """A model that reads different images differently."""
    model = made(variant, seed)
    for weight in (model.decoder.logits_kernel, model.decoder.attention_kernel, model.embedding.embeddings):
        weight.assign(weight * 6)
    return model


@pytest.fixture(scope="module", params=[("seed", 1), ("paper", 15)], ids=lambda param: param[0])
def model(request) -> FormulaModel:
    variant, seed = request.param
    return sharpened(VARIANTS[variant], seed)


@pytest.fixture(scope="module")
def logits(model):
    return teacher_forced(model)


def read(model, images, max_tokens=MAX_TOKENS):
    decoded = greedy(model, *padded(images, 0, 0).values(), max_tokens)
    return np.array(decoded.tokens), np.array(decoded.log_probability)


def test_a_batch_is_read_as_each_image_by_a_plain_loop(model, logits):
    tokens, log_probabilities = read(model, IMAGES)
    assert tokens.shape == (len(IMAGES), MAX_TOKENS)
    lengths = set()
    for image, row, log_probability in zip(IMAGES, tokens, log_probabilities, strict=True):
        expected, expected_log_probability = read_slowly(logits, image, MAX_TOKENS)
        assert row.tolist() == expected + [PAD] * (MAX_TOKENS - len(expected))
        assert log_probability == pytest.approx(expected_log_probability, abs=1e-3)
        lengths.add(len(expected))
    assert len(lengths) >= 3
    assert min(lengths) < MAX_TOKENS


def test_padding_and_start_are_never_read(model, logits):
    kernel = model.decoder.logits_kernel.numpy()
    liked = kernel.copy()
    # The model would answer one of them each time: in one of the two the logit is above all others.
    liked[:, PAD], liked[:, START] = 50 * kernel[:, 5], -50 * kernel[:, 5]
    model.decoder.logits_kernel.assign(liked)
    try:
        tokens, log_probabilities = read(model, IMAGES)
        for image, row, log_probability in zip(IMAGES, tokens, log_probabilities, strict=True):
            expected, expected_log_probability = read_slowly(logits, image, MAX_TOKENS)
            assert START not in row
            assert row.tolist() == expected + [PAD] * (MAX_TOKENS - len(expected))
            # What the model gives to padding and start is lost to the answer.
            assert log_probability == pytest.approx(expected_log_probability, rel=1e-3)
    finally:
        model.decoder.logits_kernel.assign(kernel)


@pytest.mark.parametrize("max_tokens", [1, 2, 5])
def test_formulas_are_cut_and_scored_with_their_end(model, logits, max_tokens):
    tokens, log_probabilities = read(model, IMAGES, max_tokens)
    assert tokens.shape == (len(IMAGES), max_tokens)
    cut = 0
    for image, row, log_probability in zip(IMAGES, tokens, log_probabilities, strict=True):
        expected, expected_log_probability = read_slowly(logits, image, max_tokens)
        assert row.tolist() == expected + [PAD] * (max_tokens - len(expected))
        assert log_probability == pytest.approx(expected_log_probability, abs=1e-3)
        cut += len(expected) == max_tokens
    assert cut


def test_decoding_stops_when_all_have_ended():
    model = made(TINY)
    images = padded(IMAGES[:2], 0, 0)
    # o is between -1 and 1, so with these the end has the highest logit after any beginning.
    model.decoder.combine_kernel.assign(model.decoder.combine_kernel * 0)
    model.decoder.logits_kernel.assign(model.decoder.logits_kernel * 0)
    # All logits are 0: of equal ones the first allowed is taken, which is the end.
    tokens, log_probabilities = read(model, IMAGES[:2])
    assert not tokens.any()
    np.testing.assert_allclose(log_probabilities, -np.log(VOCABULARY), atol=1e-5)
    # And not one step more is taken.
    steps = []
    step = model.step
    model.step = lambda *arguments: steps.append(1) or step(*arguments)
    greedy(model, *images.values(), 1000)
    assert len(steps) == 1


def test_an_empty_batch_has_an_empty_answer(model):
    decoded = greedy(model, np.zeros((0, 16, 16, 1), np.uint8), np.zeros((0, 2), np.int32), 5)
    assert decoded.tokens.shape == (0, 5)
    assert decoded.log_probability.shape == (0,)
