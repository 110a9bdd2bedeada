"""Limits what all requests use together: images, bytes, pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

# Maximum time in seconds after which a client is told to retry.
LONGEST_RETRY = 120


class Busy(Exception):
    """The service has no capacity for another request.

    Args:
        what: message that says what there are too many of.
        seconds: estimated time until there is capacity again, at least 1.
    """

    def __init__(self, what: str, seconds: int) -> None:
        super().__init__(f"too many {what}; try again in {seconds} s")
        self.seconds = seconds


class Quota:
    """A limited number of units, such as bytes or images.

    Args:
        what: message of `Busy` if the quota is used up.
        most: number of units.
        wait: returns the estimated seconds until units become free.
    """

    def __init__(self, what: str, most: int, wait: Callable[[], float]) -> None:
        self.most = most
        self.taken = 0
        self._what = what
        self._wait = wait

    def has(self, count: int) -> bool:
        """Returns whether this many units are free."""
        return self.taken + count <= self.most

    def check(self, count: int) -> None:
        """Checks for free units without taking them.

        Raises:
            Busy: fewer units are free.
        """
        if not self.has(count):
            raise Busy(self._what, max(1, min(LONGEST_RETRY, round(self._wait() + 0.5))))

    def take(self, count: int) -> None:
        """Takes units; raises the same error as `check`."""
        self.check(count)
        self.taken += count


class Allocation:
    """The units that one request has taken; returns them at the end of the `with` block."""

    def __init__(self) -> None:
        self._counts: Counter[Quota] = Counter()

    def __enter__(self) -> Allocation:
        return self

    def __exit__(self, *_: object) -> None:
        for quota in list(self._counts):
            self.give_back(quota)

    def take(self, quota: Quota, count: int) -> None:
        """Takes units of a quota; raises the same error as `Quota.check`."""
        quota.take(count)
        self._counts[quota] += count

    def give_back(self, quota: Quota) -> None:
        """Returns all units taken from a quota."""
        quota.taken -= self._counts.pop(quota, 0)
