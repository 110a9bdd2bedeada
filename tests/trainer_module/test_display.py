from __future__ import annotations

import logging
import sys

import pytest

from trainer_module.config.training import TERMINAL
from trainer_module.display import EpochLines, places

LOGS = {"loss": 0.51234, "perplexity": 1.66921}
AT_END = LOGS | {"val_loss": 0.6, "val_perplexity": 1.92}


class Training:
    """Calls the callback like `fit`, at times that a test sets."""

    def __init__(self, epochs: int, deadline: float = float("inf")) -> None:
        self.now = 0.0
        self.written: list[str] = []
        self.lines = EpochLines(epochs, self.written.append, deadline, lambda: self.now)

    def epoch(self, epoch: int, sizes: list[int], seconds: list[float], validation: float, done: int = 0) -> None:
        """Trains an epoch: skips the batches done; each other batch takes its seconds, compiling the validation 5 s."""
        self.lines.plan(sizes, done)
        self.lines.on_epoch_begin(epoch)
        for batch, spent in enumerate(seconds):
            self.now += spent
            self.lines.on_train_batch_end(batch, LOGS)
        self.now += 5.0 if epoch == 0 else 0.0
        self.lines.on_test_batch_end(0)
        self.now += validation
        self.lines.on_test_batch_end(1)
        self.lines.on_epoch_end(epoch, AT_END)


def test_a_line_a_minute_and_one_at_each_epochs_end() -> None:
    training = Training(epochs=3)
    # The first step compiles for 50 s. Then 6 batches of 20 take 10 s each: 2 images/s.
    training.epoch(0, 7 * [20], [50.0] + 6 * [10.0], validation=15.0)
    assert training.written == [
        # At 60 s, after the second batch: 100 images are left, and two epochs of 140.
        "Epoch 1/3, step 2/7: loss 0.5123, perplexity 1.6692, 2.0 images/s, 50 s left of the epoch, "
        "3 m 10 s of the training",
        # At 130 s, two epochs of 70 s, and 15 s of validation each.
        "Epoch 1/3, step 7/7: loss 0.5123, perplexity 1.6692, on validation 1.9200, 2.0 images/s, 2 m 10 s; "
        "2 m 50 s left of the training",
    ]
    training.written.clear()
    training.epoch(1, 7 * [20], 7 * [10.0], validation=15.0)
    # A minute after the last line: 20 images take 10 s, then the validation, and an epoch of 70 + 15 s.
    assert training.written[0].endswith("2.0 images/s, 10 s left of the epoch, 1 m 50 s of the training")
    training.epoch(2, 7 * [20], 7 * [10.0], validation=15.0)
    assert training.written[-1].endswith("2.0 images/s, 1 m 25 s; 0 s left of the training")


def test_an_interrupted_training_continues_its_count() -> None:
    training = Training(epochs=1)
    training.epoch(0, [10, 10, 30, 50, 40], [30.0, 30.0, 5.0], validation=1.0, done=2)
    # Steps 4 and 5: 90 images in 35 s, after the minute 50 in 30 s, so that 40 take 24 s.
    assert training.written[0].startswith("Epoch 1/1, step 4/5: ")
    assert training.written[0].endswith("1.7 images/s, 24 s left of the epoch, 24 s of the training")
    assert training.written[1].startswith("Epoch 1/1, step 5/5: ")
    assert "2.6 images/s" in training.written[1]


def test_the_time_left_ends_at_the_deadline() -> None:
    training = Training(epochs=100, deadline=100.0)
    training.epoch(0, 100 * [20], [20.0, 20.0, 20.0], validation=0.0)
    assert training.written[0].endswith("1.0 images/s, 40 s left of the epoch, 40 s of the training")


def test_one_step_is_too_few_for_a_speed() -> None:
    training = Training(epochs=2)
    training.epoch(0, [20], [70.0], validation=1.0)
    assert training.written == [
        "Epoch 1/2, step 1/1: loss 0.5123, perplexity 1.6692",
        "Epoch 1/2, step 1/1: loss 0.5123, perplexity 1.6692, on validation 1.9200",
    ]


@pytest.mark.parametrize(
    ("terminal", "elsewhere", "bar", "printed", "logged"),
    [
        (False, "", False, True, []),
        (True, "", True, False, ["DEBUG"]),  # the bar is enough
        (False, "1", True, False, ["INFO"]),  # the bar goes through another process to its terminal
    ],
)
def test_a_terminal_has_a_bar_and_other_output_has_lines(
    terminal: bool,
    elsewhere: str,
    bar: bool,
    printed: bool,
    logged: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(TERMINAL, elsewhere)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    with caplog.at_level(logging.DEBUG, "trainer_module"):
        has_bar, write = places()
        write("Epoch 1/2: 100 %")
    assert has_bar == bar
    assert (capsys.readouterr().out == "Epoch 1/2: 100 %\n") == printed
    assert [record.levelname for record in caplog.records] == logged
