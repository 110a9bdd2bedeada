from __future__ import annotations

import dataclasses
import http.client
import json
import socket
import time
from pathlib import Path

from pipeline.serving.connections import FULL
from tests.pipeline.serving.conftest import LIMITS, Running, running


def test_one_connection_too_many_is_told_so_and_the_next_are_served(model: Path, images: list[bytes]) -> None:
    with running(lambda: [model], dataclasses.replace(LIMITS, connections=3)) as service:
        held = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(3)]
        for connection in held:  # each is taken when it has been answered
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        one_more = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        one_more.connect()  # and asks nothing: what has to be sent first may be too late to be read
        refusal = http.client.HTTPResponse(one_more.sock)
        refusal.begin()
        assert refusal.status == 503 and refusal.getheader("Retry-After") == "1"
        assert "too many connections" in json.loads(refusal.read())["error"]
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 30
        while service.ask("GET", "/healthz").status != 200:
            assert time.monotonic() < deadline
        assert service.is_alive(images[0])


def test_the_refusal_is_whole() -> None:
    head, body = FULL.split(b"\r\n\r\n")
    assert int(head.split(b"Content-Length: ")[1]) == len(body)


def test_what_is_no_http_is_not_told_what_serves(service: Running) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"<script>alert(1)</script>\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b"")).decode().lower()
    assert answer.startswith(("http/1.0 400", "http/1.1 400"))
    assert "server: im2latex\r\n" in answer and "x-content-type-options: nosniff\r\n" in answer
    assert "aiohttp" not in answer and "python" not in answer
