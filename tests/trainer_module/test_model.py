from __future__ import annotations

import ast
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

import trainer_module
from im2latex.images import WHITE
from pipeline.config import load_config
from trainer_module.config.model import ModelConfig
from trainer_module.decoding import search
from trainer_module.encoder import MaskedBatchNormalization, RowEncoder
from trainer_module.model import FormulaModel
from trainer_module.recurrence import DecoderState
from trainer_module.summary import summarise
from trainer_module.training import TokenCrossEntropy

CALM = settings(
    deadline=None,
    max_examples=10,  # of each variant
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

VOCABULARY = 11
MAX_ROWS = 6
TINY = {"filters": (4, 5, 6, 7, 8, 9), "decoder_units": 6, "embedding_units": 5}
PAPER = {"hidden_recurrence": True, "row_embedding": True, "normalisation": "before_relu"}
VARIANTS = {
    "image2latex-tf2": TINY,
    "hidden_recurrence": TINY | {"hidden_recurrence": True},
    "row_embedding": TINY | {"row_embedding": True},
    "position_encoding": TINY | {"position_encoding": True},
    "before_relu": TINY | {"normalisation": "before_relu"},
    "paper": TINY | PAPER,
    "coarse_only": TINY | PAPER | {"attention": "coarse_only"},
    "hierarchical": TINY | PAPER | {"attention": "hierarchical", "position_encoding": True},
    "sparsemax": TINY | {"attention": "sparsemax"},
    "hard": TINY | {"attention": "hard"},
}


def randomised(model: FormulaModel, seed: int = 0) -> FormulaModel:
    """Sets all weights to random values, so that no bias is zero and no moving variance is one."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name == "moving_variance":
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        else:
            weight.assign(rng.normal(0, 0.4, weight.shape))
    return model


def build_model(variant: dict, seed: int = 0) -> FormulaModel:
    return randomised(FormulaModel(ModelConfig(**variant), VOCABULARY, max_rows=MAX_ROWS), seed)


def teacher_forced(model: FormulaModel):
    """Returns a function for the model's logits: one graph for all sizes of images, batches and formulas."""
    inputs = {
        "image": tf.TensorSpec((None, None, None, 1), tf.uint8),
        "size": tf.TensorSpec((None, 2), tf.int32),
        "tokens": tf.TensorSpec((None, None), tf.int32),
    }
    graph = tf.function(lambda inputs: model(inputs), input_signature=[inputs], autograph=False)
    return lambda images, tokens, height=0, width=0: graph(
        {name: tf.constant(part) for name, part in (padded(images, height, width) | {"tokens": tokens}).items()}
    ).numpy()


@pytest.fixture(scope="module", params=VARIANTS)
def model(request) -> FormulaModel:
    return build_model(VARIANTS[request.param])


@pytest.fixture(scope="module")
def logits(model):
    return teacher_forced(model)


@pytest.fixture(scope="module")
def image2latex_model() -> FormulaModel:
    return FormulaModel(ModelConfig(), 504)


def drawing(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, height, width)).integers(0, 256, (height, width), dtype=np.uint8)


