"""ASGI middleware for every request: allowed hosts, request id, headers, JSON errors, log and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from im2latex.errors import UserError
from im2latex.serving.bodies import ClientDisconnected
from im2latex.serving.hosts import Hosts
from im2latex.serving.logs import ACCESS
from im2latex.serving.metrics import ServiceMetrics
from im2latex.serving.quotas import Busy

ID = "x-request-id"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# nginx's status for a client that disconnected before the response.
CLIENT_CLOSED_REQUEST = 499
# How long the server reads and discards the rest of a refused body, so that the client can read the response.
LINGERING_SECONDS = 3.0
# Maximum size in bytes of all headers of a request.
LONGEST_HEAD = 2**15
# Health and metrics requests are too frequent to log.
QUIET = ("/healthz", "/readyz", "/metrics")
# Keys in `scope["state"]`: the route's path template, and additional attributes for the log.
ROUTE, LOGGED = "route", "logged"

log = logging.getLogger(__name__)


class RequestMiddleware:
    """Wraps an application.

    Args:
        app: the application.
        hosts: the host names that the service answers to.
        metrics: counts the requests.
        headers: headers of every response.
        is_stopping: returns whether to close connections after the response.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Hosts,
        metrics: ServiceMetrics,
        headers: Mapping[str, str],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._metrics = metrics
        self._headers = headers
        self._is_stopping = is_stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        request_id = request_headers.get(ID, "")
        state["id"] = request_id if _ID.fullmatch(request_id) else secrets.token_hex(8)
        exchange = _Exchange(scope, receive, send, {**self._headers, ID: state["id"]}, self._is_stopping)
        try:
            try:
                if sum(len(name) + len(value) for name, value in scope["headers"]) > LONGEST_HEAD:
                    raise HTTPException(431, f"the headers are longer than {LONGEST_HEAD:,} bytes")
                self._hosts.check(scope["method"], request_headers)
                await self._app(scope, exchange.receive, exchange.send)
            except HTTPException as error:
                await as_json(error)(scope, exchange.receive, exchange.send)
        except (ClientDisconnected, OSError):
            exchange.status = CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            exchange.status = CLIENT_CLOSED_REQUEST
            raise
        except Exception:  # noqa: BLE001  the response is sent already; an internal error must not stop the service
            log.exception("%s %s failed", scope["method"], shown_path(scope), extra={"request_id": state["id"]})
        finally:
            seconds = time.perf_counter() - started
            route = state.get(ROUTE, "other")
            self._metrics.requests.labels(route, exchange.status).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            if route not in QUIET or exchange.status >= 500:
                _log_request(scope, exchange.status, seconds)


class _Exchange:
    """Tracks a request and its response."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str], is_stopping: Callable[[], bool]
    ) -> None:
        self.status = CLIENT_CLOSED_REQUEST
        self._receive = receive
        self._send = send
        self._headers = headers
        self._is_stopping = is_stopping
        request_headers = Headers(scope=scope)
        self._has_more = request_headers.get("content-length", "0") != "0" or "transfer-encoding" in request_headers
        # Reading the body would make the server send "100 Continue".
        self._lingers = "expect" not in request_headers

    async def receive(self) -> Message:
        message = await self._receive()
        self._has_more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers.setdefault(name, value)
            if self._has_more or self._is_stopping():
                headers["connection"] = "close"
        elif self._has_more and self._lingers and not message.get("more_body", False):
            # Read the rest of the body; otherwise the connection is reset before the client reads the response.
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {**message, "body": b""}
        await self._send(message)

    async def _linger(self) -> None:
        async def rest() -> None:
            while self._has_more:
                await self.receive()

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(rest(), LINGERING_SECONDS)


def as_json(error: Exception) -> JSONResponse:
    """Returns the response for an error: a sentence in JSON, as in TensorFlow Serving."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
    if isinstance(error, Busy):
        return JSONResponse({"error": str(error)}, 503, headers={"Retry-After": str(error.seconds)})
    if isinstance(error, UserError):
        return JSONResponse({"error": str(error)}, 400)
    return JSONResponse({"error": "internal error; the service's log has the details"}, 500)


def add_to_log(scope: Scope, **what: Any) -> None:
    """Adds attributes to a request's log line."""
    scope["state"].setdefault(LOGGED, {}).update(what)


def _log_request(scope: Scope, status: int, seconds: float) -> None:
    client = scope["client"][0] if scope.get("client") else ""
    known = {"client": client, "method": scope["method"], "path": shown_path(scope), "status": status}
    known |= {"request_id": scope["state"]["id"], "seconds": round(seconds, 6), **scope["state"].get(LOGGED, {})}
    ACCESS.info("%s %s %s %d %.0f ms", client, scope["method"], shown_path(scope), status, 1e3 * seconds, extra=known)


def shown_path(scope: Scope) -> str:
    """Returns the path as the client sent it: percent-encoded, at most 200 characters."""
    return scope["raw_path"].decode("ascii", "replace")[:200]
