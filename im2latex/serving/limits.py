"""Limits of the service; each limit is an option of `im2latex serve`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple


def _limit(default: float, text: str, metavar: str) -> Any:
    return field(default=default, metadata={"help": text, "metavar": metavar})


@dataclass(frozen=True)
class Limits:
    """Limits of the service."""

    max_images: int = _limit(128, "Maximum number of images that wait or are being read.", "N")
    max_pixels: int = _limit(256_000_000, "Maximum number of pixels of large images that wait to be decoded.", "N")
    max_bytes: int = _limit(256 * 2**20, "Maximum number of bytes of all request bodies in memory.", "BYTES")
    max_body: int = _limit(16 * 2**20, "Maximum number of bytes of a request body, also after decompression.", "BYTES")
    max_collected: int = _limit(2**30, "Maximum number of bytes of the corrections in --collect.", "BYTES")
    max_connections: int = _limit(512, "Maximum number of open connections.", "N")
    head_timeout: float = _limit(15.0, "Maximum time for the headers of a request to arrive.", "SECONDS")
    body_timeout: float = _limit(20.0, "Maximum time for the body of a request to arrive.", "SECONDS")
    answer_timeout: float = _limit(120.0, "Maximum time for the model to answer.", "SECONDS")
    write_timeout: float = _limit(30.0, "Maximum time for a client to receive a response.", "SECONDS")
    drain_delay: float = _limit(
        0.0,
        "Time after the signal to stop during which requests are accepted, while /readyz answers 503.",
        "SECONDS",
    )
    drain_timeout: float = _limit(30.0, "Maximum time after that to finish the requests in progress.", "SECONDS")
    refresh: float = _limit(2.0, "Time between checks for a new version.", "SECONDS")


class Option(NamedTuple):
    """An option of `im2latex serve` that sets a limit."""

    name: str
    default: float
    help: str
    metavar: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def options() -> list[Option]:
    """Returns the option for each limit."""
    return [Option(limit.name, limit.default, **limit.metadata) for limit in fields(Limits)]  # type: ignore[arg-type]
