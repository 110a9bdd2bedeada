from __future__ import annotations

import numpy as np
import pytest

from im2latex.errors import UserError
from im2latex.weights import WEIGHTS
from tests.trainer_module.test_weights import trained
from trainer_module.trained import Trained, load_description, load_weights, save_weights
from trainer_module.weights import model_of, named_weights


def with_weights(**weights) -> Trained:
    return trained()._replace(weights={name: np.array(value, np.float32) for name, value in weights.items()})


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_a_saved_model_is_loaded_unchanged(tmp_path, precision):
    original = trained(row_embedding=True)._replace(provenance={"data": "mine, ä"})
    save_weights(tmp_path / WEIGHTS, original, precision)
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS]
    for path in (tmp_path, tmp_path / WEIGHTS):
        loaded = load_weights(path)
        assert loaded[:4] == original[:4] and loaded.provenance == original.provenance
        assert load_description(path) == original._replace(weights={})
    model = model_of(loaded)
    for name, variable in named_weights(model).items():
        value, stored = original.weights[name], np.array(variable)
        assert loaded.weights[name].dtype == np.float32
        if precision == "float32" or value.ndim < 2:
            np.testing.assert_array_equal(stored, value)
        elif precision == "float16":  # 11 bits, with an implicit first bit
            np.testing.assert_allclose(stored, value, rtol=2**-11, atol=2**-24)
        else:  # half a step; the largest weight of a channel is 127 steps
            step = np.abs(value).max(axis=tuple(range(value.ndim - 1))) / 127
            assert (np.abs(stored - value) <= 0.5001 * step).all()


def test_int8_has_a_scale_for_each_output_channel(tmp_path):
    # Of the second channel the largest is 1.27, a step 0.01; of the third all are zero; a vector keeps its values.
    kernel = [[254.0, 0.504, 0.0], [-2.0, -1.27, 0.0]]
    save_weights(tmp_path / WEIGHTS, with_weights(kernel=kernel, bias=[0.123456, 1e30]), "int8")
    weights = load_weights(tmp_path).weights
    np.testing.assert_allclose(weights["kernel"], [[254.0, 0.50, 0.0], [-2.0, -1.27, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(weights["bias"], np.array([0.123456, 1e30], np.float32))


@pytest.mark.parametrize(("precision", "value"), [("float16", 70000.0), ("float32", np.nan), ("int8", np.inf)])
def test_values_that_a_precision_cannot_store_are_refused_and_the_old_file_stays(tmp_path, precision, value):
    save_weights(tmp_path / WEIGHTS, with_weights(kernel=[[1.0]]))
    with pytest.raises(UserError, match=f"the weight kernel has values that {precision} cannot store"):
        save_weights(tmp_path / WEIGHTS, with_weights(kernel=[[value]]), precision)
    np.testing.assert_array_equal(load_weights(tmp_path).weights["kernel"], [[1.0]])


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half a file"])
def test_damaged_or_missing_weights_are_a_user_error(tmp_path, damage):
    with pytest.raises(UserError, match="there are no weights in .*: weights.npz is missing; name a file"):
        load_weights(tmp_path)
    with pytest.raises(UserError, match="there is no file .*/mine.npz; name a file"):
        load_weights(tmp_path / "mine.npz")
    (tmp_path / WEIGHTS).write_bytes(damage)
    for load in (load_weights, load_description):
        with pytest.raises(UserError, match="weights.npz is damaged"):
            load(tmp_path)
