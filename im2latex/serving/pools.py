"""Bounds what all requests hold together: images, bytes, pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

# The longest time that a client is told to wait, seconds.
LONGEST_RETRY = 120


class Busy(Exception):
    """There is no place for another request.

    Args:
        what: there are too many of.
        seconds: after which there should be a place again, at least 1.
    """

    def __init__(self, what: str, seconds: int) -> None:
        super().__init__(f"too many {what}; try again in {seconds} s")
        self.seconds = seconds


class Pool:
    """A number of places.

    Args:
        what: takes them, in words.
        most: how many there are.
        wait: gives the seconds until some are given back.
    """

    def __init__(self, what: str, most: int, wait: Callable[[], float]) -> None:
        self.most = most
        self.taken = 0
        self._what = what
        self._wait = wait

    def has(self, count: int) -> bool:
        """Whether there are so many places."""
        return self.taken + count <= self.most

    def check(self, count: int) -> None:
        """Looks for places without taking them.

        Raises:
            Busy: there are not so many.
        """
        if not self.has(count):
            raise Busy(self._what, max(1, min(LONGEST_RETRY, round(self._wait() + 0.5))))

    def take(self, count: int) -> None:
        """Takes places; raises as `check`."""
        self.check(count)
        self.taken += count


class Held:
    """What one request has taken; the end of the `with` block gives it back."""

    def __init__(self) -> None:
        self._counts: Counter[Pool] = Counter()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in list(self._counts):
            self.give_back(pool)

    def take(self, pool: Pool, count: int) -> None:
        """Takes places of a pool; raises as `Pool.check`."""
        pool.take(count)
        self._counts[pool] += count

    def give_back(self, pool: Pool) -> None:
        """Gives back all that was taken of a pool."""
        pool.taken -= self._counts.pop(pool, 0)
