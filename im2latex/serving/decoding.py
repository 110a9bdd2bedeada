"""Decodes and normalises images in threads; small images do not wait for large ones."""

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
from im2latex.serving.quotas import Allocation, Quota

# An image with more pixels than this is large. Only one large image is decoded at a time, which limits memory.
LARGE = 1_000_000
# Number of threads for small images, and maximum number of images of one request that are decoded at once.
SMALL_THREADS = 2
# Weight of a new measurement in the running mean of seconds per pixel.
WEIGHT = 0.2

Result = TypeVar("Result")


class ImageDecoder:
    """Decodes images.

    Args:
        max_pixels: maximum number of pixels of the large images that wait or are being decoded.
    """

    def __init__(self, max_pixels: int) -> None:
        self.pixels = Quota("large images are waiting", max_pixels, self.wait)
        self._small = ThreadPoolExecutor(SMALL_THREADS, thread_name_prefix="small")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="large")
        self._seconds_a_pixel = 0.0

    def wait(self) -> float:
        """Returns the estimated time in seconds to decode the large images that wait or are being decoded."""
        return self.pixels.taken * self._seconds_a_pixel

    async def alone(self, work: Callable[[], Result]) -> Result:
        """Runs work that needs much memory in the thread for large images, one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._large, work)

    async def normalise(
        self, reader: Reader, images: Sequence[bytes], turn: bool, allocation: Allocation
    ) -> list[np.ndarray | None]:
        """Returns the images of a request, normalised by `Reader.normalise`.

        A request has at most two small images and one large image in the queues, so that other requests get their turn.

        Raises:
            Busy: too many pixels are waiting.
            ImageError: an image cannot be decoded; the message has its number if the request has several images.
        """
        small, large = asyncio.Semaphore(SMALL_THREADS), asyncio.Lock()
        loop = asyncio.get_running_loop()

        def first_look(image: bytes) -> int | np.ndarray | None:
            width, height = size_of(image)
            return width * height if width * height > LARGE else reader.normalise(image, turn)

        async def decoded(image: bytes) -> np.ndarray | None:
            async with small:
                first = await loop.run_in_executor(self._small, first_look, image)
            if not isinstance(first, int):
                return first
            allocation.take(self.pixels, first)
            async with large:
                seconds, pixels = await self.alone(lambda: _timed(lambda: reader.normalise(image, turn)))
            self._seconds_a_pixel += WEIGHT * (seconds / first - self._seconds_a_pixel)
            return pixels

        async def numbered(number: int, image: bytes) -> np.ndarray | None:
            try:
                return await decoded(image)
            except ImageError as error:
                raise error if len(images) == 1 else ImageError(f"image {number} of {len(images)}: {error}") from None

        return await gather_or_cancel(numbered(number, image) for number, image in enumerate(images, 1))

    def close(self) -> None:
        """Stops the threads."""
        self._small.shutdown(wait=True, cancel_futures=True)
        self._large.shutdown(wait=True, cancel_futures=True)


async def gather_or_cancel(work: Iterable[Awaitable[Result]]) -> list[Result]:
    """Awaits all; if one fails or the call is cancelled, cancels and awaits the others before it raises."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in work]
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
