"""Who may ask: not the pages of other sites, in the browser of somebody who can reach the service.

A service at loopback is open to every page that is looked at on its machine. A page whose site's name is made to point
to 127.0.0.1 (DNS rebinding) would even be given the answers; what it cannot change is the name in the header Host.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

ANY = "*"


class Hosts:
    """The names by which a request may call the service.

    Addresses, such as 127.0.0.1, may always: no other site is called so.

    Args:
        names: further ones beside localhost; "*" is every name.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._further = {*map(str.lower, names)}

    def check(self, method: str, headers: Mapping[str, str]) -> None:
        """Looks at the headers of a request, whose names are in lower case; one without Host comes from no browser.

        Raises:
            HTTPException: 421, it calls the service by a name that is none of its own; 403, a browser says that the
                page of another site asks for it.
        """
        host = headers.get("host")
        if host is not None and ANY not in self._further and not self._knows(host):
            raise HTTPException(
                421, f"{host!r:.80} is no name of this service; `im2latex serve --allow-host NAME` adds one"
            )
        # A link on another site may lead to the page.
        if method not in ("GET", "HEAD") and (
            headers.get("sec-fetch-site") == "cross-site" or not self._is_own(headers.get("origin"), host)
        ):
            raise HTTPException(403, "pages of other sites cannot ask this service")

    def _knows(self, host: str) -> bool:
        name = _name(host)
        return name == "localhost" or name in self._further or _is_address(name)

    def _is_own(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of this service asks: at the same name and port, or at a name that was allowed."""
        if origin is None or ANY in self._further:
            return True
        _, _, authority = origin.partition("://")
        return bool(authority) and (authority.lower() == (host or "").lower() or _name(authority) in self._further)


def hosts_of(bound: str, further: Iterable[str] = ()) -> Hosts:
    """The names of a service that listens at `bound`: that, the machine's own where others can reach it, and others."""
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