def padded(images: list[np.ndarray], height: int, width: int) -> dict[str, np.ndarray]:
    """Pads images with white to a batch of at least this height and width, as input of the model."""
    height = -(-max(height, *(len(image) for image in images)) // 8) * 8
    width = -(-max(width, *(image.shape[1] for image in images)) // 8) * 8
    batch = np.full((len(images), height, width, 1), WHITE, np.uint8)
    for i, image in enumerate(images):
        batch[i, : image.shape[0], : image.shape[1], 0] = image
    return {"image": batch, "size": np.array([image.shape for image in images], np.int32)}


# --- the model once more, with numpy, for one image without padding ---------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def lstm_step(gates, cell):
    update, forget, candidate, output = np.split(gates, 4)
    cell = sigmoid(forget) * cell + sigmoid(update) * np.tanh(candidate)
    return sigmoid(output) * np.tanh(cell), cell


def convolve(x, layer):
    windows = sliding_window_view(np.pad(x, ((1, 1), (1, 1), (0, 0))), (3, 3), axis=(0, 1))
    return np.einsum("hwcij,ijcf->hwf", windows, layer.kernel.numpy()) + layer.bias.numpy()


def normalise(x, layer):
    scale = layer.gamma.numpy() / np.sqrt(layer.moving_variance.numpy() + 1e-5)
    return (x - layer.moving_mean.numpy()) * scale + layer.beta.numpy()


def pool(x, rows, columns):
    height, width, channels = x.shape
    return x.reshape(height // rows, rows, width // columns, columns, channels).max(axis=(1, 3))


def reference_features(model, image):
    """Computes the convolutions, as Image2Latex-TF2 or the paper orders them: (height / 8, width / 8, channels)."""
    fill = [(0, -side % 8) for side in image.shape]
    x = (np.pad(image, fill, constant_values=255)[:, :, None].astype(float) - 128) / 128
    conv = model.encoder.convolutions
    x = pool(np.maximum(convolve(x, conv[0]), 0), 2, 2)
    x = pool(np.maximum(convolve(x, conv[1]), 0), 2, 2)
    x = convolve_and_normalise(model, model.encoder, 2, x)
    x = pool(np.maximum(convolve(x, conv[3]), 0), 1, 2)
    x = pool(convolve_and_normalise(model, model.encoder, 4, x), 2, 1)
    return convolve_and_normalise(model, model.encoder, 5, x)


def convolve_and_normalise(model, layers, i, x):
    x = convolve(x, layers.convolutions[i])
    if model.config.normalisation == "before_relu":
        return np.maximum(normalise(x, layers.norms[i]), 0)
    return normalise(np.maximum(x, 0), layers.norms[i])


def reference_coarse_features(model, features):
    """Returns the maxima of 4 x 4 cells after two more convolutions, (rows / 4, columns / 4, channels), rounded up."""
    for i in range(2):
        features = convolve_and_normalise(model, model.coarse_encoder, i, features)
    rows, columns, _ = features.shape
    return np.array(
        [
            [features[row : row + 4, column : column + 4].max(axis=(0, 1)) for column in range(0, columns, 4)]
            for row in range(0, rows, 4)
        ]
    )


def reference_rows(layer, features):
    """Runs an LSTM along each row in both directions: (rows, columns, channels) -> (rows, columns, 2 * units)."""
    rows, columns, _ = features.shape
    read = np.zeros((rows, columns, 2, layer.units))
    for direction, order in enumerate([range(columns), range(columns - 1, -1, -1)]):
        kernel, recurrent, bias = (
            weights[direction].numpy() for weights in (layer.kernels, layer.recurrent_kernels, layer.biases)
        )
        for row in range(rows):
            hidden, cell = np.zeros((2, layer.units))
            if layer.rows:
                hidden, cell = layer.row_embedding.numpy()[:, direction, row]
            for column in order:
                gates = features[row, column] @ kernel + hidden @ recurrent + bias
                hidden, cell = lstm_step(gates, cell)
                read[row, column, direction] = hidden
    read = read.reshape(rows, columns, 2 * layer.units)
    return read + layer.position_gain.numpy() * reference_positions(*read.shape) if layer.positions else read


def reference_positions(rows, columns, units):
    """Encodes the column, then the row, by sines and cosines as in Vaswani et al. (2017, section 3.5)."""

    def wave(position, channel, channels):
        angle = position / 10000 ** ((channel - channel % 2) / channels)
        return np.cos(angle) if channel % 2 else np.sin(angle)

    half = units // 2
    return np.array(
        [
            [
                [wave(column, channel, half) for channel in range(half)]
                + [wave(row, channel, units - half) for channel in range(units - half)]
                for column in range(columns)
            ]
            for row in range(rows)
        ]
    )


def project(x):
    """Returns the nearest point of the probability simplex, by bisection on the threshold."""
    low, high = x.max() - 1, x.max()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(x - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(x - low, 0)


def reference_attention(model, coarse, fine, h):
    """Returns the context, and the coarse and fine weights, for grids (rows, columns, units) or None."""
    kind, matrix = model.config.attention, model.decoder.attention_kernel.numpy()
    if kind == "standard":
        weights = softmax((fine @ (matrix @ h)).reshape(-1)).reshape(fine.shape[:2])
        return np.einsum("rc,rcu->u", weights, fine), None, weights
    scores = coarse @ (matrix @ h)
    flat = scores.reshape(-1)
    choose = {"sparsemax": project, "hard": lambda x: (x == x.max()).astype(float)}.get(kind, softmax)
    weights = choose(flat).reshape(scores.shape)
    if kind == "coarse_only":
        return np.einsum("rc,rcu->u", weights, coarse), weights, None
    of_cells = np.zeros(fine.shape[:2])
    for row in range(coarse.shape[0]):
        for column in range(coarse.shape[1]):
            cells = slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)
            block = fine[cells]
            within = softmax((block @ (matrix @ h)).reshape(-1)).reshape(block.shape[:2])
            of_cells[cells] = weights[row, column] * within
    return np.einsum("rc,rcu->u", of_cells, fine), weights, of_cells


def reference_decoder(model, coarse, fine, tokens):
    """Computes logits, (steps, vocabulary), by the paper's equations, and each step's coarse and fine weights."""
    decoder = model.decoder
    h = c = o = np.zeros(decoder.units)
    logits, maps = [], []
    for token in tokens:
        gates = model.embedding.embeddings.numpy()[token] @ decoder.embedding_kernel.numpy()
        gates = gates + o @ decoder.output_kernel.numpy() + decoder.bias.numpy()
        if model.config.hidden_recurrence:
            gates = gates + h @ decoder.hidden_kernel.numpy()
        h, c = lstm_step(gates, c)
        context, *weights = reference_attention(model, coarse, fine, h)
        maps.append(weights)
        o = np.tanh(np.concatenate([context, h]) @ decoder.combine_kernel.numpy())
        logits.append(o @ decoder.logits_kernel.numpy())
    return np.array(logits), maps


def reference(model, image, tokens):
    """Computes the logits and attention maps of one image."""
    features, coarse, fine = reference_features(model, image), None, None
    if model.config.attention != "coarse_only":
        fine = reference_rows(model.row_encoder, features)
    if model.config.attention != "standard":
        coarse = reference_rows(model.coarse_row_encoder, reference_coarse_features(model, features))
    return reference_decoder(model, coarse, fine, tokens)


# --- the table of Image2Latex-TF2 --------------------------------------------------------------

IMAGE2LATEX_TABLE = [
    # part, output, parameters, of them not trainable
    ("(x - 128) / 128", "H, W, 1", 0, 0),
    ("conv1 3x3 64, ReLU, max-pool 2x2", "H/2, W/2, 64", 640, 0),
    ("conv2 3x3 128, ReLU, max-pool 2x2", "H/4, W/4, 128", 73_856, 0),
    ("conv3 3x3 256, ReLU, batch norm", "H/4, W/4, 256", 295_168 + 1_024, 512),
    ("conv4 3x3 256, ReLU, max-pool 1x2", "H/4, W/8, 256", 590_080, 0),
    ("conv5 3x3 512, ReLU, batch norm, max-pool 2x1", "H/8, W/8, 512", 1_180_160 + 2_048, 1_024),
    ("conv6 3x3 512, ReLU, batch norm", "H/8, W/8, 512", 2_359_808 + 2_048, 1_024),
    ("row encoder: forward LSTM 256", "H/8 * W/8, 256", 787_456, 0),
    ("row encoder: backward LSTM 256", "H/8 * W/8, 256", 787_456, 0),
    ("embedding 80", "T, 80", 40_320, 0),
    ("decoder: attention, LSTM 512, state of 1536", "T, 504", 2_258_944, 0),
]


def test_the_summary_has_the_rows_of_image2latex_tf2():
    parts = summarise(ModelConfig(), 504, 8)
    assert [(part.name, part.output, part.trainable + part.fixed, part.fixed) for part in parts] == IMAGE2LATEX_TABLE


def test_the_model_of_image2latex_tf2_has_its_parameters(image2latex_model):
    assert image2latex_model.count_params() == 8_379_008
    assert sum(int(np.prod(weight.shape)) for weight in image2latex_model.non_trainable_weights) == 2_560


# The paper's table 1 rounds 9.48 and 15.85 million, and names no vocabulary; these are with Image2Latex-TF2's 504.
PAPER_PARTS = {
    "convolutions, with biases": 640 + 73_856 + 295_168 + 590_080 + 1_180_160 + 2_359_808,
    "batch norm: scale, shift, mean and variance": 4 * (256 + 512 + 512),
    "row encoder, two directions": 2 * 787_456,
    "row encoder's initial states: h and c, two directions, 20 rows": 2 * 2 * 20 * 256,
    "embedding": 504 * 80,
    "decoder's gates: embedding, output, hidden, bias": (80 + 512 + 512 + 1) * 4 * 512,
    "attention": 512 * 512,
    "combination": 2 * 512 * 512,
    "logits": 512 * 504,
}
COARSE_PARTS = {
    "two convolutions": 2 * 2_359_808,
    "their batch norm": 2 * 4 * 512,
    "coarse row encoder": 2 * 787_456,
    "its initial states, 5 rows": 2 * 2 * 5 * 256,
}


@pytest.mark.parametrize(
    ("preset", "parts", "published"),
    [("paper", PAPER_PARTS, 9.48e6), ("paper-coarse-to-fine", PAPER_PARTS | COARSE_PARTS, 15.85e6)],
)
def test_parameters_of_the_papers_models(preset, parts, published):
    config = load_config(preset)
    rows = config.image.max_height // 8
    assert rows == 20
    total = sum(parts.values())
    assert FormulaModel(config.model, 504, max_rows=rows).count_params() == total
    assert sum(part.trainable + part.fixed for part in summarise(config.model, 504, rows)) == total
    assert total == pytest.approx(published, rel=0.01)


def test_every_part_of_the_model_of_image2latex_tf2_has_the_shape_in_the_table(image2latex_model, monkeypatch):
    seen = []
    call = keras.layers.Conv2D.call
    monkeypatch.setattr(keras.layers.Conv2D, "call", lambda layer, x: seen.append(tuple(x.shape)) or call(layer, x))
    inputs = padded([drawing(32, 64)], 0, 0)
    encoded = image2latex_model.encode(inputs["image"], inputs["size"])
    assert seen == [
        (1, 32, 64, 1), (1, 16, 32, 64), (1, 8, 16, 128), (1, 8, 16, 256), (1, 8, 8, 256), (1, 4, 8, 512),
    ]  # fmt: skip
    assert encoded.coarse is None
    assert encoded.fine.values.shape == (1, 4, 8, 256 + 256)
    assert encoded.fine.mask.shape == (1, 4, 8)
    tokens = np.zeros((1, 7), np.int32)
    assert image2latex_model.embedding(tokens).shape == (1, 7, 80)
    assert image2latex_model(inputs | {"tokens": tokens}).shape == (1, 7, 504)
    state = image2latex_model.decoder.initial_state(1)
    assert [tuple(part.shape) for part in state] == [(1, 512)] * 3


def test_pixels_are_brought_between_minus_one_and_one(monkeypatch):
    model = FormulaModel(ModelConfig(**TINY), VOCABULARY)
    seen = []
    call = keras.layers.Conv2D.call
    monkeypatch.setattr(keras.layers.Conv2D, "call", lambda layer, x: seen.append(x) or call(layer, x))
    image = np.full((8, 8), 128)
    image[0, :3] = [0, 64, 255]
    inputs = padded([image], 0, 0)
    model.encode(inputs["image"], inputs["size"])
    assert seen[0][0, 0, :4, 0].numpy().tolist() == [-1, -0.5, 0.9921875, 0]


# --- the equations, and images in batches of any size -----------------------------------------


@CALM
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=4),
    more=st.tuples(st.integers(0, 48), st.integers(0, 80)),
    steps=st.integers(1, 5),
)
def test_an_image_has_the_logits_of_the_equations_in_any_batch_of_any_size(model, logits, sizes, more, steps):
    images = [drawing(*size, seed=i) for i, size in enumerate(sizes)]
    tokens = np.random.default_rng(steps).integers(0, VOCABULARY, (len(images), steps)).astype(np.int32)
    together = logits(images, tokens, *more)
    for i, image in enumerate(images):
        alone = logits([image], tokens[i : i + 1])[0]
        np.testing.assert_allclose(together[i], alone, atol=1e-4)
        np.testing.assert_allclose(alone, reference(model, image, tokens[i])[0], atol=1e-4)


def test_pixels_beyond_an_image_change_nothing(model):
    inputs = padded([drawing(13, 30), drawing(24, 48)], 40, 80) | {"tokens": np.array([[1, 5], [1, 6]], np.int32)}
    before = model(inputs).numpy()
    noise = inputs["image"].copy()
    noise[0, 16:], noise[0, :, 32:] = 7, 99
    noise[1, 24:], noise[1, :, 48:] = 0, 50
    np.testing.assert_allclose(model(inputs | {"image": noise}).numpy(), before, atol=1e-5)
    noise[0, 12, 29] ^= 255
    assert np.abs(model(inputs | {"image": noise}).numpy()[0] - before[0]).max() > 1e-4


def test_features_are_zero_outside_an_image(model):
    inputs = padded([drawing(13, 30), drawing(24, 48)], 0, 0)
    images = (inputs["image"].astype(np.float32) - 128) / 128
    images[0, 16:] = images[0, :, 32:] = 0
    features = model.encoder(images, np.array([(16, 32), (24, 48)]), training=True).numpy()
    assert not features[0, 2:].any()
    assert not features[0, :, 4:].any()
    assert features[0, :2, :4].any(axis=-1).all()


@pytest.mark.parametrize("rows", [0, 5])
def test_row_encoder_reads_every_row_in_both_directions_independently(rows):
    rng = np.random.default_rng(3)
    features = rng.normal(size=(3, 4, 7, 5)).astype(np.float32)
    extents = np.array([(4, 7), (4, 3), (2, 1)], np.int32)
    layer = RowEncoder(6, rows=rows)
    layer.build(features.shape)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    read = layer(features, extents).numpy()
    for i, columns in enumerate([7, 3, 1]):
        expected = reference_rows(layer, features[i, :, :columns])
        np.testing.assert_allclose(read[i, :, :columns], expected, atol=1e-5)


def test_row_encoder_equals_the_lstm_of_keras_in_both_directions():
    features = np.random.default_rng(4).normal(size=(1, 2, 6, 5)).astype(np.float32)
    layer = RowEncoder(3)
    layer.build(features.shape)
    both = keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True))
    both.build((2, 6, 5))
    weights = [(layer.kernels[i], layer.recurrent_kernels[i], layer.biases[i]) for i in range(2)]
    both.set_weights([weight.numpy() for direction in weights for weight in direction])
    read = layer(features, np.array([(2, 6)], np.int32))
    np.testing.assert_allclose(read[0], both(features[0]), atol=1e-6)


