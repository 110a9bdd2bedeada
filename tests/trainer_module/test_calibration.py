"""Probabilities that are calibrated on some examples are calibrated on others."""

from __future__ import annotations

import io
import math

import keras
import numpy as np
import pytest
from PIL import Image

from im2latex.calibration import Calibration, bins_of
from im2latex.errors import UserError
from im2latex.reading import Hypothesis
from trainer_module.calibration import (
    Read,
    calibrate,
    calibration_error,
    fit,
    read_examples,
    right_tokens,
)
from trainer_module.config.image import ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.features import SPECIAL_TEXTS
from trainer_module.trained import Trained
from trainer_module.weights import new_model, weights_of


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def read(probability: float, is_right: bool) -> Read:
    """A reading of "c", which is one token."""
    return Read("c", Hypothesis("c" if is_right else "d", float(np.log(probability)), 0.0, 0.0, (probability,)))


def test_an_overconfident_model_is_calibrated() -> None:
    rng = np.random.default_rng(5)
    odds = rng.normal(0.5, 2.5, 6000)
    # The model's log-odds are twice what they should be, and one too high.
    is_right = rng.random(6000) < sigmoid(0.5 * odds - 0.5)
    fitted = fit([read(p, right) for p, right in zip(sigmoid(odds).tolist(), is_right.tolist(), strict=True)])
    assert fitted.examples == 6000
    assert fitted.calibration == pytest.approx((0.5, -0.5, 0.5, -0.5), abs=0.08)
    assert fitted.before > 0.12 and fitted.after < 0.03
    # The model stores its confidence on these examples with it.
    np.testing.assert_allclose(fitted.probabilities, sigmoid(0.5 * odds - 0.5), atol=0.03)


@pytest.mark.parametrize(("spelling", "is_right"), [("normal", True), ("im2markup", False)])
def test_formulas_are_compared_in_the_spelling_of_the_data(spelling: str, is_right: bool) -> None:
    synonyms = Read(r"\rightarrow", Hypothesis(r"\to", float(np.log(0.7)), 0.0, 0.0, (0.7,)))
    calibration = fit([synonyms] * 200, spelling).calibration
    of_tokens = sigmoid(np.array(calibration.token_slope * np.log(7 / 3) + calibration.token_offset))
    of_formulas = sigmoid(np.array(calibration.formula_slope * np.log(7 / 3) + calibration.formula_offset))
    assert (of_formulas > 0.9) == is_right and (of_formulas < 0.1) == (not is_right)
    assert of_tokens == pytest.approx(of_formulas)


def test_the_probability_of_a_formula_is_calibrated() -> None:
    assert Calibration().of_formula(math.log(0.25)) == pytest.approx(0.25)
    calibration = Calibration(1.0, 0.0, 0.5, -1.0)
    assert calibration.of_formula(math.log(0.2)) == pytest.approx(0.5 / (0.5 + math.e))  # odds of 1/4
    assert calibration.of_formula(-3000.0) == pytest.approx(0.0) and calibration.of_formula(0.0) > 0.99


def test_few_examples_hardly_change_anything() -> None:
    (slope, offset) = fit([read(0.7, True)]).calibration[2:]
    assert slope == pytest.approx(1, abs=0.1) and 0 < offset < 0.3
    all_wrong = fit([read(0.9, False)] * 50).calibration
    assert sigmoid(np.array(all_wrong.formula_slope * np.log(9) + all_wrong.formula_offset)) < 0.15
    with pytest.raises(UserError, match="nothing to calibrate on"):
        fit([])


def test_the_calibration_error_is_the_mean_distance_of_the_bins() -> None:
    # 0.2 and 0.28 together are right once in two; 0.95 is right; 1.0 is in the last bin too, and wrong.
    probability, right = np.array([0.2, 0.28, 0.95, 1.0]), np.array([True, False, True, False])
    assert bins_of(probability).tolist() == [2, 2, 9, 9]
    assert calibration_error(probability, right) == pytest.approx((abs(0.48 - 1) + abs(1.95 - 1)) / 4)
    assert calibration_error(np.array([]), np.array([])) == 0


def test_tokens_are_right_where_the_alignment_has_them() -> None:
    assert right_tokens(["x", "+", "y"], ["x", "y"]).tolist() == [True, True]
    assert right_tokens(["x", "+", "y"], ["z", "+", "+", "y"]).tolist()[::3] == [False, True]
    assert right_tokens([], ["x"]).tolist() == [False]


def test_an_uncalibrated_model_keeps_its_probabilities() -> None:
    assert Calibration() == (1.0, 0.0, 1.0, 0.0)


def test_a_model_is_calibrated_on_the_given_data() -> None:
    """Pictures as Transform leaves them; one without ink is left out."""
    config = ModelConfig(filters=(4, 4, 6, 6, 8, 8), decoder_units=16, embedding_units=8)
    image, vocabulary = ImageConfig(max_height=32, max_width=96, border=2), [*SPECIAL_TEXTS, *"abcdefgh"]
    keras.utils.set_random_seed(2)
    model = new_model(config, image, vocabulary)
    rng = np.random.default_rng(4)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, 0.8, weight.shape))
    trained = Trained(config, image, vocabulary, 9, weights_of(model), calibration=Calibration(7, 7, 7, 7))

    def png(height: int, width: int, level: int = 0) -> bytes:
        file = io.BytesIO()
        pixels = np.maximum(rng.integers(0, 256, (height, width)), level).astype(np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    images = [png(24, 8 * width) for width in range(2, 12)]
    read = read_examples(trained._replace(calibration=Calibration()), [(one, "") for one in images], normalised=True)
    assert [one.read.probability for one in read] == pytest.approx(
        [np.exp(one.read.log_probability) for one in read], abs=2e-5
    )
    # Every second one is right, according to its target.
    examples = [
        (one, r.read.latex if i % 2 else "h h h h") for i, (one, r) in enumerate(zip(images, read, strict=True))
    ]
    fitted = calibrate(trained, [*examples, (png(24, 40, 255), "")], normalised=True)
    assert fitted == fit([Read(target, one.read) for (_, target), one in zip(examples, read, strict=True)])
    assert fitted.examples == 10
