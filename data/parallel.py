"""A parallel `map` over processes that keeps the order of the results."""

from __future__ import annotations

import collections
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


class ProcessPool:
    """A pool of worker processes; they start when the first work is submitted, and end when the pool is closed.

    Args:
      workers: number of processes; None for one for each core.
      with_main: whether workers import the main module of this program, which may import all of TFX. Functions that are
        defined there need it.
    """

    def __init__(self, workers: int | None = None, with_main: bool = True) -> None:
        self._workers = workers or cores()
        self._with_main = with_main
        # spawn: a fork of a process with threads (TensorFlow, rich) may deadlock, and would inherit the writer's lock.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self._workers, context, initializer=end_with_parent)

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Applies a function to items, in order, a few items ahead of the consumer, so that memory stays bounded.

        Args:
          function: a function that other processes can import.
          items: its arguments, each of which should take some milliseconds or more.
        """
        ahead: collections.deque[Future[Result]] = collections.deque()
        try:
            for item in items:
                ahead.append(self._submit(function, item))
                if len(ahead) > 4 * self._workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def _submit(self, function: Callable[[Item], Result], item: Item) -> Future[Result]:
        """Submits an item to the pool. New workers ignore Ctrl-C: the parent process stops them."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # child processes inherit the mask
        main = sys.modules["__main__"]
        if not self._with_main:
            sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            return self._pool.submit(function, item)
        finally:
            sys.modules["__main__"] = main
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Makes this child process exit when its parent is killed; otherwise a worker would wait for work forever."""
    threading.Thread(target=_await_parent, daemon=True).start()


def _await_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Maps a function over items in several processes and yields the results in order.

    The processes work only a few items ahead of the consumer, so memory stays bounded.

    Args:
      function: must be picklable, and so must its results.
      items: the inputs; each should take at least some tens of milliseconds.
      workers: number of processes; one per core by default. With one worker or a single item, everything runs in this
        process.
    """
    workers = workers or cores()
    remaining = iter(items)
    first = list(itertools.islice(remaining, 2))
    if workers == 1 or len(first) < 2:
        yield from map(function, itertools.chain(first, remaining))
        return
    with ProcessPool(workers) as pool:
        yield from pool.map(function, itertools.chain(first, remaining))
