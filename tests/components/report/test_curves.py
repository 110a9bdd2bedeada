from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from components.report.curves import Epoch, best, read_epochs


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that decreases by 0.01 with each step."""

    def __call__(self, step):
        return 0.1 - 0.01 * keras.ops.cast(step, "float32")


def test_logs_of_keras_are_read_by_epoch(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(Rate()), "mse")
    x = np.linspace(0, 1, 8, dtype=np.float32)[:, None]
    logged: dict[str, list] = {"loss": [], "val_loss": []}
    # One `fit` per epoch, as in the training.
    for epoch in range(3):
        logs = keras.callbacks.TensorBoard(str(tmp_path), write_graph=False)
        history = model.fit(
            x, 2 * x, batch_size=4, initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=[logs],
            validation_data=(x, 2 * x),
        ).history  # fmt: skip
        for name in logged:
            logged[name] += history[name]
    epochs = read_epochs(tmp_path)
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert [epoch.loss for epoch in epochs] == pytest.approx(logged["loss"])
    assert [epoch.validation_loss for epoch in epochs] == pytest.approx(logged["val_loss"])
    # Two steps per epoch: 0.1, minus 0.01 per step.
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx([0.08, 0.06, 0.04])
    assert {epoch.perplexity for epoch in epochs} == {None}


def test_the_best_epoch_is_the_first_with_the_lowest_validation_perplexity() -> None:
    epochs = [Epoch(n, None, None, None, value, None) for n, value in enumerate((3.0, 1.5, 1.5, None, 2.0), start=1)]
    best_epoch = best(epochs)
    assert best_epoch is not None and best_epoch.number == 2
    assert best([]) is None
    assert best(epochs[1:]) is None  # earlier epochs are in another log


def test_a_folder_without_logs_has_no_epochs(tmp_path: Path) -> None:
    assert read_epochs(tmp_path) == []
