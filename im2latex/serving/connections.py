"""Client connections of the service: extends uvicorn's with limits on number and time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from im2latex.serving.limits import Limits

# Maximum number of connections above the limit. They can only read the service's health; a new one replaces the oldest.
SPARE = 16
# Interval in seconds between checks for connections that take too long.
LOOK_SECONDS = 0.25
# Key in a request's `scope["state"]`: whether its connection is above the limit.
ABOVE_LIMIT = "above_limit"


class Connection(H11Protocol):
    """A connection. `Connections.protocol` creates a subclass of this for a service."""

    group: Connections

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waits_since: float | None = time.monotonic()  # since when the connection waits for a request's head
        self._writes_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.group.is_above(self, len(self.connections)):
            self.app_state = {**self.app_state, ABOVE_LIMIT: True}

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.group.forget(self)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._waits_since = None

    def on_response_complete(self) -> None:
        self._waits_since = time.monotonic()
        super().on_response_complete()

    def look(self, now: float, limits: Limits) -> None:
        """Closes the connection if the head of a request is late, or if the client does not read the answer."""
        if self._waits_since is not None and now - self._waits_since > limits.head_timeout:
            self.transport.abort()
        elif not self.transport.get_write_buffer_size():
            self._writes_since = None
        elif self._writes_since is None:
            self._writes_since = now
        elif now - self._writes_since > limits.write_timeout:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Sends the response to data that is not HTTP."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # a response has already started
            self.transport.close()
            return
        body = json.dumps({"error": "this is not a valid HTTP request"}).encode()
        headers = {**self.group.headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
        head = h11.Response(status_code=400, headers=[*headers.items(), ("Connection", "close")], reason=b"Bad Request")
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Connections:
    """All connections of a service.

    Args:
        limits: limits on the number and the times of connections.
        headers: headers of responses to data that is not HTTP.
    """

    def __init__(self, limits: Limits, headers: Mapping[str, str]) -> None:
        self.limits = limits
        self.headers = headers
        self._spare: dict[Connection, None] = {}  # in order of arrival
        self.protocol = type("Connection", (Connection,), {"group": self})
        self._all: set[Connection] = set()

    @property
    def is_full(self) -> bool:
        """Whether a new connection would exceed the limit."""
        return len(self._all) >= self.limits.max_connections

    def is_above(self, connection: Connection, count: int) -> bool:
        """Registers a new connection, and returns whether it exceeds the limit."""
        self._all.add(connection)
        if count <= self.limits.max_connections:
            return False
        if len(self._spare) >= SPARE:
            oldest = next(iter(self._spare))
            del self._spare[oldest]
            oldest.transport.abort()
        self._spare[connection] = None
        return True

    def forget(self, connection: Connection) -> None:
        """Removes a closed connection."""
        self._spare.pop(connection, None)
        self._all.discard(connection)

    async def look(self) -> None:
        """Closes connections that take too long; runs until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            for connection in list(self._all):
                connection.look(now, self.limits)
