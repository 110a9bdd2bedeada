"""A parallel `map` over processes that keeps the order of the results."""

from __future__ import annotations

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _submit(pool: ProcessPoolExecutor, function: Callable[[Item], Result], item: Item) -> Future[Result]:
    """Submits an item to a pool. New workers ignore Ctrl-C: the parent process stops them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # child processes inherit the mask
    try:
        return pool.submit(function, item)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Makes a worker exit when its parent is killed; otherwise it would wait for work forever."""
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
    # spawn: a fork of a process with threads (TensorFlow, rich) may deadlock, and would inherit the writer's lock.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent) as pool:
        ahead: collections.deque[Future[Result]] = collections.deque()
        try:
            for item in itertools.chain(first, remaining):
                ahead.append(_submit(pool, function, item))
                if len(ahead) > 4 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
