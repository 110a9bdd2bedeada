"""The connections of the service: uvicorn's, with the limits of number and time that it has not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from im2latex.serving.limits import Limits

# Connections above the limit, which are answered about the service's health alone: the oldest gives way to a new one.
SPARE = 16
# Between looks at the times of all connections, seconds.
LOOK_SECONDS = 0.25
# In a request's `scope["state"]`: whether its connection is above the limit.
ABOVE_LIMIT = "above_limit"


class Connection(H11Protocol):
    """A connection. `Connections.protocol` makes a class of these for one service."""

    group: Connections

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waits_since: float | None = time.monotonic()  # for the head of a request
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
        """Ends the connection if a head is late, or if the client does not take what was written."""
        if self._waits_since is not None and now - self._waits_since > limits.head_timeout:
            self.transport.abort()
        elif not self.transport.get_write_buffer_size():
            self._writes_since = None
        elif self._writes_since is None:
            self._writes_since = now
        elif now - self._writes_since > limits.write_timeout:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is under way
            self.transport.close()
            return
        body = json.dumps({"error": "this is no HTTP request that can be read"}).encode()
        headers = {**self.group.headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
        head = h11.Response(status_code=400, headers=[*headers.items(), ("Connection", "close")], reason=b"Bad Request")
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Connections:
    """All connections of a service.

    Args:
        limits: how many, and how slow they may be.
        headers: of the answers to what is no HTTP.
    """

    def __init__(self, limits: Limits, headers: Mapping[str, str]) -> None:
        self.limits = limits
        self.headers = headers
        self._spare: dict[Connection, None] = {}  # in the order they came
        self.protocol = type("Connection", (Connection,), {"group": self})
        self._all: set[Connection] = set()

    @property
    def is_full(self) -> bool:
        """Whether a new connection would be above the limit."""
        return len(self._all) >= self.limits.max_connections

    def is_above(self, connection: Connection, count: int) -> bool:
        """Takes in a new connection; whether it is above the limit."""
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
        """Leaves out a connection that ended."""
        self._spare.pop(connection, None)
        self._all.discard(connection)

    async def look(self) -> None:
        """Ends connections that take too long, for as long as it runs."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            for connection in list(self._all):
                connection.look(now, self.limits)
