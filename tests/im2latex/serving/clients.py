"""Requests of correct and incorrect clients."""

from __future__ import annotations

import base64
import socket
import time

from tests.im2latex.serving.conftest import Running


def b64(image: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(image).decode()}


def form(image: bytes, name: str = "image", filename: str = "formula.png") -> tuple[bytes, str]:
    """A form with one file as browsers and curl send it, and its content type."""
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
    return head.encode() + image + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge"


def talk(service: Running, *parts: bytes, pause: float) -> tuple[bytes, float]:
    """Sends parts with pauses. Returns the response until the connection is closed, and the seconds until then."""
    started = time.monotonic()
    got = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            while more := connection.recv(65536):
                got += more
        except (BrokenPipeError, ConnectionResetError):
            pass
    return got, time.monotonic() - started
