"""Who may ask: not the pages of other sites, in the browser of somebody who can reach the service.

A service at loopback is open to every page that is looked at on its machine. A page whose site's name is made to point
to 127.0.0.1 (DNS rebinding) would even be given the answers; what it cannot change is the name in the header Host.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import web

ANY = "*"


class Hosts:
    """The names by which a request may call the service.

    Addresses, such as 127.0.0.1, may always: no other site is called so.

    Args:
        names: further ones beside localhost; "*" is every name.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = {"localhost", *map(str.lower, names)}

    def check(self, request: web.BaseRequest) -> None:
        """Looks at the headers of a request; one without Host comes from no browser.

        Raises:
            HTTPMisdirectedRequest: it calls the service by a name that is none of its own.
            HTTPForbidden: a browser says that the page of another site asks for it.
        """
        host = request.headers.get("Host")
        if host is not None and ANY not in self._names and not self._knows(host):
            raise web.HTTPMisdirectedRequest(
                text=f"{host!r:.80} is no name of this service; `im2latex serve --allow-host NAME` adds one"
            )
        # A link on another site may lead to the page.
        if request.headers.get("Sec-Fetch-Site") == "cross-site" and request.method not in ("GET", "HEAD"):
            raise web.HTTPForbidden(text="pages of other sites cannot ask this service")

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name.removesuffix(".") in self._names or _is_address(name)


def hosts_of(bound: str, further: Iterable[str] = ()) -> Hosts:
    """The names of a service that listens at `bound`: that, the machine's own where others can reach it, and others."""
    is_open = not (bound == "localhost" or (_is_address(bound) and ipaddress.ip_address(bound).is_loopback))
    return Hosts([bound, *([socket.gethostname()] if is_open else []), *further])


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
