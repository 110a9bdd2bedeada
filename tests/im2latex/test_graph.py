"""Compares the ONNX graph with the Keras model, for every kind of attention: tokens, probabilities, attention."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest

from im2latex.graph import onnx_model
from trainer_module.config.model import ModelConfig
from trainer_module.decoding import Decoded, search
from trainer_module.model import FormulaModel
from trainer_module.trained import Trained, save_weights
from trainer_module.weights import weights_of

GROUPS = ["{", "}", "\\left(", "\\right)", "\\right.", "\\begin{array}", "\\end{array}"]
TEXTS = ["", "", "", *GROUPS, *"abcdefghijklmnopqrst"]
MAX_TOKENS, VOCABULARY = 20, len(TEXTS)
SIZES = np.array([[60, 300], [17, 90], [64, 5], [33, 200]])
SMALL: dict[str, Any] = {"filters": (4, 8, 8, 8, 16, 16), "decoder_units": 16, "embedding_units": 8}
# Every option on and off, and every kind of attention.
CONFIGS = {
    "standard": ModelConfig(**SMALL, position_encoding=True, hidden_recurrence=True),
    "coarse_only": ModelConfig(**SMALL, attention="coarse_only", row_embedding=True, normalisation="before_relu"),
    "hierarchical": ModelConfig(**SMALL, attention="hierarchical", hidden_recurrence=True, row_embedding=True),
    "sparsemax": ModelConfig(**SMALL, attention="sparsemax", position_encoding=True, normalisation="before_relu"),
    "hard": ModelConfig(**SMALL, attention="hard", hidden_recurrence=True),
}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> FormulaModel:
    """Returns a model with large weights and varied statistics, so that different images give different results."""
    keras.utils.set_random_seed(7)
    model = FormulaModel(CONFIGS[request.param], VOCABULARY, max_rows=8)
    rng = np.random.default_rng(3)
    for weight in model.weights:
        value = keras.ops.convert_to_numpy(weight)
        if "variance" in weight.path:
            weight.assign(value + rng.uniform(0, 1, value.shape))
        elif "baseline" not in weight.path:
            weight.assign(2 * value + rng.normal(0, 0.2, value.shape))
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(4)
    images = np.full((len(SIZES), 64, 304), 255, np.uint8)
    for image, (height, width) in zip(images, SIZES, strict=True):
        image[:height, :width] = rng.integers(0, 256, (height, width))
    return images


@pytest.fixture(scope="module")
def session(model: FormulaModel) -> onnxruntime.InferenceSession:
    content = onnx_model(dataclasses.asdict(model.config), weights_of(model), MAX_TOKENS, "{}", vocabulary=TEXTS)
    return onnxruntime.InferenceSession(content)


def run(
    session: onnxruntime.InferenceSession,
    images: np.ndarray,
    sizes: np.ndarray,
    width: int,
    penalty: float,
    views: int = 1,
    cells: dict[str, np.ndarray] | None = None,
    searches: bool = True,
) -> dict[str, np.ndarray]:
    inputs = {
        "image": images, "size": sizes, "search": np.array(searches), "views": np.array(views),
        "width": np.array(width), "length_penalty": np.array(penalty, np.float32),
    }  # fmt: skip
    for name in [each.name for each in session.get_inputs()]:
        if name.startswith("known_"):
            nothing = np.zeros((0, 0, 0, 0), np.float32)
            inputs[name] = cells[name.removeprefix("known_") + "_cells"] if cells else nothing
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


@pytest.mark.parametrize(("width", "penalty"), [(1, 0.0), (4, 0.0), (4, 1.0)])
def test_the_graph_gives_the_same_tokens_and_probabilities(
    model: FormulaModel, session: onnxruntime.InferenceSession, images: np.ndarray, width: int, penalty: float
) -> None:
    inputs = images[..., np.newaxis], SIZES.astype(np.int32)
    expected = search(model, *inputs, MAX_TOKENS, width, penalty, vocabulary=TEXTS)
    actual = run(session, images, SIZES, width, penalty)
    tokens = assert_equal(actual, expected)
    assert len({tuple(best) for best in tokens[:, 0]}) > 1
    without_groups = keras.ops.convert_to_numpy(search(model, *inputs, MAX_TOKENS, width, penalty).tokens)
    assert width == 1 or (tokens != without_groups).any()


def test_the_graph_gives_the_same_formula_for_several_views(
    model: FormulaModel, session: onnxruntime.InferenceSession, images: np.ndarray
) -> None:
    order = [0, 3, 1, 2]
    inputs = images[order][..., np.newaxis], SIZES[order].astype(np.int32)
    expected = search(model, *inputs, MAX_TOKENS, 3, 1.0, 2, TEXTS)
    actual = run(session, images[order], SIZES[order], 3, 1.0, 2)
    tokens = assert_equal(actual, expected)
    np.testing.assert_array_equal(tokens[::2], tokens[1::2])
    alone = run(session, images[order], SIZES[order], 3, 1.0)
    assert (actual["log_probability"][:, 0] != alone["log_probability"][:, 0]).all()


def test_images_that_were_encoded_before_give_the_same_results(
    session: onnxruntime.InferenceSession, images: np.ndarray
) -> None:
    expected = run(session, images, SIZES, 3, 1.0, 2)
    encoded = run(session, images, SIZES, 1, 0.0, searches=False)
    assert encoded["tokens"].shape[2] == 1
    cells = {name: value for name, value in encoded.items() if name.endswith("_cells")}
    for value in cells.values():  # what lies outside the images does not matter
        value[0, :, -(-SIZES[0, 0] // 8) :] = 7.0
    actual = run(session, np.zeros((0, 0, 0), np.uint8), SIZES, 3, 1.0, 2, cells)
    for name in expected.keys() - cells.keys():
        np.testing.assert_array_equal(actual[name], expected[name])


def assert_equal(actual: dict[str, np.ndarray], expected: Decoded) -> np.ndarray:
    """Compares the graph's result with the model's; returns the tokens."""
    tokens, steps = keras.ops.convert_to_numpy(expected.tokens), actual["tokens"].shape[2]
    np.testing.assert_array_equal(actual["tokens"], tokens[:, :, :steps])
    assert not tokens[:, :, steps:].any()
    for name in ("log_probability", "score"):
        value = keras.ops.convert_to_numpy(getattr(expected, name))
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=1e-3)
    return tokens


def test_an_image_reads_the_same_alone_and_in_a_batch(
    session: onnxruntime.InferenceSession, images: np.ndarray
) -> None:
    together = run(session, images, SIZES, 3, 0.0)
    for i, (height, width) in enumerate(-(-SIZES // 8) * 8):
        alone = run(session, images[i : i + 1, :height, :width], SIZES[i : i + 1], 3, 0.0)
        steps = alone["tokens"].shape[2]
        np.testing.assert_array_equal(alone["tokens"][0], together["tokens"][i, :, :steps])
        np.testing.assert_allclose(alone["log_probability"][0], together["log_probability"][i], rtol=0, atol=1e-3)


def test_the_graph_gives_the_same_attention(
    model: FormulaModel, session: onnxruntime.InferenceSession, images: np.ndarray
) -> None:
    outputs = run(session, images, SIZES, 1, 0.0)
    tokens = outputs["tokens"][:, 0, :-1].astype(np.int32)
    before = np.concatenate([np.ones((len(SIZES), 1), np.int32), tokens], axis=1)
    maps = model.attention_maps(images[..., np.newaxis], SIZES.astype(np.int32), before)
    # With a coarse grid, the fine cells are ordered by block.
    grid = "fine" if model.config.attention == "standard" else "coarse"
    expected = keras.ops.convert_to_numpy(maps[grid]).reshape(*before.shape, -1)
    for i, length in enumerate((tokens != 0).sum(axis=1)):
        # Compare up to the end token; after it, one continues from the end token and the other from padding.
        np.testing.assert_allclose(outputs[grid][: length + 1, i, 0], expected[i, : length + 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_weights_keep_their_stored_dtype_and_give_the_same_results(
    model: FormulaModel, images: np.ndarray, precision: Any, tmp_path: Any
) -> None:
    from im2latex.weights import DESCRIPTION, opened_weights
    from trainer_module.config.image import ImageConfig
    from trainer_module.trained import load_weights

    config = dataclasses.asdict(model.config)
    trained = Trained(model.config, ImageConfig(), ["x"] * VOCABULARY, MAX_TOKENS, weights_of(model))
    save_weights(tmp_path / "weights.npz", trained, precision)
    with opened_weights(tmp_path) as saved:
        stored = {name: saved[name] for name in saved if name != DESCRIPTION}
    small = onnx_model(config, stored, MAX_TOKENS, "{}")
    whole = onnx_model(config, load_weights(tmp_path / "weights.npz").weights, MAX_TOKENS, "{}")
    assert len(small) < 0.8 * len(whole)
    actual, expected = (run(onnxruntime.InferenceSession(content), images, SIZES, 2, 0.0) for content in (small, whole))
    np.testing.assert_array_equal(actual["tokens"], expected["tokens"])
    np.testing.assert_allclose(actual["log_probability"], expected["log_probability"], atol=1e-4)
