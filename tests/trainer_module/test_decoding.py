from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

from im2latex.graph import onnx_model
from tests.trainer_module.test_model import TINY, VARIANTS, VOCABULARY, build_model, drawing, padded, teacher_forced
from trainer_module.decoding import search
from trainer_module.features import END, PAD, START
from trainer_module.model import FormulaModel
from trainer_module.weights import weights_of

MAX_TOKENS = 12
# Images that the model below reads as formulas of different lengths, some of them cut.
IMAGES = [drawing(height, width, seed=i) for i, (height, width) in enumerate([(8, 8), (17, 40), (30, 9), (24, 24)] * 3)]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def read_slowly(logits, image: np.ndarray, max_tokens: int) -> tuple[list[int], float]:
    """Decodes greedily with a full teacher-forced pass per token; returns the tokens and their log-probability."""
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


# A vocabulary with groups, of VOCABULARY tokens.
GROUPS = ["", "", "", "\\left(", "\\right)", "x", "{", "}", "\\right.", "y", "z"]


def read_in_groups(logits, image: np.ndarray, max_tokens: int) -> tuple[list[int], float]:
    """Decodes as `read_slowly`; closes only the innermost group, and all groups at the end."""
    openers = {"}": "{", "\\right)": "\\left(", "\\right.": "\\left("}
    tokens: list[int] = []
    within: list[str] = []
    log_probability = 0.0
    while len(tokens) < max_tokens:
        step = log_softmax(logits([image], np.array([[START, *tokens]], np.int32))[0, -1])
        innermost = within[-1] if within else None
        if innermost:
            ending = GROUPS.index("}" if innermost == "{" else "\\right.")
            step[ending] = max(step[ending], step[END])
        allowed = [i for i in range(END + 1, VOCABULARY) if openers.get(GROUPS[i], innermost) == innermost]
        best = max(allowed if within else [END, *allowed], key=lambda token: step[token])
        log_probability += step[best]
        if best == END:
            return tokens, log_probability
        tokens.append(best)
        if GROUPS[best] in openers.values():
            within.append(GROUPS[best])
        elif GROUPS[best] in openers:
            within.pop()
    end = log_softmax(logits([image], np.array([[START, *tokens]], np.int32))[0, -1])[END]
    return tokens, log_probability + end


def sharpened(variant: dict, seed: int) -> FormulaModel:
    """Returns a model that gives different results for different images."""
    model = build_model(variant, seed)
    for weight in (model.decoder.logits_kernel, model.decoder.attention_kernel, model.embedding.embeddings):
        weight.assign(weight * 6)
    return model


@pytest.fixture(scope="module", params=[("image2latex-tf2", 1), ("paper", 15)], ids=lambda param: param[0])
def model(request) -> FormulaModel:
    variant, seed = request.param
    return sharpened(VARIANTS[variant], seed)


@pytest.fixture(scope="module")
def logits(model):
    return teacher_forced(model)


def read(model, images, max_tokens=MAX_TOKENS):
    decoded = search(model, *padded(images, 0, 0).values(), max_tokens)
    assert decoded.tokens.shape == (len(images), 1, max_tokens)
    np.testing.assert_array_equal(decoded.score, decoded.log_probability)
    return np.array(decoded.tokens)[:, 0], np.array(decoded.log_probability)[:, 0]


def test_a_batch_gives_the_same_results_as_a_plain_loop_per_image(model, logits):
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


def test_groups_match(model, logits):
    decoded = search(model, *padded(IMAGES, 0, 0).values(), MAX_TOKENS, vocabulary=GROUPS)
    changed = complete = 0
    for image, row, of_formula in zip(IMAGES, decoded.tokens[:, 0], decoded.log_probability[:, 0], strict=True):
        expected, log_probability = read_in_groups(logits, image, MAX_TOKENS)
        assert [token for token in row.numpy().tolist() if token] == expected
        assert float(of_formula) == pytest.approx(log_probability, abs=1e-3)
        complete += len(expected) < MAX_TOKENS
        changed += expected != read_slowly(logits, image, MAX_TOKENS)[0]
    assert changed and complete


