"""Limits of the service; each limit is an option of `im2latex serve`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple


def _limit(default: float, text: str, metavar: str) -> Any:
    return field(default=default, metadata={"help": text, "metavar": metavar})


@dataclass(frozen=True)
class Limits:
    """Limits of the service."""

    max_images: int = _limit(128, "Images that wait or are being read.", "N")
    max_pixels: int = _limit(256_000_000, "Pixels of the large images among them that are still to be decoded.", "N")
    max_bytes: int = _limit(256 * 2**20, "Bytes of request bodies held at once.", "BYTES")
    max_body: int = _limit(16 * 2**20, "Bytes of one request body, also after decompression.", "BYTES")
    max_collected: int = _limit(2**30, "Bytes of corrections in the folder of --collect.", "BYTES")
    max_connections: int = _limit(512, "Open connections.", "N")
    head_timeout: float = _limit(15.0, "Time for the head of a request to arrive.", "SECONDS")
    body_timeout: float = _limit(20.0, "Time for the body of a request to arrive.", "SECONDS")
    answer_timeout: float = _limit(120.0, "Time for the model to answer.", "SECONDS")
    write_timeout: float = _limit(30.0, "Time for a client to take an answer.", "SECONDS")
    drain_delay: float = _limit(
        0.0, "Time to go on taking requests after the signal to stop, while /readyz answers 503.", "SECONDS"
    )
    drain_timeout: float = _limit(30.0, "Time for the requests in progress after that.", "SECONDS")
    refresh: float = _limit(2.0, "Time between looks for a new version.", "SECONDS")


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
