"""Downloads npm packages once, checks them against pinned digests, and keeps them in the cache."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.files import atomic_file
from im2latex.errors import UserError
from pipeline.cache import cache_folder

REGISTRY = "https://registry.npmjs.org"
SECONDS_TO_ANSWER = 60.0


class Package(NamedTuple):
    """A version of a package with the SHA-512 of its archive, in base64, as in npm's lock files."""

    name: str
    version: str
    sha512: str

    @property
    def archive(self) -> str:
        """The file name of the archive, as `npm pack` writes it."""
        return f"{self.name}-{self.version}.tgz"


def unpack(package: Package, names: Sequence[str], archives: Path | None = None) -> dict[str, bytes]:
    """Returns the contents of files of a package, by their names.

    Args:
        package: the package. Its archive is read from `archives`, else from the cache, else from the registry, which
            NPM_CONFIG_REGISTRY can name.
        names: files in the package, such as dist/index.js.
        archives: folder with archives, as `npm pack` writes them, for machines without a network.

    Raises:
        UserError: the archive cannot be read or downloaded, or its digest differs.
    """
    content = _from_folder(package, archives) if archives else _cached(package) or _downloaded(package)
    wanted = {f"package/{name}": name for name in names}
    contents = {}
    # In one pass: seeking back would decompress the archive again.
    with tarfile.open(fileobj=io.BytesIO(content), mode="r|gz") as archive:
        for member in archive:
            if member.name in wanted and (file := archive.extractfile(member)):
                contents[wanted[member.name]] = file.read()
    return contents


def _from_folder(package: Package, folder: Path) -> bytes:
    file = folder / package.archive
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {file} ({error.strerror}); where there is a network, "
            f"`npm pack {package.name}@{package.version}` makes it"
        ) from None
    _check(package, content, str(file))
    return content


def _cached(package: Package) -> bytes | None:
    """Returns the archive from the cache, or None if it is missing or damaged."""
    with contextlib.suppress(OSError, UserError):
        content = (cache_folder("npm") / package.archive).read_bytes()
        _check(package, content, "the cache")
        return content
    return None


def _downloaded(package: Package) -> bytes:
    registry = os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY
    address = f"{registry.rstrip('/')}/{package.name}/-/{package.archive}"
    try:
        with urllib.request.urlopen(address, timeout=SECONDS_TO_ANSWER) as answer:
            content: bytes = answer.read()
    except (OSError, ValueError) as error:  # also what urllib raises
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"cannot fetch {address} ({reason}); give a folder with {package.archive} by --npm, "
            f"as `npm pack {package.name}@{package.version}` makes it"
        ) from None
    _check(package, content, address)
    with contextlib.suppress(OSError), atomic_file(cache_folder("npm") / package.archive) as file:
        file.write(content)
    return content


def _check(package: Package, content: bytes, source: str) -> None:
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != package.sha512:
        raise UserError(f"{source} is not {package.name} {package.version}: its SHA-512 differs; download it again")
