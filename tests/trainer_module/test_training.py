from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import trainer_module
from data.pictures.synthetic import draw_png, formulas
from im2latex.errors import UserError
from trainer_module import augmentation, training
from trainer_module.batching import Buckets, collate, plan
from trainer_module.config.model import ModelConfig
from trainer_module.config.training import TrainingConfig
from trainer_module.decoding import search
from trainer_module.examples import Example
from trainer_module.model import FormulaModel
from trainer_module.optimizer import LearningRate, make_optimizer
from trainer_module.training import (
    CHECKPOINT,
    Checkpointing,
    Perplexity,
    Progress,
    TokenCrossEntropy,
)

# --- loss, schedule, optimiser ----------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_mean_over_tokens_with_weight(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 3, 5)).astype(np.float32)
    targets = np.array([[4, 0, 2], [1, 3, 0]], np.int32)
    weights = np.array([[1, 1, 1], [1, 0, 0]], np.float32)
    terms = []
    for i, step in zip(*np.nonzero(weights), strict=True):
        probabilities = np.exp(logits[i, step]) / np.exp(logits[i, step]).sum()
        wanted = np.full(5, smoothing / 5)
        wanted[targets[i, step]] += 1 - smoothing
        terms.append(-(wanted * np.log(probabilities)).sum())
    assert len(terms) == 4
    loss = TokenCrossEntropy(smoothing)(targets, logits, sample_weight=weights)
    assert float(loss) == pytest.approx(np.mean(terms), rel=1e-5)


def test_loss_of_even_odds_is_the_logarithm_of_the_vocabulary():
    loss = TokenCrossEntropy()(np.zeros((1, 2), np.int32), np.zeros((1, 2, 8), np.float32))
    assert float(loss) == pytest.approx(3 * math.log(2))


def test_learning_rate_rises_in_a_line_and_falls_as_a_cosine():
    rate = LearningRate(0.8, warmup_steps=4, cosine_steps=12)
    # cos: 1 at the peak, cos(pi/4) a quarter on, 0 half way, -1 at the end.
    rates = [float(rate(step)) for step in (0, 1, 3, 5, 7, 9, 11, 20)]
    quarter = math.sqrt(0.5)
    expected = [0.2, 0.4, 0.8, 0.4 * (1 + quarter), 0.4, 0.4 * (1 - quarter), 0, 0]
    assert rates == pytest.approx(expected, abs=1e-6)


def test_learning_rate_without_warm_up_starts_at_its_peak():
    assert float(LearningRate(0.5, warmup_steps=0, cosine_steps=1000)(0)) == pytest.approx(0.5, rel=1e-4)


def test_learning_rate_may_stay_after_warm_up():
    rate = LearningRate(0.5, warmup_steps=2, cosine_steps=None, factor=0.5)
    assert [float(rate(step)) for step in (0, 1, 2, 1000)] == pytest.approx([0.125, 0.25, 0.25, 0.25])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizer_is_the_configured_one_at_its_rate(name):
    optimizer = make_optimizer(
        TrainingConfig(optimizer=name, learning_rate=0.25, schedule="constant", weight_decay=0.5), 10
    )
    assert optimizer.weight_decay == (0.5 if name == "adamw" else None)
    assert type(optimizer).__name__.lower() == name
    assert float(optimizer.learning_rate) == 0.25


def test_gradients_are_clipped_to_their_global_norm():
    weights = [keras.Variable([0.0, 0.0]), keras.Variable([0.0])]
    optimizer = make_optimizer(TrainingConfig(optimizer="sgd", learning_rate=1, schedule="constant", clip_norm=6.5), 1)
    gradients = [keras.ops.convert_to_tensor(gradient) for gradient in ([3.0, 4.0], [12.0])]  # of norm 13
    optimizer.apply(gradients, weights)
    np.testing.assert_allclose([*weights[0].numpy(), *weights[1].numpy()], [-1.5, -2, -6], rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_damaged_gradient_does_not_damage_the_weights(name):
    weights = [keras.Variable([1.0, 2.0]), keras.Variable([3.0])]
    optimizer = make_optimizer(
        TrainingConfig(optimizer=name, learning_rate=0.1, schedule="constant", weight_decay=0), 1
    )

    def apply(*gradients):
        optimizer.apply([keras.ops.convert_to_tensor(gradient) for gradient in gradients], weights)
        return [*weights[0].numpy(), *weights[1].numpy()]

    assert apply([math.nan, 1.0], [1.0]) == pytest.approx([1, 2, 3])
    assert apply([0.0, 1.0], [math.inf]) == pytest.approx([1, 2, 3])
    moved = apply([1.0, 1.0], [1.0])
    assert np.isfinite(moved).all() and moved[0] < 1 and moved[2] < 3
    assert int(optimizer.skipped.numpy()) == 2


# --- the loop ---------------------------------------------------------------------------------

TINY = {"filters": (2, 3, 4, 4, 4, 5), "decoder_units": 6, "embedding_units": 4, "dropout": 0.4}
VOCABULARY = 9
# Two full batches an epoch and one smaller; a learning rate at which the weights move.
LEARNING = {"epochs": 3, "batch_size": 4, "optimizer": "adam", "learning_rate": 0.01, "schedule": "cosine"}


def example(seed: int, height: int = 16, width: int = 24) -> Example:
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width), np.uint8)).save(file, "PNG")
    return Example(file.getvalue(), height, width, rng.integers(4, VOCABULARY, 2 + seed % 3).astype(np.int32))


