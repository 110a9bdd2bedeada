"""Small SavedModels for the check, and a replacement for a model's process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from data.pictures.synthetic import draw_png, formulas
from trainer_module.config.image import ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.features import SPECIAL_TEXTS
from trainer_module.signatures import FormulaReader, NormalisedImages
from trainer_module.trained import Trained
from trainer_module.weights import new_model, weights_of

Answers = dict[str, tf.Tensor]


def draw(count: int) -> list[bytes]:
    """Draws images of different formulas."""
    return [draw_png(formula, em=11) for formula in formulas(count, seed=3, level="simple", max_tokens=8)]


def save_reader(folder: Path) -> FormulaReader:
    """Saves a tiny model of this project, with weights so far from zero that its predictions differ between images."""
    image = ImageConfig(max_height=32, max_width=96, border=2)
    config = ModelConfig(filters=(4, 4, 6, 6, 8, 8), decoder_units=16, embedding_units=8)
    vocabulary = [*SPECIAL_TEXTS, *"abcdefgh"]
    model = new_model(config, image, vocabulary)
    rng = np.random.default_rng(5)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, 0.8, weight.shape))
    reader = FormulaReader(Trained(config, image, vocabulary, 9, weights_of(model)), NormalisedImages(image))
    reader.save(str(folder))
    return reader


def save(folder: Path, answer: Callable[[tf.Tensor], Answers], signature: str = "predict_images") -> Path:
    """Saves a model with some weights that reads (batch,) images with a TensorFlow function."""
    module = tf.Module()
    module.weights = tf.Variable(tf.zeros(64))
    module.answer = tf.function(answer, input_signature=[tf.TensorSpec((None,), tf.string, name="images")])
    tf.saved_model.save(module, str(folder), signatures={signature: module.answer})
    return folder


def sure(images: tf.Tensor, latex: str | bytes = "x", log_probability: float = -1.0) -> Answers:
    """Returns the same answer for each image."""
    return {
        "latex": tf.fill(tf.shape(images), latex),
        "log_probability": tf.fill(tf.shape(images), tf.constant(log_probability, tf.float32)),
    }


def hangs(images: tf.Tensor) -> Answers:
    """Loops forever."""
    zero = tf.shape(images)[0] * 0
    (stuck,) = tf.while_loop(lambda i: i < 1, lambda i: (tf.minimum(i, zero),), (zero,))
    return sure(images) | {"log_probability": tf.fill(tf.shape(images), tf.cast(stuck, tf.float32))}


def dies(images: tf.Tensor) -> Answers:
    """Aborts the process."""
    with tf.control_dependencies([tf.raw_ops.Abort(error_msg="out of luck", exit_without_error=False)]):
        return sure(tf.identity(images))


def not_a_number(images: tf.Tensor) -> Answers:
    """Returns NaN as the log-probability."""
    return sure(images, log_probability=float("nan"))


def latin_1(images: tf.Tensor) -> Answers:
    """Returns text in another encoding."""
    return sure(images, latex=b"\xe4")


def other_types(images: tf.Tensor) -> Answers:
    """Returns log-probabilities of another rank."""
    return sure(images) | {"log_probability": tf.zeros((tf.shape(images)[0], 1))}


def replace_python(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Replaces the Python interpreter that the check starts by a shell script."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
