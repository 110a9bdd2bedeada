"""The address of the ML Metadata database: a MySQL or MariaDB server, or "" for the workspace's SQLite file.

PostgreSQL addresses are refused, although ML Metadata supports it: there it indexes the text of every property, and an
index entry of PostgreSQL has at most 2,704 bytes. The configuration of a run is longer.
"""

from __future__ import annotations

import socket
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from im2latex.errors import UserError

PASSWORD = "IM2LATEX_METADATA_PASSWORD"
SCHEME, PORT = "mysql", 3306
REACH_SECONDS = 5


class Address(NamedTuple):
    """The address of a MySQL or MariaDB database."""

    user: str
    host: str
    port: int
    database: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEME}://{quote(self.user)}@{host}:{self.port}/{quote(self.database)}"

    def reach(self) -> None:
        """Checks that the server accepts connections.

        Raises:
            UserError: the server does not answer.
        """
        try:
            socket.create_connection((self.host, self.port), REACH_SECONDS).close()
        except OSError as error:
            raise UserError(f"{self} does not answer ({error.strerror or error}); is the server running?") from None


def parse(text: str) -> Address:
    """Parses an address such as mysql://user@host:3306/database.

    Raises:
        UserError: the address is not valid, or contains a password.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise UserError(_form("is not an address")) from None
    if parts.password is not None:
        raise UserError(_form(f"contains a password, which belongs in the environment variable {PASSWORD}"))
    database = unquote(parts.path.removeprefix("/"))
    if parts.scheme.startswith("postgres"):
        raise UserError(
            _form("names a PostgreSQL database, where ML Metadata cannot store a text as long as a configuration")
        )
    if parts.scheme != SCHEME or not parts.username or not parts.hostname or not database or "/" in database:
        raise UserError(_form("is not the address of a database"))
    if parts.query or parts.fragment:
        raise UserError(_form("contains more than an address"))
    return Address(unquote(parts.username), parts.hostname, port or PORT, database)


def _form(error: str) -> str:
    # The message does not repeat the address, because it may contain a password.
    return f"metadata.connection {error}; it is mysql://user@host:port/database, or empty"
