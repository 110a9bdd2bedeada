"""Refuses requests from web pages of other sites that a user of the service has open in a browser.

Any open page can send requests to a service on the loopback interface. With DNS rebinding, where a page's host name is
made to resolve to 127.0.0.1, the page could even read the responses. The page cannot change the Host header, however,
so the service checks it.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

ANY = "*"


class Hosts:
    """The host names that a request may use for the service.

    IP addresses such as 127.0.0.1 are always allowed, because no other site has such a name.

    Args:
        names: additional names besides localhost; "*" allows every name.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._further = {*map(str.lower, names)}

    def check(self, method: str, headers: Mapping[str, str]) -> None:
        """Checks the headers of a request, with lower-case names.

        A request without the header Host is accepted, because browsers always send it.

        Raises:
            HTTPException: 421 if the Host header is not a name of the service; 403 if the browser reports that a page
                of another site sent the request.
        """
        host = headers.get("host")
        if host is not None and ANY not in self._further and not self._knows(host):
            raise HTTPException(
                421, f"{host!r:.80} is not an allowed host name; `im2latex serve --allow-host NAME` allows it"
            )
        # Links on other sites may lead to the page, so GET and HEAD are allowed.
        if method not in ("GET", "HEAD") and (
            headers.get("sec-fetch-site") == "cross-site" or not self._is_own(headers.get("origin"), host)
        ):
            raise HTTPException(403, "requests from pages of other sites are not allowed")

    def _knows(self, host: str) -> bool:
        name = _name(host)
        return name == "localhost" or name in self._further or _is_address(name)

    def _is_own(self, origin: str | None, host: str | None) -> bool:
        """Returns whether the request comes from a page of this service: the same host and port, or an allowed name."""
        if origin is None or ANY in self._further:
            return True
        _, _, authority = origin.partition("://")
        return bool(authority) and (authority.lower() == (host or "").lower() or _name(authority) in self._further)


def hosts_of(bound: str, further: Iterable[str] = ()) -> Hosts:
    """Returns the names of a service: `bound`, `further`, and the machine's name if others can reach it."""
    is_open = not (bound == "localhost" or (_is_address(bound) and ipaddress.ip_address(bound).is_loopback))
    own = [] if bound == "localhost" or _is_address(bound) else [bound]
    return Hosts([*own, *([socket.gethostname()] if is_open else []), *further])


def _name(authority: str) -> str:
    try:
        return (urlsplit(f"//{authority}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
