"""Decodes and normalises images in threads, small ones past large ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from im2latex.errors import ImageError
from im2latex.pictures import size_of
from im2latex.reader import Reader
from im2latex.serving.pools import Held, Pool

# An image of more pixels is large: one of them is decoded at a time, so that memory is bounded.
LARGE = 1_000_000
# Threads for small images, and how many of one request are decoded at once.
SMALL_THREADS = 2
# Of a new measurement in the running mean of seconds a pixel.
WEIGHT = 0.2

Result = TypeVar("Result")


class Decoding:
    """Decodes images.

    Args:
        max_pixels: of large images that wait or are decoded.
    """

    def __init__(self, max_pixels: int) -> None:
        self.pixels = Pool("large images are waiting", max_pixels, self.wait)
        self._small = ThreadPoolExecutor(SMALL_THREADS, thread_name_prefix="small")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="large")
        self._seconds_a_pixel = 0.0

    def wait(self) -> float:
        """The seconds that large images take which are there."""
        return self.pixels.taken * self._seconds_a_pixel

    async def alone(self, work: Callable[[], Result]) -> Result:
        """Does in a thread what takes memory, one after the other with large images."""
        return await asyncio.get_running_loop().run_in_executor(self._large, work)

    async def normalise(
        self, reader: Reader, images: Sequence[bytes], turn: bool, held: Held
    ) -> list[np.ndarray | None]:
        """The images of a request, as `Reader.normalise` gives them.

        A request has at most two small images and one large image in the queues, so that each one gets its turn.

        Raises:
            Busy: too many pixels are waiting.
            ImageError: one cannot be decoded; of several it is named by its place.
        """
        several, one_large = asyncio.Semaphore(SMALL_THREADS), asyncio.Lock()
        loop = asyncio.get_running_loop()

        def first_look(image: bytes) -> int | np.ndarray | None:
            width, height = size_of(image)
            return width * height if width * height > LARGE else reader.normalise(image, turn)

        async def decoded(image: bytes) -> np.ndarray | None:
            async with several:
                found = await loop.run_in_executor(self._small, first_look, image)
            if not isinstance(found, int):
                return found
            held.take(self.pixels, found)
            async with one_large:
                seconds, pixels = await self.alone(lambda: _timed(lambda: reader.normalise(image, turn)))
            self._seconds_a_pixel += WEIGHT * (seconds / found - self._seconds_a_pixel)
            return pixels

        async def one(number: int, image: bytes) -> np.ndarray | None:
            try:
                return await decoded(image)
            except ImageError as error:
                raise error if len(images) == 1 else ImageError(f"image {number} of {len(images)}: {error}") from None

        return await together(one(number, image) for number, image in enumerate(images, 1))

    def close(self) -> None:
        """Ends the threads."""
        self._small.shutdown(wait=True, cancel_futures=True)
        self._large.shutdown(wait=True, cancel_futures=True)


async def together(work: Iterable[Awaitable[Result]]) -> list[Result]:
    """Waits for all; if one fails, or this is cancelled, the others are cancelled, and awaited before it is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result
