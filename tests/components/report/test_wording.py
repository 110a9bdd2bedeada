from __future__ import annotations

import math

import pytest

from components.report.wording import duration, literal, memory, moment, number, percent, signed


def plain(text: str) -> str:
    return text.replace("\N{NARROW NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (number(0.75), "0.750"),
        (number(-1.5, 1), "-1.5"),
        (number(12345), "12,345"),
        (number(math.inf), "inf"),
        (signed(0.0125), "+0.013"),
        (signed(-0.25, 2), "-0.25"),
        (signed(0.0001), "0.000"),
        (percent(0.125), "12.5 %"),
        (percent(0.0001), "below 0.1 %"),
        (percent(0.0), "0.0 %"),
        (duration(0.0123), "12 ms"),
        (duration(4.24), "4.2 s"),
        (duration(65.4), "1 m 05 s"),
        (duration(7380), "2 h 03 m"),
        (memory(612_000_000), "612 MB"),
        (memory(1_250_000_000), "1.2 GB"),
        (moment(1_500_000_000_123), "2017-07-14 02:40:00 UTC"),
        (literal(["a", 1, True]), '["a", 1, true]'),
    ],
)
def test_numbers_are_formatted_for_people(output: str, expected: str) -> None:
    assert plain(output) == expected
