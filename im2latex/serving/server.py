"""Runs the service on uvicorn until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from im2latex.corrections import Corrections
from im2latex.errors import UserError
from im2latex.serving import logs
from im2latex.serving.hosts import hosts_of
from im2latex.serving.limits import Limits
from im2latex.serving.models import Models
from im2latex.serving.service import Service
from im2latex.serving.web import LONGEST_HEAD

BACKLOG = 2048


class Server(uvicorn.Server):
    """Serves until SIGTERM or Ctrl-C, and then finishes the requests in progress; a second signal stops it at once.

    Args:
        service: the service to run.
        started: called when the server listens.
    """

    def __init__(self, service: Service, started: Callable[[], None] = lambda: None) -> None:
        limits = service.limits
        super().__init__(
            uvicorn.Config(
                service.application(),
                http=service.connections.protocol,
                ws="none",
                lifespan="on",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=2 * LONGEST_HEAD,
                timeout_keep_alive=max(1, round(limits.head_timeout)),
                timeout_graceful_shutdown=max(1, round(limits.drain_timeout)),
            )
        )
        self._service = service
        self._started = started
        self._ends_at = 0.0

    def end(self) -> None:
        """Stops the server, after a delay in which load balancers can see that it is not ready."""
        self._ends_at = time.monotonic() + self._service.limits.drain_delay
        self._service.end(len(self.server_state.tasks))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.stopping:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self.end()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    async def on_tick(self, counter: int) -> bool:
        if self._service.stopping and time.monotonic() >= self._ends_at:
            self.should_exit = True
        return await super().on_tick(counter)


def listen(host: str, port: int) -> list[socket.socket]:
    """Opens the sockets of an address; a host name may have several.

    Args:
        host: host name or IP address to listen at.
        port: TCP port; 0 selects a free one.

    Raises:
        UserError: the address is not available.
    """
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            port = sockets[0].getsockname()[1] if sockets else port
            sockets.append(socket.create_server((str(address[0]), port), family=family, backlog=BACKLOG))
            # Send the body of a response at once, not 40 ms later with the client's acknowledgement of the head.
            # Connections inherit this; asyncio sets it only for sockets that were made with a protocol number.
            sockets[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, UnicodeError) as error:
        for opened in sockets:
            opened.close()
        # socket.create_server appends the address to the message of a refused bind; a resolver's numbers are negative.
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or "not a valid address"
        raise UserError(f"cannot listen on {host}:{port} ({reason}); choose another --port or --host") from None
    return sockets


def serve(
    folders: Callable[[], Sequence[Path]],
    host: str,
    port: int,
    allowed: Sequence[str] = (),
    log_format: str = logs.TEXT,
    limits: Limits | None = None,
    collect: Path | None = None,
) -> None:
    """`im2latex serve`: loads the newest working version and serves until it is told to stop.

    Raises:
        UserError: no version works, the address is not available, or the folder `collect` cannot be written.
    """
    logs.configure(log_format)
    limits = limits or Limits()
    corrections = Corrections(collect, limits.max_collected) if collect else None
    service = Service(Models(folders), limits, hosts_of(host, allowed), corrections)
    sockets = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{sockets[0].getsockname()[1]}"

    def started() -> None:
        saving = f"; corrections are saved in {collect}" if collect else ""
        print(f"{address} serves {service.models.served.folder}{saving}; press Ctrl-C to stop", flush=True)

    asyncio.run(Server(service, started).serve(sockets))