def test_padding_and_start_are_never_predicted(model, logits):
    kernel = model.decoder.logits_kernel.numpy()
    liked = kernel.copy()
    # Without the restriction, the model would predict one of them at each step, because its logit is the highest.
    liked[:, PAD], liked[:, START] = 50 * kernel[:, 5], -50 * kernel[:, 5]
    model.decoder.logits_kernel.assign(liked)
    try:
        tokens, log_probabilities = read(model, IMAGES)
        for image, row, log_probability in zip(IMAGES, tokens, log_probabilities, strict=True):
            expected, expected_log_probability = read_slowly(logits, image, MAX_TOKENS)
            assert START not in row
            assert row.tolist() == expected + [PAD] * (MAX_TOKENS - len(expected))
            # The probability of padding and start is lost.
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
    model = build_model(TINY)
    images = padded(IMAGES[:2], 0, 0)
    # o is between -1 and 1, so with these the end has the highest logit after any beginning.
    model.decoder.combine_kernel.assign(model.decoder.combine_kernel * 0)
    model.decoder.logits_kernel.assign(model.decoder.logits_kernel * 0)
    # All logits are 0: of equal ones the first allowed is taken, which is the end.
    tokens, log_probabilities = read(model, IMAGES[:2])
    assert not tokens.any()
    np.testing.assert_allclose(log_probabilities, -np.log(VOCABULARY), atol=1e-5)
    # The search takes no further step.
    steps = []
    step = model.step
    model.step = lambda *arguments: steps.append(1) or step(*arguments)
    search(model, *images.values(), 1000)
    assert len(steps) == 1


# --- beam search ------------------------------------------------------------------------------


def every_sentence(logits, image: np.ndarray, max_tokens: int) -> dict[tuple[int, ...], float]:
    """Returns the log-probability of every sequence of at most the given number of tokens."""
    answers = [i for i in range(VOCABULARY) if i not in (PAD, START, END)]
    sentences = {}
    for length in range(max_tokens + 1):
        rows = list(itertools.product(answers, repeat=length))
        prefixes = np.array([[START, *tokens] for tokens in rows], np.int32)
        for tokens, steps in zip(rows, logits([image] * len(rows), prefixes), strict=True):
            sentences[tokens] = sum(log_softmax(step)[token] for step, token in zip(steps, [*tokens, END], strict=True))
    return sentences


@pytest.mark.parametrize("length_penalty", [0.0, 1.3])
@pytest.mark.parametrize("attention", ["standard", "sparsemax"])
def test_a_beam_wide_enough_finds_all_sequences_in_order(attention, length_penalty):
    model = sharpened(TINY | {"attention": attention}, 3)
    logits = teacher_forced(model)
    images = IMAGES[1:4]
    count = 1 + 8 + 8**2  # sentences of up to two of the eight tokens that can be answers
    decoded = search(model, *padded(images, 0, 0).values(), 2, count + 2, length_penalty)
    for i, image in enumerate(images):
        expected = every_sentence(logits, image, 2)
        assert len(expected) == count

        def score(tokens, expected=expected):
            return expected[tokens] / ((5 + len(tokens) + 1) / 6) ** length_penalty

        ranked = sorted(expected, key=score, reverse=True)
        sequences = [tuple(token for token in row if token) for row in decoded.tokens[i].numpy().tolist()]
        scores = decoded.score[i].numpy()
        np.testing.assert_allclose(scores[:count], [score(tokens) for tokens in ranked], atol=1e-3)
        np.testing.assert_allclose(
            decoded.log_probability[i, :count], [expected[tokens] for tokens in sequences[:count]], atol=1e-3
        )
        assert set(sequences[:count]) == set(ranked)
        # There is nothing else to find.
        assert (scores[count:] == -np.inf).all()
        assert sequences[count:] == [(), ()]


def test_a_narrow_beam_keeps_the_most_probable_prefixes(model, logits):
    """Compares with the same search on Python lists, one image at a time."""
    width, max_tokens = 3, 6
    decoded = search(model, *padded(IMAGES, 0, 0).values(), max_tokens, width)
    differ = 0
    for i, image in enumerate(IMAGES):
        beam = [((), 0.0, False)]
        while not all(ended for _, _, ended in beam):
            candidates = []
            for tokens, log_probability, ended in beam:
                if ended:
                    candidates.append((tokens, log_probability, True))
                    continue
                step = log_softmax(logits([image], np.array([[START, *tokens]], np.int32))[0, -1])
                allowed = range(END, VOCABULARY) if len(tokens) < max_tokens else [END]
                candidates += [
                    (tokens if token == END else (*tokens, token), log_probability + step[token], token == END)
                    for token in allowed
                ]
            beam = sorted(candidates, key=lambda candidate: -candidate[1])[:width]
        sequences = [tuple(token for token in row if token) for row in decoded.tokens[i].numpy().tolist()]
        assert sequences == [tokens for tokens, _, _ in beam]
        np.testing.assert_allclose(decoded.log_probability[i], [score for _, score, _ in beam], atol=1e-3)
        differ += list(sequences[0]) != read_slowly(logits, image, max_tokens)[0]
    assert differ  # some are better than the result of greedy decoding


def test_width_and_length_penalty_may_be_tensors():
    model = sharpened(TINY, 3)
    inputs = padded(IMAGES[:4], 0, 0)
    graph = tf.function(lambda width, penalty: search(model, *inputs.values(), 5, width, penalty), autograph=False)
    for width, penalty in [(1, 0.0), (4, 0.6)]:
        expected = search(model, *inputs.values(), 5, width, penalty)
        for part, other in zip(graph(tf.constant(width), tf.constant(penalty)), expected, strict=True):
            np.testing.assert_allclose(part, other, atol=1e-5)


