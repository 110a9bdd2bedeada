"""Formats numbers, times and sizes for people."""

from __future__ import annotations

import datetime
import json
import math
import re
from typing import Any

from data.duration import duration as plain_duration

MINUS = "\N{MINUS SIGN}"
NARROW = "\N{NARROW NO-BREAK SPACE}"


def number(value: float, decimals: int = 3) -> str:
    """Formats a number as 0.750; integers as 12,345."""
    if not math.isfinite(value):
        return str(value)
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.{decimals}f}"
    return text.replace("-", MINUS)


def signed(value: float, decimals: int = 3) -> str:
    """Formats a number with its sign as +0.012; a value that rounds to zero has no plus sign."""
    text = number(value, decimals)
    return f"+{text}" if value > 0 and any(digit in text for digit in "123456789") else text


def percent(share: float) -> str:
    """Formats a share as 12.3 %, and one that would round to 0.0 % as below 0.1 %."""
    return f"below 0.1{NARROW}%" if 0 < share < 0.0005 else f"{100 * share:.1f}{NARROW}%"


def duration(seconds: float) -> str:
    """Formats seconds as 12 ms, 4.2 s, 1 m 05 s or 2 h 03 m."""
    text = f"{1000 * seconds:.0f} ms" if seconds < 1 else plain_duration(seconds)
    return re.sub(r"(?<=\d) ", NARROW, text)


def memory(size: float) -> str:
    """Formats bytes as 340 MB or 1.2 GB."""
    return f"{size / 1e9:.1f}{NARROW}GB" if size >= 1e9 else f"{size / 1e6:.0f}{NARROW}MB"


def moment(milliseconds: float) -> str:
    """Formats milliseconds since 1970 as 2017-08-06 11:48:27 UTC."""
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def literal(value: Any) -> str:
    """Formats a knob's value as in a TOML file."""
    return json.dumps(value, ensure_ascii=False)
