"""Collects images of concurrent requests into batches, with a queue in front of one model thread."""

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
from im2latex.serving.decoding import gather_or_cancel

# Maximum time in seconds that the first image of a batch waits for others, if the previous batch had several images and
# ended less than PAUSE seconds before. A single client does not wait, nor does the first image after a pause.
LONGEST_WAIT, PAUSE = 0.003, 0.1
# Weight of a new measurement in the running mean of seconds per image.
WEIGHT = 0.1
# Maximum number of pixels times hypotheses in a batch: bounds memory and time, so that other requests get their turn.
MOST_WORK = 1_000_000

Model = TypeVar("Model")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Waiting(Generic[Model, Answer]):
    model: Model
    beam: Beam
    pixels: np.ndarray
    turn: int  # lower numbers are read first
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[Model, Answer]):
    """Reads images in batches; must be created and used in the same event loop.

    Args:
        read: returns an answer for each image, from a model, normalised images and a beam; called in its own thread,
            one batch at a time.
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
        self._last_size, self._last_end = 0, 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task = asyncio.create_task(self._run())

    def wait(self) -> float:
        """Returns the estimated time in seconds to read the waiting images."""
        return len(self._waiting) * self._seconds_an_image

    async def read(self, model: Model, images: Sequence[np.ndarray], beam: Beam) -> list[Answer]:
        """Reads the images of a request. Cancelling this call removes them from the queue.

        Args:
            model: the model to read with.
            images: normalised images.
            beam: the beam that the model searches with, see `Reader.search`; images with the same beam can be read
                together.

        Raises:
            Exception: the exception that the model raised.
        """
        loop, turn, waiting = asyncio.get_running_loop(), self._turn, []
        for pixels in images:
            waiting.append(_Waiting(model, beam, pixels, turn, loop.create_future()))
            # The turn of an image comes after the work of the request's earlier images, so other requests with less
            # work go in between (start-time fair queueing, Goyal et al. 1996).
            turn += _work(pixels.shape, 1, beam)
        self._waiting += waiting
        if waiting:
            self._arrived.set()
        return await gather_or_cancel([one.answer for one in waiting])

    async def close(self) -> None:
        """Stops the thread; images that still wait are not read."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._thread.shutdown(wait=True)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            since = self._waiting[0].since
            if self._last_size > 1 and since < self._last_end + PAUSE and len(self._waiting) < READ_AT_ONCE:
                # Images that arrived while the last batch was read have waited long enough.
                await asyncio.sleep(max(0.0, since + LONGEST_WAIT - time.monotonic()))
            # A cancelled answer means that the client has disconnected.
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
        except Exception as error:  # noqa: BLE001  any exception of the model goes to the requests
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)
        self._last_size, self._last_end = len(batch), time.monotonic()
        self._observe(len(batch))
        spent = (self._last_end - started) / len(batch)
        self._seconds_an_image += WEIGHT * (spent - self._seconds_an_image)


def choose(waiting: Sequence[_Waiting[Model, Answer]]) -> list[_Waiting[Model, Answer]]:
    """Returns the next batch: the next image, and the images of similar size with the same model and beam.

    At most half of the batch is padding, and its work is at most `MOST_WORK`.
    """
    if not waiting:
        return []
    first = min(waiting, key=lambda item: item.turn)
    height, width = first.pixels.shape
    others = [item for item in waiting if item is not first and (item.model, item.beam) == (first.model, first.beam)]
    others.sort(key=lambda item: abs(item.pixels.shape[1] - width) + abs(item.pixels.shape[0] - height))
    batch, pixels = [first], height * width
    for item in others[: READ_AT_ONCE - 1]:
        height, width = max(height, item.pixels.shape[0]), max(width, item.pixels.shape[1])
        pixels += item.pixels.size
        count = len(batch) + 1
        if height * width * count > 2 * pixels or _work((height, width), count, first.beam) > MOST_WORK:
            break
        batch.append(item)
    return batch


def _work(shape: tuple[int, ...], count: int, beam: Beam) -> int:
    height, width = shape
    return height * width * count * beam.width
