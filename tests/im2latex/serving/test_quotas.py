from __future__ import annotations

import pytest

from im2latex.serving.quotas import Allocation, Busy, Quota


def test_over_capacity_there_is_no_place_until_one_is_given_back() -> None:
    pool = Quota("images are waiting", 3, wait=lambda: 0.0)
    with Allocation() as first:
        first.take(pool, 2)
        with Allocation() as second:
            second.take(pool, 1)
            with pytest.raises(Busy, match="too many images are waiting; try again in 1 s"):
                second.take(pool, 1)
            assert pool.taken == 3
        assert pool.taken == 2 and pool.has(1) and not pool.has(2)
        first.give_back(pool)
        assert pool.taken == 0
        first.give_back(pool)
    assert pool.taken == 0


@pytest.mark.parametrize(("seconds", "reported"), [(0.0, 1), (0.4, 1), (2.2, 3), (7.0, 8), (1e6, 120)])
def test_a_refused_client_gets_the_estimated_time_of_the_queue(seconds: float, reported: int) -> None:
    with pytest.raises(Busy) as error:
        Quota("images are waiting", 0, wait=lambda: seconds).check(1)
    assert error.value.seconds == reported
