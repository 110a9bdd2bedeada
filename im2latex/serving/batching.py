"""Puts images that come in at the same time into one batch: a queue in front of one thread of the model."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from im2latex.reading import READ_AT_ONCE, Beam
from im2latex.serving.decoding import together

# How long the first image of a batch waits for others, seconds, when the last batch had several: a client that is alone
# does not wait.
LONGEST_WAIT = 0.003
# Of a new measurement in the running mean of seconds an image.
WEIGHT = 0.1
# Pixels of a batch times hypotheses: its memory and its time are bounded, so that others have their turn.
MOST_WORK = 2_000_000

Model = TypeVar("Model")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Waiting(Generic[Model, Answer]):
    model: Model
    beam: Beam
    pixels: np.ndarray
    turn: int  # those with lower ones come first
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[Model, Answer]):
    """Reads images in batches; made and used in one event loop.

    Args:
        read: takes a model, normalised images and a beam to an answer for each; called in a thread of its own, for one
            batch after the other.
        observe: called with the number of images in each batch.
    """

    def __init__(
        self,
        read: Callable[[Model, Sequence[np.ndarray], Beam], Sequence[Answer]],
        observe: Callable[[int], None] = lambda images: None,
    ) -> None:
        self._read = read
        self._observe = observe
        self._waiting: list[_Waiting[Model, Answer]] = []
        self._arrived = asyncio.Event()
        self._turn = 0
        self._seconds_an_image = 0.0
        self._last_size = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task = asyncio.create_task(self._run())

    def wait(self) -> float:
        """The seconds that images take which are waiting."""
        return len(self._waiting) * self._seconds_an_image

    async def read(self, model: Model, images: Sequence[np.ndarray], beam: Beam) -> list[Answer]:
        """Reads the images of a request; cancelling this takes them out of the queue.

        Raises:
            Exception: the model's.
        """
        loop, turn, waiting = asyncio.get_running_loop(), self._turn, []
        for pixels in images:
            waiting.append(_Waiting(model, beam, pixels, turn, loop.create_future()))
            # Each image of a request has its turn after the work of those before it: other requests, which have less
            # of it, come between them (start-time fair queueing, Goyal et al. 1996).
            turn += _work(pixels.shape, 1, beam)
        self._waiting += waiting
        if waiting:
            self._arrived.set()
        return await together([one.answer for one in waiting])

    async def close(self) -> None:
        """Ends the thread; what still waits is not read."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._thread.shutdown(wait=True)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            # Those that came while the last batch was read have waited long enough.
            if self._last_size > 1 and len(self._waiting) < READ_AT_ONCE:
                await asyncio.sleep(max(0.0, self._waiting[0].since + LONGEST_WAIT - time.monotonic()))
            # The client of an answer that is cancelled is gone.
            self._waiting = [waiting for waiting in self._waiting if not waiting.answer.done()]
            batch = choose(self._waiting)
            self._waiting = [waiting for waiting in self._waiting if waiting not in batch]
            if not self._waiting:
                self._arrived.clear()
            if batch:
                self._turn = max(self._turn, batch[0].turn)
                await self._answer(batch)

    async def _answer(self, batch: Sequence[_Waiting[Model, Answer]]) -> None:
        started = time.monotonic()
        images = [waiting.pixels for waiting in batch]
        first = batch[0]
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._thread, self._read, first.model, images, first.beam)
        except Exception as error:  # noqa: BLE001  whatever the model raised, each of the batch is told
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)
        self._last_size = len(batch)
        self._observe(len(batch))
        spent = (time.monotonic() - started) / len(batch)
        self._seconds_an_image += WEIGHT * (spent - self._seconds_an_image)


def choose(waiting: Sequence[_Waiting[Model, Answer]]) -> list[_Waiting[Model, Answer]]:
    """The next batch: the one whose turn it is, and others of the same model and beam whose size is most like its own.

    At most half of a batch is padding, and its work is at most `MOST_WORK`.
    """
    if not waiting:
        return []
    first = min(waiting, key=lambda one: one.turn)
    height, width = first.pixels.shape
    others = [one for one in waiting if one is not first and (one.model, one.beam) == (first.model, first.beam)]
    others.sort(key=lambda one: abs(one.pixels.shape[1] - width) + abs(one.pixels.shape[0] - height))
    batch, pixels = [first], height * width
    for one in others[: READ_AT_ONCE - 1]:
        height, width = max(height, one.pixels.shape[0]), max(width, one.pixels.shape[1])
        pixels += one.pixels.size
        count = len(batch) + 1
        if height * width * count > 2 * pixels or _work((height, width), count, first.beam) > MOST_WORK:
            break
        batch.append(one)
    return batch


def _work(shape: tuple[int, ...], count: int, beam: Beam) -> int:
    height, width = shape
    return height * width * count * beam.width
