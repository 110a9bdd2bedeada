"""Durations as readable text."""

from __future__ import annotations


def duration(seconds: float, decimals: int = 1) -> str:
    """Formats seconds as 4.2 s, 1 m 05 s or 2 h 03 m.

    Args:
        seconds: the duration.
        decimals: digits after the point, for durations below a minute.
    """
    if round(seconds, decimals) < 60:
        return f"{seconds:.{decimals}f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours else f"{minutes} m {rest:02} s"
