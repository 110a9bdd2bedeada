"""Bands of rows: a step that needs temporary arrays processes a large image in bands, to save memory."""

from __future__ import annotations

from collections.abc import Iterator

# Number of pixels in a band; a usual picture of a formula has fewer.
BAND = 2**17


def bands(height: int, width: int) -> Iterator[slice]:
    """Yields the rows of an image in bands of about `BAND` pixels, and of at least one row."""
    rows = max(BAND // width, 1)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))
