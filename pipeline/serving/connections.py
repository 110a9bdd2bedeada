"""The connections of the service: how many there are at most, and what is answered to what is no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web

FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b'Content-Length: 46\r\n\r\n{"error": "too many connections; come later"}\n'
)


class _Connection(web.RequestHandler):
    """A connection of aiohttp's, whose own answers have the headers of all others."""

    def __init__(self, *arguments: Any, headers: Mapping[str, str], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._headers = headers

    def handle_error(self, *arguments: Any, **named: Any) -> web.StreamResponse:
        """The answer to what is no HTTP, before any request is made of it."""
        response = super().handle_error(*arguments, **named)
        response.headers.update(self._headers)
        return response


class _Refused(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(FULL)
        transport.close()


async def listen(
    runner: web.AppRunner, host: str, port: int, most: int, headers: Mapping[str, str], **settings: Any
) -> asyncio.Server:
    """Takes connections for an application.

    Args:
        runner: what runs it, set up.
        host, port: where to listen; port 0 takes one that is free.
        most: connections at once. Each is an open file, and without any left no model could be loaded.
        headers: of the answers to what is no HTTP.
        settings: aiohttp's for connections.

    Raises:
        OSError: the address cannot be had.
    """
    server, loop = runner.server, asyncio.get_running_loop()
    assert server is not None

    def made() -> asyncio.Protocol:
        if len(server.connections) >= most:
            return _Refused()
        return _Connection(server, loop=loop, headers=headers, **settings)

    return await loop.create_server(made, host, port, reuse_address=True)
