from __future__ import annotations

import io

from rich.console import Console

from data.progress import Lines, progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines_of(calls: list[tuple[float, str, int, int | None]]) -> list[str]:
    """Returns the lines for a series of calls, each a number of seconds after the one before."""
    clock = Clock()
    written: list[str] = []
    lines = Lines(written.append, 30.0, clock)
    for seconds, what, done, total in calls:
        clock.now += seconds
        lines.advance(what, done, total)
    return written


def test_a_line_is_written_when_half_a_minute_is_over_and_not_before() -> None:
    calls = [(10.0, "drawing", 1000, 90_000)] * 6
    # 3,000 in 30 s are 100 a second, so 87,000 take 870 s; the next line comes 30 s after this one.
    assert lines_of(calls) == [
        "drawing: 3,000 of 90,000 (3%), 100/s, 14 m 30 s left",
        "drawing: 6,000 of 90,000 (7%), 100/s, 14 m 00 s left",
    ]
    assert lines_of(calls[:2]) == []


def test_without_a_total_the_line_has_no_share_and_no_time_left() -> None:
    assert lines_of([(31.0, "importing", 62, None)]) == ["importing: 62, 2.0/s"]


def test_each_kind_of_work_is_timed_from_the_end_of_the_one_before() -> None:
    calls = [(40.0, "reading", 400, 400), (20.0, "drawing", 40, 400), (20.0, "drawing", 40, 400)]
    # The 80 that are drawn took 40 s.
    assert lines_of(calls) == [
        "reading: 400 of 400 (100%), 10/s, 0 s left",
        "drawing: 80 of 400 (20%), 2.0/s, 2 m 40 s left",
    ]


def test_work_of_an_earlier_command_does_not_count_for_the_speed() -> None:
    calls = [(0.1, "drawing", 50_000, 90_000)] + [(10.0, "drawing", 1000, 90_000)] * 6
    # The last 3,000 of 30 s: 100 a second, for 34,000.
    assert lines_of(calls)[1] == "drawing: 56,000 of 90,000 (62%), 100/s, 5 m 40 s left"


def test_without_progress_there_is_no_time_left() -> None:
    assert lines_of([(30.0, "drawing", 0, 10)]) == ["drawing: 0 of 10 (0%), 0.0/s"]


def test_a_terminal_has_a_bar_and_a_file_has_lines() -> None:
    for terminal in (True, False):
        screen = io.StringIO()
        with progress(Console(file=screen, force_terminal=terminal, width=100), seconds=0.0) as advance:
            advance("drawing", 2, 8)
            advance("drawing", 2, 8)
        shown = screen.getvalue()
        assert ("\x1b[" in shown) == terminal
        assert ("4/8" in shown) == terminal
        assert ("drawing: 4 of 8 (50%), " in shown) != terminal