def test_a_step_follows_from_hidden_cell_and_output_alone(model):
    image = drawing(16, 24)
    memories = model.decoder.remember(model.encode(*padded([image], 0, 0).values()))
    state, kernels = model.decoder.initial_state(1), model.decoder.kernels()
    tokens = [1, 5, 9, 4]
    stepped = []
    for token in tokens:
        logits, state, _ = model.step(np.array([token]), state, memories, kernels)
        stepped.append(logits.numpy()[0])
    np.testing.assert_allclose(stepped, reference(model, image, tokens)[0], atol=1e-4)
    # Without the hidden-to-hidden term h is only looked at: another h gives the same next step.
    moved = DecoderState(state.hidden + 1, state.cell, state.output)
    other, _, _ = model.step(np.array([7]), moved, memories, kernels)
    logits, _, _ = model.step(np.array([7]), state, memories, kernels)
    assert np.allclose(other, logits, atol=1e-6) != model.config.hidden_recurrence


def test_attention_maps_are_the_weights_of_each_step_laid_over_the_image(model):
    images = [drawing(10, 12), drawing(40, 51)]
    tokens = np.array([[1, 5, 9], [1, 7, 3]], np.int32)
    inputs = padded(images, 48, 88)
    maps = model.attention_maps(inputs["image"], inputs["size"], tokens)
    kind = model.config.attention
    assert set(maps) == {"standard": {"fine"}, "coarse_only": {"coarse"}}.get(kind, {"coarse", "fine"})
    shapes = {"fine": (2, 3, 6, 11), "coarse": (2, 3, 2, 3)}
    for i, image in enumerate(images):
        for step, expected in enumerate(reference(model, image, tokens[i])[1]):
            for name, weights in zip(("coarse", "fine"), expected, strict=True):
                if weights is not None:
                    assert maps[name].shape == shapes[name]
                    laid = np.zeros(shapes[name][2:])
                    laid[: weights.shape[0], : weights.shape[1]] = weights
                    np.testing.assert_allclose(maps[name][i, step], laid, atol=1e-4)


