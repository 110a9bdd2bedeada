from __future__ import annotations

import keras
import numpy as np
import pytest

from im2latex.errors import UserError
from trainer_module.config.image import ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.features import SPECIAL_TEXTS
from trainer_module.trained import Trained
from trainer_module.weights import average, extended, model_of, named_weights, new_model, warm_start, weights_of

TINY = {"filters": (2, 2, 3, 3, 4, 4), "decoder_units": 6, "embedding_units": 4}
IMAGE = ImageConfig(max_height=32, max_width=64)
VOCABULARY = [*SPECIAL_TEXTS, "x", "\\frac", "ä"]


def trained(seed: int = 0, vocabulary: list[str] = VOCABULARY, **model) -> Trained:
    keras.utils.set_random_seed(seed)
    config = ModelConfig(**TINY | model)
    return Trained(config, IMAGE, vocabulary, 20, weights_of(new_model(config, IMAGE, vocabulary)))


def test_every_weight_has_a_name_of_its_own():
    model = new_model(ModelConfig(**TINY, attention="hard", row_embedding=True), IMAGE, VOCABULARY)
    named = named_weights(model)
    assert [id(variable) for variable in named.values()] == [id(variable) for variable in model.weights]
    assert {"encoder/conv1/kernel", "coarse_row_encoder/row_embedding", "embedding/embeddings", "baseline"} <= set(
        named
    )


def test_a_vocabulary_is_extended_by_the_tokens_of_the_model_to_start_from():
    own, known = [*SPECIAL_TEXTS, "x", "y"], [*SPECIAL_TEXTS, "b", "x", "a"]
    assert extended(own, known) == [*own, "b", "a"]


def test_a_warm_start_moves_the_weights_of_each_token_to_its_new_id():
    other = trained(1)
    vocabulary = [*SPECIAL_TEXTS, "y", "ä", "x"]
    own = trained(2, vocabulary)
    model = model_of(own)
    assert warm_start(model, vocabulary, other.weights, VOCABULARY) == []
    after = weights_of(model)
    places = {0: 0, 1: 1, 2: 2, 3: 3, 5: 6, 6: 4}  # of the new vocabulary, in the old one
    for new, old in places.items():
        np.testing.assert_array_equal(after["embedding/embeddings"][new], other.weights["embedding/embeddings"][old])
        np.testing.assert_array_equal(
            after["decoder/logits_kernel"][:, new], other.weights["decoder/logits_kernel"][:, old]
        )
    np.testing.assert_array_equal(after["embedding/embeddings"][4], own.weights["embedding/embeddings"][4])
    np.testing.assert_array_equal(after["encoder/conv1/kernel"], other.weights["encoder/conv1/kernel"])


def test_an_average_keeps_weights_that_the_other_model_lacks():
    other = trained(1)
    vocabulary = [*SPECIAL_TEXTS, "y", "ä", "x"]
    own = trained(2, vocabulary, attention="hard")
    model = model_of(own)
    average(model, vocabulary, other.weights, VOCABULARY, 0.25)
    after = weights_of(model)
    places = {0: 0, 1: 1, 2: 2, 3: 3, 5: 6, 6: 4}  # of the new vocabulary, in the old one
    for new, old in places.items():
        mean = 0.75 * own.weights["embedding/embeddings"][new] + 0.25 * other.weights["embedding/embeddings"][old]
        np.testing.assert_allclose(after["embedding/embeddings"][new], mean, rtol=1e-6)
    np.testing.assert_allclose(after["embedding/embeddings"][4], own.weights["embedding/embeddings"][4], rtol=1e-6)
    mean = 0.75 * own.weights["encoder/conv1/kernel"] + 0.25 * other.weights["encoder/conv1/kernel"]
    np.testing.assert_allclose(after["encoder/conv1/kernel"], mean, rtol=1e-5, atol=1e-7)
    lacking = "coarse_encoder/conv7/kernel"
    np.testing.assert_allclose(after[lacking], own.weights[lacking], rtol=1e-6)


def test_hard_attention_starts_from_hierarchical():
    model = model_of(trained(2, attention="hard"))
    other = trained(1, attention="hierarchical")
    assert warm_start(model, VOCABULARY, other.weights, VOCABULARY) == ["baseline"]
    np.testing.assert_array_equal(
        weights_of(model)["coarse_encoder/conv7/kernel"], other.weights["coarse_encoder/conv7/kernel"]
    )


@pytest.mark.parametrize("model", [{"decoder_units": 8}, {"embedding_units": 5}, {"filters": (2, 2, 3, 3, 4, 5)}])
def test_a_model_of_other_dimensions_is_refused_and_nothing_changed(model):
    own = trained(2)
    started = model_of(own)
    with pytest.raises(UserError, match=r"the model to start from has .* of shape"):
        warm_start(started, VOCABULARY, trained(1, **model).weights, VOCABULARY)
    for name, value in weights_of(started).items():
        np.testing.assert_array_equal(value, own.weights[name])
