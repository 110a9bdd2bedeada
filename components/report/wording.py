"""Numbers, times and sizes, as people read them."""

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
    """0.750, -1.2; whole numbers with their thousands apart."""
    if not math.isfinite(value):
        return str(value)
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.{decimals}f}"
    return text.replace("-", MINUS)


def signed(value: float, decimals: int = 3) -> str:
    """+0.012, or 0.000 without a sign where nothing is left of it."""
    text = number(value, decimals)
    return f"+{text}" if value > 0 and any(digit in text for digit in "123456789") else text


def percent(share: float) -> str:
    """12.3 %; what would be 0.0 % is below 0.1 %."""
    return f"below 0.1{NARROW}%" if 0 < share < 0.0005 else f"{100 * share:.1f}{NARROW}%"


def duration(seconds: float) -> str:
    """12 ms, 4.2 s, 1 m 05 s, 2 h 03 m."""
    text = f"{1000 * seconds:.0f} ms" if seconds < 1 else plain_duration(seconds)
    return re.sub(r"(?<=\d) ", NARROW, text)


def memory(size: float) -> str:
    """Bytes as 340 MB or 1.2 GB."""
    return f"{size / 1e9:.1f}{NARROW}GB" if size >= 1e9 else f"{size / 1e6:.0f}{NARROW}MB"


def moment(milliseconds: float) -> str:
    """A time since 1970 as 2017-08-06 11:48:27 UTC."""
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def literal(value: Any) -> str:
    """A knob's value, as a TOML file has it."""
    return json.dumps(value, ensure_ascii=False)
