from __future__ import annotations

import pytest

from data.duration import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 m 00 s"),
        (60, "1 m 00 s"),
        (242.1, "4 m 02 s"),
        (3599.9, "1 h 00 m"),
        (7380, "2 h 03 m"),
    ],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_estimated_times_have_no_decimals() -> None:
    assert [duration(seconds, 0) for seconds in (4.4, 59.4, 59.6)] == ["4 s", "59 s", "1 m 00 s"]
