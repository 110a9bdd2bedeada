"""Calibrates a model's probabilities: fits how often formulas and tokens with a given probability are correct.

This module uses NumPy, SciPy and ONNX Runtime only, so it can calibrate any trained model without TensorFlow.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rapidfuzz.distance import Levenshtein
from scipy.optimize import minimize

from data.spelling import NORMAL, respell
from im2latex.calibration import BINS, Calibration, bins_of, expected_calibration_error, log_odds, sigmoid
from im2latex.errors import ImageError, UserError
from im2latex.images import WHITE
from im2latex.reader import Reader
from im2latex.reading import Beam, Hypothesis
from im2latex.statistics import of_values, to_document
from trainer_module.trained import Trained, save_onnx

# Maximum number of examples, evenly spaced in the data; fitting two parameters does not need more.
EXAMPLES = 2000
# Weight of the prior, in examples, that the model's own probabilities are right.
PRIOR = 4.0


class Read(NamedTuple):
    """A formula that the model has read, and its target."""

    target: str
    read: Hypothesis


class Fit(NamedTuple):
    """A calibration, and the expected calibration error of formulas before and after calibration.

    The error is measured by cross-validation: on one half of the examples, with parameters fitted on the other half.
    """

    calibration: Calibration
    examples: int
    before: float
    after: float
    probabilities: tuple[float, ...]  # of the formulas, by this calibration


def calibrate(
    trained: Trained, examples: Sequence[tuple[bytes, str]], normalised: bool = False, spelling: str = NORMAL
) -> Fit:
    """Calibrates a model's probabilities on examples that were not used in training, with the model's default search.

    Args:
        trained: the model; its existing calibration is ignored.
        examples: encoded pictures and their formulas; at most `EXAMPLES` of them are read.
        normalised: whether the pictures are PNGs that are already normalised for the model.
        spelling: spelling in which formulas are compared, as in `data.spelling.respell`.

    Raises:
        UserError: no picture can be read, or the spelling is unknown.
    """
    step = -(-len(examples) // EXAMPLES)
    return fit(read_examples(trained._replace(calibration=Calibration()), examples[::step], normalised), spelling)


def read_examples(trained: Trained, examples: Sequence[tuple[bytes, str]], normalised: bool) -> list[Read]:
    """Reads examples with ONNX Runtime; leaves out blank pictures and pictures that cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        save_onnx(file, trained)
        reader = Reader(file)
    answers: list[list[Hypothesis] | ImageError]
    if normalised:
        pixels = [np.asarray(Image.open(io.BytesIO(image))) for image, _ in examples]
        examples = [example for example, image in zip(examples, pixels, strict=True) if (image != WHITE).any()]
        readings = reader.read_normalised([image for image in pixels if (image != WHITE).any()], Beam(1))
        answers = [list(reading.alternatives) for reading in readings]
    else:
        answers = reader.read_each([image for image, _ in examples])
    return [
        Read(target, hypotheses[0])
        for (_, target), hypotheses in zip(examples, answers, strict=True)
        if not isinstance(hypotheses, ImageError) and not hypotheses[0].is_of_blank
    ]


def fit(examples: Sequence[Read], spelling: str = NORMAL) -> Fit:
    """Fits the calibration of formulas and of tokens.

    Args:
        examples: readings with the model's uncalibrated probabilities.
        spelling: spelling in which formulas are compared, as in `data.spelling.respell`.

    Raises:
        UserError: there are no examples, or the spelling is unknown.
    """
    if not examples:
        raise UserError("there are no examples with a picture that can be read: nothing to calibrate on")
    targets = [respell(example.target, spelling).split() for example in examples]
    read = [respell(example.read.latex, spelling).split() for example in examples]
    right = np.array(list(map(list.__eq__, targets, read)))
    log_probability = np.array([example.read.log_probability for example in examples])
    odds = log_odds(log_probability)
    of_tokens = np.concatenate([example.read.token_probability for example in examples])
    tokens_right = np.concatenate(
        [right_tokens(target, example.read.latex.split()) for target, example in zip(targets, examples, strict=True)]
    )
    calibration = Calibration(
        *_logistic(log_odds(np.log(np.maximum(of_tokens, 1e-30))), tokens_right), *_logistic(odds, right)
    )
    half = np.arange(len(right)) % 2 == 0
    held_out = np.zeros(len(right))
    for learned in (half, ~half):
        if learned.any() and not learned.all():
            slope, offset = _logistic(odds[learned], right[learned])
            held_out[~learned] = sigmoid(slope * odds[~learned] + offset)
    return Fit(
        calibration,
        len(right),
        calibration_error(sigmoid(odds), right),
        calibration_error(held_out, right),
        tuple(calibration.of_formula(log_probability).tolist()),
    )


def calibrated(trained: Trained, fit: Fit) -> Trained:
    """Returns the model with a calibration, and with the histogram of the confidence that it has on those examples."""
    confidence = to_document({"confidence": of_values("confidence", fit.probabilities)})
    return trained._replace(calibration=fit.calibration, statistics={**trained.statistics, **confidence})


def right_tokens(target: Sequence[str], read: Sequence[str]) -> np.ndarray:
    """Returns which tokens match the target in an alignment with the fewest edits, bool, (len(read),)."""
    right = np.zeros(len(read), bool)
    for block in Levenshtein.opcodes(target, read).as_matching_blocks():
        right[block.b : block.b + block.size] = True
    return right


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    """Returns the expected calibration error of probabilities and whether each is right, both (n,)."""
    bins = bins_of(probability)
    return expected_calibration_error(*(np.bincount(bins, weights, BINS) for weights in (None, right, probability)))


def _logistic(odds: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Fits a logistic regression; returns its slope, which is positive, and offset, regularised by `PRIOR` examples."""
    right = right.astype(np.float64)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, offset = parameters
        z = slope * odds + offset
        wrong_by = sigmoid(z) - right
        value = np.sum(np.logaddexp(0, z) - right * z) + PRIOR / 2 * ((slope - 1) ** 2 + offset**2)
        return value, np.array([np.sum(wrong_by * odds) + PRIOR * (slope - 1), np.sum(wrong_by) + PRIOR * offset])

    result = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.05, 20.0), (-20.0, 20.0)])
    slope, offset = result.x.tolist()
    return round(slope, 6), round(offset, 6)