# --- loops ------------------------------------------------------------------------------------


def repeating(period: int) -> FormulaModel:
    """A model that repeats the same `period` tokens for any image: each token leads to the next."""
    units = 12
    model = build_model({**TINY, "decoder_units": units, "embedding_units": units})
    for weight in model.decoder.weights:
        weight.assign(weight * 0)
    model.embedding.embeddings.assign(np.eye(VOCABULARY, units))
    gates = np.zeros((units, 4 * units))
    gates[:, :units] = gates[:, 3 * units :] = 50  # open
    gates[:, units : 2 * units] = -50  # forgets
    first = max(PAD, START, END) + 1
    for token in range(VOCABULARY):
        following = first if token < first else first + (token - first + 1) % period
        gates[token, 2 * units + following] = 50
    model.decoder.embedding_kernel.assign(gates)
    combine = np.zeros(model.decoder.combine_kernel.shape)
    combine[-units:] = 5 * np.eye(units)
    model.decoder.combine_kernel.assign(combine)
    model.decoder.logits_kernel.assign(9 * np.eye(units, VOCABULARY))
    return model


def test_a_token_of_several_views_has_its_mean_probability_over_them(model, logits):
    views = [IMAGES[1], IMAGES[3], IMAGES[2]]
    decoded = search(model, *padded([*views, IMAGES[0], *IMAGES[4:6]], 0, 0).values(), MAX_TOKENS, 2, 0.0, views=3)
    rows = np.array(decoded.tokens)
    np.testing.assert_array_equal(rows[:3], rows[[0]].repeat(3, 0))
    np.testing.assert_array_equal(rows[3:], rows[[3]].repeat(3, 0))
    for row, of_formula in zip(rows[0], np.array(decoded.log_probability)[0], strict=True):
        tokens = row[row != PAD].tolist()
        of_views = logits(views, np.array([[START, *tokens]] * 3, np.int32))
        targets = [*tokens, END][: len(tokens) + 1]
        steps = [[log_softmax(step)[token] for step, token in zip(view, targets, strict=True)] for view in of_views]
        assert of_formula == pytest.approx(np.log(np.exp(steps).mean(axis=0)).sum(), abs=1e-3)


# The last ones reach the maximum length with 20 tokens that only repeat.
@pytest.mark.parametrize(("period", "most"), [(1, 200), (2, 200), (5, 200), (1, 21), (5, 25)])
def test_a_loop_ends_and_is_cut_to_one_repetition_in_both_decoders(period: int, most: int) -> None:
    model = repeating(period)
    first = max(PAD, START, END) + 1
    steps = []
    step = model.step
    model.step = lambda *arguments: steps.append(1) or step(*arguments)
    decoded = search(model, *padded(IMAGES[:2], 0, 0).values(), most)
    # The part, 40 tokens that only repeat it, and the end.
    assert len(steps) == min(period + 40, most) + 1
    expected = list(range(first, first + period))
    for row, gains in zip(np.array(decoded.tokens)[:, 0], np.array(decoded.token_log_probability)[:, 0], strict=True):
        assert row.tolist() == expected + [PAD] * (most - period)
        assert (gains[:period] < 0).all() and not gains[period:].any()
    # The end was forced, so its probability is lower.
    assert (np.array(decoded.log_probability) < -5).all()
    graph = onnx_model(dataclasses.asdict(model.config), weights_of(model), most, "{}")
    images, sizes = padded(IMAGES[:2], 0, 0).values()
    inputs = {
        "image": images[..., 0], "size": sizes.astype(np.int64), "search": np.array(True), "views": np.array(1),
        "width": np.array(1), "length_penalty": np.array(0, np.float32),
        "known_fine": np.zeros((0, 0, 0, 0), np.float32),
    }  # fmt: skip
    names = ["tokens", "token_log_probability", "log_probability"]
    outputs = dict(zip(names, onnxruntime.InferenceSession(graph).run(names, inputs), strict=True))
    length = outputs["tokens"].shape[2]
    np.testing.assert_array_equal(outputs["tokens"], np.array(decoded.tokens)[:, :, :length])
    for name in names[1:]:
        value = np.array(getattr(decoded, name))
        np.testing.assert_allclose(outputs[name], value[:, :, :length] if value.ndim == 3 else value, rtol=0, atol=1e-3)


def test_shorter_repetitions_are_unchanged() -> None:
    decoded = search(repeating(3), *padded(IMAGES[:1], 0, 0).values(), 22)
    assert (np.array(decoded.tokens)[0, 0] != PAD).all()  # as long as it may be, and 19 tokens repeat
