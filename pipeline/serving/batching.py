"""Puts images that come in at the same time into one batch: a bounded queue in front of one thread of the model."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from im2latex.pictures import MAX_PIXELS, Picture
from im2latex.reading import READ_AT_ONCE, Beam

# How long the first image of a batch waits for others, seconds, when the last batch had several: a client that is alone
# does not wait.
LONGEST_WAIT = 0.003
# Of a new measurement in the running mean of seconds an image.
WEIGHT = 0.1

Answer = TypeVar("Answer")


class Busy(Exception):
    """There is no place for another image.

    Args:
        seconds: after which there should be one again, at least 1.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many images are waiting; try again in {seconds} s")
        self.seconds = seconds


@dataclass(eq=False)
class _Waiting(Generic[Answer]):
    picture: Picture
    beam: Beam | None
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[Answer]):
    """Reads pictures in batches; made and used in one event loop.

    Args:
        read: takes encoded images and a beam to an answer for each, or an exception in its place; called in a thread
            of its own, for one batch after the other.
        capacity: places for pictures, those that are being read included.
        observe: called with the number of images in each batch.
    """

    def __init__(
        self,
        read: Callable[[Sequence[bytes], Beam | None], Sequence[Answer | Exception]],
        capacity: int,
        observe: Callable[[int], None] = lambda images: None,
    ) -> None:
        self.capacity = capacity
        self.places_taken = 0
        self._read = read
        self._observe = observe
        self._waiting: list[_Waiting[Answer]] = []
        self._arrived = asyncio.Event()
        self._seconds_an_image = 0.0
        self._last_size = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task = asyncio.create_task(self._run())

    @contextlib.contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Keeps places for pictures.

        Raises:
            Busy: there are not so many.
        """
        if self.places_taken + count > self.capacity:
            raise Busy(max(1, math.ceil(self.places_taken * self._seconds_an_image)))
        self.places_taken += count
        try:
            yield
        finally:
            self.places_taken -= count

    async def read(self, picture: Picture, beam: Beam | None) -> Answer:
        """Reads a picture for which a place was kept; cancelling this takes it out of the queue.

        Raises:
            Exception: the one that stands in its answer's place.
        """
        waiting = _Waiting(picture, beam, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.answer

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
                await self._answer(batch)

    async def _answer(self, batch: Sequence[_Waiting[Answer]]) -> None:
        started = time.monotonic()
        images = [waiting.picture.encoded for waiting in batch]
        answers: Sequence[Answer | Exception]
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._thread, self._read, images, batch[0].beam)
        except Exception as error:  # noqa: BLE001  whatever the model raised, each of the batch is told
            answers = [error] * len(batch)
        self._last_size = len(batch)
        self._observe(len(batch))
        spent = (time.monotonic() - started) / len(batch)
        self._seconds_an_image += WEIGHT * (spent - self._seconds_an_image)
        for waiting, answer in zip(batch, answers, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(answer, Exception):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)


def choose(waiting: Sequence[_Waiting[Answer]]) -> list[_Waiting[Answer]]:
    """The next batch: the one that waits longest, and others of the same beam whose size is most like its own.

    At most half of a batch is padding, and it has at most so many pixels as one image may have.
    """
    if not waiting:
        return []
    first, *others = waiting
    width, height = first.picture.width, first.picture.height
    others = [other for other in others if other.beam == first.beam]
    others.sort(key=lambda other: abs(other.picture.width - width) + abs(other.picture.height - height))
    batch, pixels = [first], width * height
    for other in others[: READ_AT_ONCE - 1]:
        width, height = max(width, other.picture.width), max(height, other.picture.height)
        pixels += other.picture.width * other.picture.height
        padded = width * height * (len(batch) + 1)
        if padded > min(2 * pixels, MAX_PIXELS):
            break
        batch.append(other)
    return batch
