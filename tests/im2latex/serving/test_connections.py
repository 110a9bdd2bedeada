"""Connections: their number, their speed, and data that is not HTTP."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from pathlib import Path

import pytest

from im2latex.serving.connections import SPARE
from tests.im2latex.serving.conftest import LIMITS, Running, running

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(service: Running, count: int) -> list[socket.socket]:
    """Open connections that have had one response."""
    connections = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(count)]
    for connection in connections:
        connection.sendall(HEAD)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    return connections


def test_above_the_limit_of_connections_only_health_endpoints_answer(model: Path, images: list[bytes]) -> None:
    with running(lambda: [model], dataclasses.replace(LIMITS, max_connections=3, head_timeout=60)) as service:
        held = connect(service, 3)
        refusal = service.ask("POST", "/predict", images[0])
        assert refusal.status == 503 and int(refusal.headers["Retry-After"]) >= 1
        assert "too many connections" in refusal.json["error"]
        assert service.ask("GET", "/healthz").status == 200
        assert (service.ask("GET", "/readyz").status, service.ask("GET", "/readyz").body) == (503, b"busy\n")
        # Those above it that ask nothing give way to others.
        silent = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(2 * SPARE)]
        for _ in range(SPARE + 1):
            assert service.ask("GET", "/healthz").status == 200
        for connection in held + silent:
            connection.close()
        deadline = time.monotonic() + 30
        while service.ask("GET", "/readyz").status != 200:
            assert time.monotonic() < deadline
        assert service.is_alive(images[0])


def test_answers_are_sent_at_once(service: Running) -> None:
    (client,) = connect(service, 1)
    (connection,) = (
        connection for connection in service.service.connections._all if connection.client == client.getsockname()
    )
    assert connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    client.close()


@pytest.mark.parametrize("path", ["/katex/katex.min.js", "/"])
def test_a_client_that_does_not_take_its_answers_is_cut_off(path: str, service: Running) -> None:
    with socket.socket() as connection:
        # Set before it connects: Linux may ignore the reset of a connection whose buffer shrank later.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", service.port))
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        with pytest.raises(ConnectionError):
            for _ in range(10_000):
                connection.sendall(100 * request)


def test_invalid_http_gets_json_without_the_name_of_the_server(service: Running) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"<script>alert(1)</script>\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 400")
    assert list(json.loads(body)) == ["error"]
    head = head.lower()
    assert "server: im2latex" in head and "x-content-type-options: nosniff" in head
    assert "uvicorn" not in head and "python" not in head