TRAINING, VALIDATION = [example(seed) for seed in range(10)], [example(seed) for seed in range(10, 14)]


@contextlib.contextmanager
def without_graphs() -> Iterator[None]:
    """Runs functions eagerly, because tracing would take most of the time of these short trainings."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def eagerly() -> Iterator[None]:
    with without_graphs():
        yield


def train(model, config: TrainingConfig, learnt: list[Example], watched: list[Example], **options) -> Progress:
    """Trains with batches of equal size, which Keras on TensorFlow requires without a dataset."""
    buckets = Buckets([*learnt, *watched], 1)

    def feed(source):
        return (buckets.fill(batch, config.batch_size) for batch in source())

    return training.train(model, config, learnt, watched, feed=feed, **options)


def tiny() -> FormulaModel:
    keras.utils.set_random_seed(5)
    return FormulaModel(ModelConfig(**TINY), VOCABULARY)


def weights(model: FormulaModel) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.variables]


def assert_same(model: FormulaModel, expected: list[np.ndarray]) -> None:
    for variable, value in zip(model.variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, atol=1e-6, err_msg=variable.path)


def test_a_tiny_model_learns_eight_formulas_by_heart():
    texts = [formula.split() for formula in formulas(8, seed=3, level="simple", max_tokens=4)]
    vocabulary = sorted({token for text in texts for token in text})
    learnt = []
    for text in texts:
        png = draw_png(" ".join(text), em=11)
        width, height = Image.open(io.BytesIO(png)).size
        ids = np.array([4 + vocabulary.index(token) for token in text], np.int32)
        learnt.append(Example(png, height, width, ids))
    keras.utils.set_random_seed(0)
    config = ModelConfig(filters=(8, 8, 16, 16, 32, 32), decoder_units=64, embedding_units=16)
    model = FormulaModel(config, 4 + len(vocabulary))
    knobs = TrainingConfig(epochs=8, batch_size=8, optimizer="adam", learning_rate=0.01, schedule="cosine")
    progress = train(model, knobs, 14 * learnt, learnt)  # over and over, because starting an epoch takes time
    batch = collate(learnt)
    decoded = search(model, batch.inputs["image"], batch.inputs["size"], 10)
    read = [[vocabulary[token - 4] for token in row if token] for row in decoded.tokens.numpy()[:, 0]]
    assert read == texts
    assert progress.perplexities[0] > 7
    assert progress.best < 1.6


@pytest.mark.usefixtures("eagerly")
def test_the_model_ends_with_the_weights_of_the_best_epoch(monkeypatch):
    # The validation loss falls, then rises: of four epochs the second is the best.
    perplexities, after = iter([3.0, 1.0, 2.0, 2.5]), []
    fit = FormulaModel.fit

    def fit_and_judge(model, *arguments, **options):
        history = fit(model, *arguments, **options)
        after.append(weights(model))
        history.history["val_perplexity"] = [next(perplexities)]
        return history

    monkeypatch.setattr(FormulaModel, "fit", fit_and_judge)
    model = tiny()
    progress = train(model, TrainingConfig(**LEARNING | {"epochs": 4, "batch_size": 10}), TRAINING, VALIDATION)
    assert (progress.best, progress.perplexities) == (1.0, [3.0, 1.0, 2.0, 2.5])
    assert_same(model, after[1])
    assert any(np.abs(one - other).max() > 1e-4 for one, other in zip(after[1], after[3], strict=True))


def judged(monkeypatch, perplexities: list[float]) -> list[float]:
    """Makes `fit` return these perplexities without training; returns a list that collects the learning rates."""
    left, rates = iter(perplexities), []

    def fit(model, *arguments, **options):
        rates.append(float(model.optimizer.learning_rate))
        return SimpleNamespace(history={"val_perplexity": [next(left)]})

    monkeypatch.setattr(FormulaModel, "fit", fit)
    return rates


def test_learning_rate_halves_when_validation_stalls(monkeypatch):
    rates = judged(monkeypatch, [3.0, 3.0, 2.0, 2.5, 1.0])
    config = TrainingConfig(epochs=5, batch_size=10, learning_rate=0.5, schedule="plateau")
    train(tiny(), config, TRAINING, VALIDATION)
    assert rates == [0.5, 0.5, 0.25, 0.25, 0.125]


@pytest.mark.usefixtures("eagerly")
def test_the_best_validation_loss_is_that_of_the_final_weights():
    model = tiny()
    progress = train(model, TrainingConfig(**LEARNING | {"epochs": 2}), TRAINING, VALIDATION)
    batch = collate(VALIDATION)  # batch_size is 4: one batch
    logits = model(batch.inputs).numpy().astype(float)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(log_probabilities, batch.targets[..., None], axis=-1)[..., 0]
    mean = -(chosen * batch.weights).sum() / batch.weights.sum()
    assert progress.best == pytest.approx(np.exp(mean), rel=1e-4)
    assert progress.best == min(progress.perplexities)


def test_perplexity_is_that_of_all_tokens_of_all_batches():
    rng = np.random.default_rng(1)
    metric, terms = Perplexity(), []
    for rows, steps in [(2, 3), (1, 5)]:
        logits = rng.normal(0, 2, (rows, steps, 4)).astype(np.float32)
        targets = rng.integers(0, 4, (rows, steps))
        weights = rng.integers(0, 2, (rows, steps)).astype(np.float32)
        metric.update_state(targets, logits, sample_weight=weights)
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        terms += [log_probabilities[i, j, targets[i, j]] for i, j in zip(*np.nonzero(weights), strict=True)]
    assert float(metric.result()) == pytest.approx(np.exp(-np.mean(terms)), rel=1e-5)


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (1, 3), (2, 6)])
def test_training_stops_after_patience_epochs_without_improvement(monkeypatch, patience, epochs):
    judged(monkeypatch, [3.0, 2.0, 2.5, 1.0, 1.5, 0.5])
    config = TrainingConfig(epochs=6, batch_size=10, patience=patience, optimizer="adam", learning_rate=1e-3)
    assert train(tiny(), config, TRAINING, VALIDATION).epoch == epochs


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("terminal", [False, True])
def test_a_training_shows_lines_in_a_file_and_a_bar_on_a_terminal(terminal, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    train(tiny(), TrainingConfig(**LEARNING | {"epochs": 2}), TRAINING, VALIDATION)
    shown = capsys.readouterr().out
    steps = len(plan(TRAINING, LEARNING["batch_size"], 0, 0))
    lines = re.findall(r"^Epoch (\d)/2, step (\d+)/(\d+): loss [\d.]+, perplexity [\d.]+, on", shown, re.MULTILINE)
    assert lines == ([] if terminal else [(epoch, str(steps), str(steps)) for epoch in "12"])
    assert ("\x08" in shown) == ("━" in shown) == terminal


@pytest.mark.usefixtures("eagerly")
def test_training_stops_at_its_deadline(tmp_path):
    config = TrainingConfig(**LEARNING)
    progress = train(tiny(), config, TRAINING, VALIDATION, deadline=time.monotonic() - 1)
    assert (progress.epoch, len(progress.perplexities)) == (1, 1)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("attention", ["hierarchical", "hard"])
def test_coarse_to_fine_models_train(attention):
    keras.utils.set_random_seed(5)
    model = FormulaModel(ModelConfig(**TINY, attention=attention), VOCABULARY)
    before = [weight.numpy() for weight in model.trainable_weights]
    config = TrainingConfig(**LEARNING | {"epochs": 2, "augmentation": 0.5})
    # With more than one coarse cell each.
    progress = train(model, config, [example(seed, 40, 72) for seed in range(6)], VALIDATION)
    assert len(progress.perplexities) == 2
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.abs(weight.numpy() - old).max() > 0, weight.path


@pytest.mark.usefixtures("eagerly")
def test_images_are_degraded_relative_to_their_em(monkeypatch):
    seen = set()

    def degrade(image, kind, strength, rng, em):
        seen.add(em)
        return image

    monkeypatch.setattr(augmentation, "degrade", degrade)
    config = TrainingConfig(**LEARNING | {"epochs": 1, "augmentation": 1.0})
    train(tiny(), config, TRAINING[:2], VALIDATION[:1], glyph_size=20)
    assert seen == {20}


@pytest.mark.usefixtures("eagerly")
def test_lower_precision_keeps_float32_weights():
    keras.utils.set_random_seed(5)
    model = FormulaModel(ModelConfig(**TINY), VOCABULARY, dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(model.encoder.compute_dtype) == "bfloat16"
    config = TrainingConfig(**LEARNING | {"epochs": 1})
    progress = train(model, config, TRAINING, VALIDATION)
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in model.weights} == {"float32"}
    exact = train(tiny(), config, TRAINING, VALIDATION)
    np.testing.assert_allclose(progress.perplexities, exact.perplexities, rtol=0.02)


@pytest.mark.usefixtures("eagerly")
def test_a_training_that_diverges_is_a_user_error():
    # Adam moves every weight by its rate: after four of the five batches they are beyond float32's 3.4e38.
    config = TrainingConfig(**LEARNING | {"batch_size": 2, "learning_rate": 1e38, "schedule": "constant"})
    with pytest.raises(UserError, match=r"diverged.*epoch 1.*training\.learning_rate"):
        train(tiny(), config, TRAINING, VALIDATION)


@pytest.mark.usefixtures("eagerly")
def test_a_training_whose_gradients_stay_damaged_stops_before_the_end_of_the_epoch(monkeypatch):
    monkeypatch.setattr(training, "MOST_SKIPPED", 2)
    config = TrainingConfig(**LEARNING | {"batch_size": 1, "learning_rate": 1e38, "schedule": "constant"})
    with pytest.raises(UserError, match=r"diverged: the gradients of 2 steps in a row.*training\.learning_rate"):
        train(tiny(), config, TRAINING, VALIDATION)


@pytest.mark.usefixtures("eagerly")
def test_skipped_steps_are_reported(monkeypatch, caplog):
    caplog.set_level("WARNING", training.__name__)  # commands in the same process set the level of the root logger
    weigh = TokenCrossEntropy.call
    calls = iter(range(100))
    monkeypatch.setattr(
        TokenCrossEntropy, "call", lambda *arguments: weigh(*arguments) * (math.nan if next(calls) == 2 else 1)
    )
    train(tiny(), TrainingConfig(**LEARNING | {"epochs": 1}), TRAINING, VALIDATION)
    assert "epoch 1: 1 steps were skipped, because their gradients are not finite" in caplog.text


# --- checkpoints ------------------------------------------------------------------------------

OFTEN = {"checkpoint_minutes": 1e-9}


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def uninterrupted(eagerly) -> list[np.ndarray]:
    model = tiny()
    train(model, TrainingConfig(**LEARNING, **OFTEN), TRAINING, VALIDATION)
    return weights(model)


def kill_at(monkeypatch, moment: str) -> None:
    """Makes the training stop in its second epoch, after it has written a checkpoint within the epoch."""
    if moment == "validation":

        def stop(self, logs=None):
            if self.progress.epoch == 1:
                raise Killed

        monkeypatch.setattr(Checkpointing, "on_test_begin", stop)
    else:
        on_train_batch_end = Checkpointing.on_train_batch_end

        def stop(self, batch, logs=None):
            on_train_batch_end(self, batch, logs)
            if (self.progress.epoch, self.progress.batch) == (1, 1):
                raise Killed

        monkeypatch.setattr(Checkpointing, "on_train_batch_end", stop)


@pytest.mark.parametrize("moment", ["first batch", "validation"])
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, monkeypatch, uninterrupted, moment):
    config = TrainingConfig(**LEARNING, **OFTEN)
    with monkeypatch.context() as patch:
        kill_at(patch, moment)
        with pytest.raises(Killed):
            train(tiny(), config, TRAINING, VALIDATION, checkpoints=tmp_path)
    (tmp_path / f"{CHECKPOINT}.writing").write_bytes(b"PK half a checkpoint")
    resumed = FormulaModel(ModelConfig(**TINY), VOCABULARY)  # other weights, until the checkpoint is read
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(Checkpointing, "on_train_batch_begin", lambda self, batch, logs=None: seen.append(batch))
        progress = train(resumed, config, TRAINING, VALIDATION, checkpoints=tmp_path)
    assert_same(resumed, uninterrupted)
    assert (progress.epoch, len(progress.perplexities)) == (3, 3)
    assert len(seen) == {"first batch": 2 + 3, "validation": 1 + 3}[moment]


KILLED_FOR_GOOD = """
import os, signal, sys
from pathlib import Path
from tests.trainer_module.test_training import LEARNING, OFTEN, TRAINING, VALIDATION, tiny, train, without_graphs
from trainer_module.config.training import TrainingConfig
from trainer_module.training import Checkpointing

