"""How a training shows where it stands: Keras's bar on a terminal, elsewhere a line a minute."""

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

SECONDS = 60.0  # between two lines


def places() -> tuple[bool, Callable[[str], None]]:
    """Whether standard output has the bar, and what takes the lines."""
    if sys.stdout.isatty():
        return True, log.debug
    if os.environ.get(TERMINAL):  # another process shows the bar, and has the log
        return True, log.info
    return False, functools.partial(print, flush=True)


class EpochBar(keras.callbacks.ProgbarLogger):
    """Keras's progress bar, with the epochs of the whole training where `fit` knows of one."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.all_epochs = epochs

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epochs = self.all_epochs
        super().on_epoch_begin(epoch, logs)


class EpochLines(keras.callbacks.Callback):
    """A line a minute and one at each epoch's end: how far, how well, how fast, and how long it will still take.

    Args:
        epochs: of the whole training, which may end sooner.
        write: takes each line.
        deadline: the training ends there at the latest, on `clock`.
        clock: the time, seconds.
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
        self.told = clock()
        self.validation = 0.0  # seconds that the last one took, behind its first batch

    def plan(self, sizes: Sequence[int], done: int) -> None:
        """Takes the number of images in each batch of the epoch that begins, and how many batches are done already."""
        self.sizes, self.step = sizes, done

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch, self.begun = epoch, self.clock()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.step, self.now = self.step + 1, self.clock()
        if batch == 0:  # what starts an epoch, compilation in the first, says nothing of those that follow
            self.first_step, self.first = self.step, self.now
        if self.now - self.told >= SECONDS:
            self.told = self.now
            self.write(self._line(logs or {}))

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if batch == 0:  # as above
            self.first_validated = self.clock()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.told = self.clock()
        self.validation = self.told - self.first_validated
        self.write(self._line(logs or {}, ended=True))

    def _line(self, logs: dict[str, float], ended: bool = False) -> str:
        said = [
            f"Epoch {self.epoch + 1}/{self.epochs}, step {self.step:,}/{len(self.sizes):,}: loss {logs['loss']:.4f}"
        ]
        said.append(f"perplexity {logs['perplexity']:.4f}")
        if ended:
            said.append(f"on validation {logs['val_perplexity']:.4f}")
        seconds = self.now - self.first
        images = sum(self.sizes[self.first_step : self.step])
        if not images or not seconds:
            return ", ".join(said)
        rate = images / seconds
        of_epoch = sum(self.sizes[self.step :]) / rate
        following = (self.epochs - self.epoch - 1) * (sum(self.sizes) / rate + self.validation)
        said.append(f"{rate:,.{0 if rate >= 10 else 1}f} images/s")
        if ended:
            said.append(f"{duration(self.told - self.begun, 0)}; {self._left(following)} left of the training")
        else:
            of_training = of_epoch + self.validation + following
            said.append(f"{self._left(of_epoch)} left of the epoch")
            said.append(f"{self._left(of_training)} of the training")
        return ", ".join(said)

    def _left(self, seconds: float) -> str:
        return duration(max(0.0, min(seconds, self.deadline - self.clock())), 0)
