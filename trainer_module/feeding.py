"""Makes the planned batches ahead of the training: worker processes read and decode the images shortly before use."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from data.parallel import ProcessPool, cores
from trainer_module.augmentation import Augmentation
from trainer_module.batching import ALL, Batch, Share, collate, decoded
from trainer_module.examples import Example, part_of

Item = TypeVar("Item")

# Maximum number of worker processes that make batches.
MOST_FEEDERS = 8


def batches(
    examples: Sequence[Example],
    planned: Sequence[np.ndarray],
    augmentation: Augmentation | None = None,
    pool: ProcessPool | None = None,
    share: Share = ALL,
) -> Iterator[Batch]:
    """Yields the planned batches, or a host's share of each.

    Args:
        examples: all examples.
        planned: indices of the examples of each batch.
        augmentation: changes the images; None leaves them as they are.
        pool: worker processes that make the batches in advance; None makes them in this process.
        share: the part of each batch. A batch that has no example for this host yields one example at zero weight.
    """
    tasks = (_task(examples, indices, augmentation, share) for indices in planned)
    yield from map(_batch, tasks) if pool is None else pool.map(_batch, tasks)


def feeders() -> int:
    """Returns the number of worker processes that make batches: one core is left for the training."""
    return max(1, min(MOST_FEEDERS, cores() - 1))


class _Task(NamedTuple):
    """What a worker process needs to make a batch."""

    chosen: Sequence[Example]
    indices: np.ndarray
    augmentation: Augmentation | None
    counts: bool  # whether the examples have weight


def _task(examples: Sequence[Example], indices: np.ndarray, augmentation: Augmentation | None, share: Share) -> _Task:
    own = indices[share.host :: share.hosts]
    chosen = own if len(own) else indices[:1]
    return _Task(part_of(examples, chosen), chosen, augmentation, len(own) > 0)


def _batch(task: _Task) -> Batch:
    loaded = list(task.chosen)
    images = None
    if task.augmentation is not None:
        images = [task.augmentation(int(i), decoded(example)) for i, example in zip(task.indices, loaded, strict=True)]
    batch = collate(loaded, images)
    return batch if task.counts else batch._replace(weights=np.zeros_like(batch.weights))


def prefetched(iterator: Iterator[Item], size: int) -> Generator[Item]:
    """Yields the items of an iterator, which a thread prepares in advance, at most `size` of them.

    An exception of the iterator is raised in the place of its item. Closing the generator stops the thread.
    """
    waiting: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(size)
    left = threading.Event()

    def work() -> None:
        try:
            for item in iterator:
                waiting.put((item, None))
                if left.is_set():
                    return
            waiting.put((None, StopIteration()))
        except BaseException as error:
            waiting.put((None, error))

    threading.Thread(target=work, name="prefetched", daemon=True).start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        left.set()
        while not waiting.empty():  # lets a thread that waits for room continue, so that it sees that it must stop
            waiting.get()