on_train_batch_end = Checkpointing.on_train_batch_end

def kill(self, batch, logs=None):
    on_train_batch_end(self, batch, logs)
    if (self.progress.epoch, self.progress.batch) == (1, 2):
        os.kill(os.getpid(), signal.SIGKILL)

Checkpointing.on_train_batch_end = kill
with without_graphs():
    train(tiny(), TrainingConfig(**LEARNING, **OFTEN), TRAINING, VALIDATION, checkpoints=Path(sys.argv[1]))
"""


@pytest.mark.integration
def test_a_killed_training_continues_in_another_process(tmp_path, uninterrupted):
    folder = Path(trainer_module.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_FOR_GOOD, tmp_path], env=os.environ | {"PYTHONPATH": str(folder)}
    )
    assert done.returncode == -signal.SIGKILL
    resumed = FormulaModel(ModelConfig(**TINY), VOCABULARY)
    train(resumed, TrainingConfig(**LEARNING, **OFTEN), TRAINING, VALIDATION, checkpoints=tmp_path)
    assert_same(resumed, uninterrupted)


@pytest.mark.usefixtures("eagerly")
def test_a_finished_training_is_not_trained_again(tmp_path, monkeypatch):
    config = TrainingConfig(**LEARNING | {"epochs": 1})
    model = tiny()
    train(model, config, TRAINING, VALIDATION, checkpoints=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT]
    monkeypatch.setattr(FormulaModel, "fit", None)
    again = FormulaModel(ModelConfig(**TINY), VOCABULARY)
    progress = train(again, config, TRAINING, VALIDATION, checkpoints=tmp_path)
    assert_same(again, weights(model))
    assert progress.epoch == 1


@pytest.mark.usefixtures("eagerly")
def test_checkpoints_are_written_at_their_interval(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Checkpointing, "save", lambda self: saved.append((self.progress.epoch, self.progress.batch)))
    clock = iter(range(0, 10_000, 40))  # a batch takes 40 seconds
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    config = TrainingConfig(**LEARNING | {"epochs": 1, "batch_size": 1, "checkpoint_minutes": 5})
    train(tiny(), config, TRAINING, VALIDATION[:1], checkpoints=tmp_path)
    # More than 300 seconds are over after the eighth batch; `save` is not the one that starts the wait again here.
    assert saved == [(0, 8), (0, 9), (1, 0)]


@pytest.mark.parametrize("damage", ["truncated", "empty", "of another model"])
@pytest.mark.usefixtures("eagerly")
def test_a_checkpoint_that_does_not_fit_is_a_user_error(tmp_path, damage):
    config = TrainingConfig(**LEARNING | {"epochs": 1, "batch_size": 10})
    train(tiny(), config, TRAINING, VALIDATION, checkpoints=tmp_path)
    path = tmp_path / CHECKPOINT
    model = tiny()
    if damage == "of another model":
        model = FormulaModel(ModelConfig(**TINY | {"embedding_units": 5}), VOCABULARY)
    else:
        path.write_bytes(path.read_bytes()[: {"truncated": 3000, "empty": 0}[damage]])
    with pytest.raises(UserError, match=rf"{CHECKPOINT}.*remove it"):
        train(model, config, TRAINING, VALIDATION, checkpoints=tmp_path)


@pytest.mark.usefixtures("eagerly")
def test_progress_is_readable_in_a_checkpoint(tmp_path):
    train(tiny(), TrainingConfig(**LEARNING | {"epochs": 1}), TRAINING, VALIDATION, checkpoints=tmp_path)
    progress = json.loads(str(np.load(tmp_path / CHECKPOINT)["progress"]))
    assert (progress["epoch"], progress["batch"]) == (1, 0)
    assert progress["best"] == progress["perplexities"][0]
