"""Work spread over processes, its results in order."""

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
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0))


def _submit(pool: ProcessPoolExecutor, function: Callable[[Item], Result], item: Item) -> Future[Result]:
    """Hands work to a pool, whose new workers get no Ctrl-C of the terminal: it is the parent's to stop them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which processes inherit
    try:
        return pool.submit(function, item)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Lets a worker end when its parent was killed: it would wait for work forever."""
    threading.Thread(target=_await_parent, daemon=True).start()


def _await_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Like map, over processes; a few items ahead of what has been consumed, so memory stays bounded.

    Args:
      function: importable by other processes, as are its results.
      items: what to work on, each some tens of milliseconds of work or more.
      workers: processes, otherwise one for each core; with one, or one item, all happens in this process.
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
