from __future__ import annotations

import numpy as np
import pytest

from tests.trainer_module.test_model import TINY, VOCABULARY, build_model, drawing, padded
from trainer_module import widening
from trainer_module.config.image import ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.model import FormulaModel
from trainer_module.trained import Trained
from trainer_module.weights import named_weights, weights_of
from trainer_module.widening import widen, widened

NARROW = TINY | {"hidden_recurrence": True}
INPUTS = padded([drawing(32, 56), drawing(24, 40)], 0, 0) | {"tokens": np.array([[1, 4, 5], [1, 7, 9]], np.int32)}


def logits(filters: tuple[int, ...], units: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logits of a narrow model and of the wide one made from it."""
    narrow = build_model(NARROW)
    config = ModelConfig(**NARROW | {"filters": filters, "decoder_units": units})
    wide = FormulaModel(config, VOCABULARY)
    weights = widen(weights_of(narrow), narrow.config, config, seed=0)
    for name, variable in named_weights(wide).items():
        variable.assign(weights[name])
    return np.array(narrow(INPUTS)), np.array(wide(INPUTS))


@pytest.mark.parametrize(("filters", "units"), [((8, 10, 12, 14, 16, 18), 12), ((5, 5, 9, 7, 20, 13), 10)])
def test_a_widened_model_computes_the_same(monkeypatch, filters, units):
    monkeypatch.setattr(widening, "NOISE", 0.0)
    narrow, wide = logits(filters, units)
    np.testing.assert_allclose(wide, narrow, rtol=1e-4, atol=1e-4)


def test_noise_makes_copies_differ_and_hardly_changes_the_model():
    narrow, wide = logits((8, 10, 12, 14, 16, 18), 12)
    assert 0 < np.abs(wide - narrow).max() < 0.3 * np.abs(narrow).max()
    config = ModelConfig(**NARROW | {"decoder_units": 12})
    kernel = widen(weights_of(build_model(NARROW)), ModelConfig(**NARROW), config, seed=0)["decoder/output_kernel"]
    assert (kernel[0] != kernel[6]).all()  # the first unit and its copy


@pytest.mark.parametrize(
    ("changes", "is_widened"),
    [
        ({"decoder_units": 12}, True),
        ({"decoder_units": 12, "dropout": 0.1, "position_encoding": True}, True),
        ({}, False),
        ({"decoder_units": 4}, False),
        ({"filters": (8, 10, 12, 14, 16, 4)}, False),
        ({"decoder_units": 12, "embedding_units": 9}, False),
        ({"decoder_units": 12, "attention": "hierarchical"}, False),
    ],
)
def test_only_a_narrower_model_of_the_same_kind_is_widened(changes, is_widened):
    narrow = build_model(NARROW)
    start = Trained(narrow.config, ImageConfig(), [], 9, weights_of(narrow))
    weights = widened(start, ModelConfig(**NARROW | changes), seed=0)
    assert (weights is not start.weights) == is_widened
    if is_widened:
        assert weights["decoder/logits_kernel"].shape[0] == changes["decoder_units"]
