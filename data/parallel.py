"""Work spread over processes, its results in order."""

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
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0))


class Pool:
    """Processes that work beside this one until they are closed; they start when there is work.

    Args:
      workers: processes, otherwise one for each core.
      with_main: whether they import this program's main module, which may be all of TFX; then what they do may stand in
        it, too.
    """

    def __init__(self, workers: int | None = None, with_main: bool = True) -> None:
        self._workers = workers or cores()
        self._with_main = with_main
        # spawn: a fork of a process with threads (TensorFlow, rich) may deadlock, and would inherit the writer's lock.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self._workers, context, initializer=_end_with_parent)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Like map; a few items ahead of what has been consumed, so memory stays bounded.

        Args:
          function: importable by other processes, as are its results.
          items: what to work on, each some milliseconds of work or more.
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
        """Hands work to the pool, whose new workers get no Ctrl-C of the terminal: it is the parent's to stop them."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which processes inherit
        main = sys.modules["__main__"]
        if not self._with_main:
            sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            return self._pool.submit(function, item)
        finally:
            sys.modules["__main__"] = main
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
    with Pool(workers) as pool:
        yield from pool.map(function, itertools.chain(first, remaining))