def test_lookups_are_counted_at_each_step(model):
    images = [drawing(10, 12), drawing(40, 51)]  # 2 x 2 and 5 x 7 cells, below 1 x 1 and 2 x 2 coarse ones
    tokens = np.array([[1, 5, 9], [1, 7, 3]], np.int32)
    inputs = padded(images, 48, 88)
    coarse, fine = (np.array(count) for count in model.lookups(inputs["image"], inputs["size"], tokens))
    kind = model.config.attention
    assert coarse.tolist() == ([[0] * 3] * 2 if kind == "standard" else [[1] * 3, [4] * 3])
    if kind in ("standard", "hierarchical"):
        assert fine.tolist() == [[4] * 3, [35] * 3]
    elif kind == "coarse_only":
        assert not fine.any()
    else:
        blocks = [16, 12, 4, 3]  # cells below each coarse cell of the second image
        sums = {sum(chosen) for count in range(1, 5) for chosen in itertools.combinations(blocks, count)}
        assert fine[0].tolist() == [4] * 3
        assert set(fine[1]) <= (set(blocks) if kind == "hard" else sums)


# --- learning ---------------------------------------------------------------------------------


def test_batch_norm_counts_only_what_lies_inside():
    rng = np.random.default_rng(6)
    x = rng.normal(3, 2, (2, 4, 5, 3)).astype(np.float32)
    inside = np.zeros((2, 4, 5, 1), np.float32)
    inside[0, :2, :3], inside[1, :4, :1] = 1, 1
    layer = MaskedBatchNormalization(momentum=0.9, epsilon=1e-5)
    layer.build(x.shape)
    layer.gamma.assign([1, 2, 3])
    layer.beta.assign([0, -1, 1])
    normalised = layer(x, training=True, inside=inside).numpy()
    counted = x[inside[..., 0] == 1]
    assert counted.shape == (10, 3)
    mean, variance = counted.mean(axis=0), counted.var(axis=0)
    expected = (counted - mean) / np.sqrt(variance + 1e-5) * [1, 2, 3] + [0, -1, 1]
    np.testing.assert_allclose(normalised[inside[..., 0] == 1], expected, atol=1e-4)
    np.testing.assert_allclose(layer.moving_mean, 0.9 * 0 + 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 * 1 + 0.1 * variance, atol=1e-5)


