"""Progress of a training: Keras's progress bar on a terminal, a line per minute in other output."""

from __future__ import annotations

import functools
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Sequence

import keras

from data.duration import duration
from trainer_module.config.training import TERMINAL

log = logging.getLogger(__name__)

SECONDS = 60.0  # interval between two lines


def places() -> tuple[bool, Callable[[str], None]]:
    """Returns whether to show the progress bar on standard output, and the function that writes progress lines."""
    if sys.stdout.isatty():
        return True, log.debug
    if os.environ.get(TERMINAL):  # the parent process shows our standard output on a terminal and keeps the log
        return True, log.info
    return False, functools.partial(print, flush=True)


class EpochBar(keras.callbacks.ProgbarLogger):
    """Keras's progress bar, with the epochs of the whole training, although `fit` is called for each epoch."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.all_epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epochs = self.all_epochs
        super().on_epoch_begin(epoch, logs)


class EpochLines(keras.callbacks.Callback):
    """Writes a line per minute and one at the end of each epoch: progress, scores, speed, and time left.

    Args:
        epochs: maximum number of epochs of the training.
        write: called with each line.
        deadline: latest end of the training, in the time of `clock`.
        clock: returns the current time in seconds.
    """

    def __init__(
        self,
        epochs: int,
        write: Callable[[str], None],
        deadline: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.epochs, self.write, self.deadline, self.clock = epochs, write, deadline, clock
        self.last_line = clock()
        self.validation = 0.0  # seconds of the last validation, without its first batch

    def plan(self, sizes: Sequence[int], done: int) -> None:
        """Sets the plan of the next epoch.

        Args:
            sizes: number of images in each batch.
            done: number of batches that an interrupted training has done already.
        """
        self.sizes, self.step = sizes, done

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch, self.started = epoch, self.clock()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.step, self.now = self.step + 1, self.clock()
        if batch == 0:  # the first batch is slower, because it includes compilation, and does not count for the speed
            self.first_step, self.first = self.step, self.now
        if self.now - self.last_line >= SECONDS:
            self.last_line = self.now
            self.write(self._line(logs or {}))

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if batch == 0:  # does not count either
            self.first_validated = self.clock()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.last_line = self.clock()
        self.validation = self.last_line - self.first_validated
        self.write(self._line(logs or {}, ended=True))

    def _line(self, logs: dict[str, float], ended: bool = False) -> str:
        parts = [
            f"Epoch {self.epoch + 1}/{self.epochs}, step {self.step:,}/{len(self.sizes):,}: loss {logs['loss']:.4f}"
        ]
        parts.append(f"perplexity {logs['perplexity']:.4f}")
        if ended:
            parts.append(f"on validation {logs['val_perplexity']:.4f}")
        seconds = self.now - self.first
        images = sum(self.sizes[self.first_step : self.step])
        if not images or not seconds:
            return ", ".join(parts)
        rate = images / seconds
        of_epoch = sum(self.sizes[self.step :]) / rate
        following = (self.epochs - self.epoch - 1) * (sum(self.sizes) / rate + self.validation)
        parts.append(f"{rate:,.{0 if rate >= 10 else 1}f} images/s")
        if ended:
            parts.append(f"{duration(self.last_line - self.started, 0)}; {self._left(following)} left of the training")
        else:
            of_training = of_epoch + self.validation + following
            parts.append(f"{self._left(of_epoch)} left of the epoch")
            parts.append(f"{self._left(of_training)} of the training")
        return ", ".join(parts)

    def _left(self, seconds: float) -> str:
        return duration(max(0.0, min(seconds, self.deadline - self.clock())), 0)