def test_batch_norm_applies_the_moving_statistics_when_not_training():
    layer = MaskedBatchNormalization(momentum=0.9, epsilon=1e-5)
    layer.build((1, 1, 1, 2))
    layer.moving_mean.assign([1, 2])
    layer.moving_variance.assign([4, 9])
    np.testing.assert_allclose(layer(np.ones((1, 1, 1, 2)))[0, 0, 0], [0, -1 / 3], atol=1e-5)


# Hard attention draws another sample for another shape.
@pytest.mark.parametrize("model", [name for name in VARIANTS if name != "hard"], indirect=True)
def test_padding_changes_neither_gradients_nor_moving_statistics(model):
    """Tests `training=True` with more white on the right and below, and more padding after the tokens."""
    images = [drawing(16, 40), drawing(30, 17)]
    tokens = np.array([[1, 5, 6], [1, 7, 0]], np.int32)
    targets = np.array([[5, 6, 2], [7, 2, 0]], np.int32)
    weights = np.array([[1, 1, 1], [1, 1, 0]], np.float32)
    loss = TokenCrossEntropy(label_smoothing=0.1)
    before = [variable.numpy() for variable in model.variables]

    def learn(height, width, steps):
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
        wider = [(0, 0), (0, steps)]
        inputs = padded(images, height, width) | {"tokens": np.pad(tokens, wider)}
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            value = loss(np.pad(targets, wider), logits, sample_weight=np.pad(weights, wider))
        gradients = tape.gradient(value, [weight.value for weight in model.trainable_weights])
        gradients = [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]
        return value.numpy(), gradients, [weight.numpy() for weight in model.non_trainable_weights]

    try:
        value, gradients, moving = learn(0, 0, 0)
        more_value, more_gradients, more_moving = learn(48, 88, 4)
    finally:
        for variable, kept in zip(model.variables, before, strict=True):
            variable.assign(kept)
    assert value == pytest.approx(more_value, abs=1e-5)
    for weight, gradient, more in zip(model.trainable_weights, gradients, more_gradients, strict=True):
        assert np.abs(gradient).max() > 0, weight.path
        np.testing.assert_allclose(more, gradient, atol=1e-4, err_msg=weight.path)
    for one, other, start in zip(moving, more_moving, [w.numpy() for w in model.non_trainable_weights], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
        assert np.abs(one - start).max() > 0


def test_dropout_is_active_in_training_alone():
    model = build_model(TINY | {"dropout": 0.5})
    encoded = model.encode(*padded([drawing(16, 16)], 0, 0).values())
    embedded = model.embedding(np.array([[1, 5, 6]]))
    calm = model.decoder(encoded, embedded).numpy()
    np.testing.assert_array_equal(model.decoder(encoded, embedded).numpy(), calm)
    one, other = (model.decoder(encoded, embedded, training=True).numpy() for _ in range(2))
    assert not np.allclose(one, calm)
    assert not np.allclose(one, other)


# --- no backend but Keras's -------------------------------------------------------------------

ON_ANOTHER_BACKEND = """
import json, sys
import numpy as np
from trainer_module.config.model import ModelConfig
from trainer_module.decoding import search
from trainer_module.model import FormulaModel

import jax
from trainer_module.training import TokenCrossEntropy

for variant in json.loads(sys.argv[2]):
    given = np.load(f"{sys.argv[1]}/{variant}.npz")
    model = FormulaModel(ModelConfig(**json.loads(sys.argv[2])[variant]), 11, max_rows=6)
    for i, weight in enumerate(model.weights):
        weight.assign(given[f"weight{i}"])
    inputs = {name: given[name] for name in ("image", "size", "tokens")}
    fixed = [variable.value for variable in model.non_trainable_variables]

    def loss(trainable):
        logits, _ = model.stateless_call(trainable, fixed, inputs)
        return TokenCrossEntropy()(given["targets"], logits), logits

    trainable = [variable.value for variable in model.trainable_variables]
    (_, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(trainable)
    read = jax.jit(lambda image, size: search(model, image, size, 6, width=3))(inputs["image"], inputs["size"])
    np.savez(
        f"{sys.argv[1]}/{variant}-out.npz", logits=logits, read=read.tokens, log_probability=read.log_probability,
        **{f"gradient{i}": gradient for i, gradient in enumerate(gradients)},
    )
"""


@pytest.mark.integration
def test_jax_gives_the_same_results_as_tensorflow(tmp_path):
    pytest.importorskip("jax")
    assert keras.backend.backend() == "tensorflow"
    inputs = padded([drawing(17, 30), drawing(24, 44)], 0, 0) | {"tokens": np.array([[1, 5, 6], [1, 7, 3]], np.int32)}
    targets = np.array([[5, 6, 2], [7, 3, 2]], np.int32)
    variants = {name: VARIANTS[name] for name in ("image2latex-tf2", "hierarchical", "sparsemax", "hard")}
    models = {name: build_model(variant) for name, variant in variants.items()}
    for name, model in models.items():
        weights = {f"weight{i}": weight.numpy() for i, weight in enumerate(model.weights)}
        np.savez(tmp_path / f"{name}.npz", **inputs, **weights, targets=targets)
    folder = Path(trainer_module.__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", ON_ANOTHER_BACKEND, tmp_path, json.dumps(variants)],
        # Compiling takes most of the time.
        env=os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(folder), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        check=True,
    )
    for name, model in models.items():
        got = np.load(tmp_path / f"{name}-out.npz")
        np.testing.assert_allclose(got["logits"], model(inputs), atol=1e-4)
        read = search(model, inputs["image"], inputs["size"], 6, width=3)
        np.testing.assert_array_equal(got["read"], read.tokens)
        np.testing.assert_allclose(got["log_probability"], read.log_probability, atol=1e-4)
        with tf.GradientTape() as tape:
            value = TokenCrossEntropy()(targets, model(inputs))
        gradients = tape.gradient(value, [weight.value for weight in model.trainable_weights])
        for i, (weight, gradient) in enumerate(zip(model.trainable_weights, gradients, strict=True)):
            expected = tf.convert_to_tensor(gradient)
            np.testing.assert_allclose(got[f"gradient{i}"], expected, atol=1e-4, err_msg=weight.path)


@pytest.mark.parametrize(
    "name",
    [
        "model",
        "encoder",
        "decoder",
        "attention",
        "recurrence",
        "decoding",
        "training",
        "display",
        "weights",
        "features",
        "batching",
        "feeding",
    ]
    + [f"config/{name}" for name in ("__init__", "image", "vocabulary", "model", "training")],
)
def test_the_model_imports_nothing_of_tensorflow(name):
    tree = ast.parse((Path(trainer_module.__file__).parent / f"{name}.py").read_text("utf-8"))
    for_types = [
        node
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and getattr(test.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(test)
    ]
    imported = set()
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    ours = {"trainer_module", "im2latex", "data", "keras", "numpy", "PIL", "pydantic"}
    assert imported <= ours | set(sys.stdlib_module_names)
