"""The serving folder, which holds the versions of a model: lists, compares, moves and deletes them.

    1795463587/            a version, which is a SavedModel; a server loads the highest number
    1795464242.partial/    an incomplete version: it is being pushed or deleted, or a killed process left it
    withdrawn/1795464001/  a withdrawn version; a server ignores `withdrawn`, because it is not a number

A version is moved with one rename, so a server never sees part of it. Versions can be listed and compared on every
file system that TFX supports (gs://, s3://); TFX is imported only for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from im2latex.models import is_version

# Custom properties of Baseline's output.
SERVING_VERSION = "serving_version"  # the version that serves; "" if there is none
SKIPPED = "skipped"  # newer versions that cannot be used, with reasons
# Id of Pusher's artifact for that version; known only to orchestrators that run drivers.
COPY_OF = "pushed_model"

PARTIAL = ".partial"
# Name of the folder of withdrawn versions, and of the property of a model that is a copy of one.
WITHDRAWN = "withdrawn"
# Time that a version stays after the next was pushed: a server may be loading it, or may not know the newer one yet.
GRACE_SECONDS = 600.0

log = logging.getLogger(__name__)


def versions(folder: str | Path) -> list[int]:
    """Lists the versions in a folder, oldest first; [] if the folder does not exist."""
    if "://" in str(folder):
        from tfx.dsl.io import fileio

        # Remote listings end folders with a slash.
        names = [os.fspath(name).rstrip("/") for name in fileio.listdir(folder)] if fileio.isdir(folder) else []
    else:
        names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(name) for name in names if is_version(name))


def digest(model: str) -> str:
    """Returns the SHA-256 of a SavedModel's relative file names and contents; copies have equal digests."""
    from tfx.dsl.io import fileio

    sha = hashlib.sha256()
    for folder, _, names in sorted(fileio.walk(model)):
        for name in sorted(names):
            path = os.path.join(folder, name)
            with fileio.open(path, "rb") as file:
                content = file.read()
            sha.update(f"{os.path.relpath(path, model)}\0{len(content)}\0".encode())
            sha.update(content)
    return sha.hexdigest()


def serves(folder: str, version: int, model: str) -> bool:
    """Returns whether a version in the serving folder is a copy of the model."""
    return digest(os.path.join(folder, str(version))) == digest(model)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Locks a local serving folder: other processes that push, withdraw or delete versions wait."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            # Not fatal: every change is a rename, which is atomic without a lock too.
            log.warning("%s cannot be locked (%s): make sure that no other run pushes to it.", folder, error.strerror)
        yield
    finally:
        os.close(descriptor)


def activate(folder: Path, version: int) -> tuple[list[int], bool]:
    """Makes a version the one that serves: restores it if it was withdrawn, and withdraws all newer versions.

    The version that serves changes with the last rename; until then the previous one serves.

    Args:
        folder: serving folder; local, and locked by the caller.
        version: a version in the folder, or a withdrawn one.

    Returns:
        The versions that were withdrawn, oldest first, and whether `version` was restored.
    """
    withdrawn = folder / WITHDRAWN
    newer = [number for number in versions(folder) if number > version]
    restored = version in versions(withdrawn)
    if restored:
        (withdrawn / str(version)).rename(folder / str(version))
    for number in newer:
        withdrawn.mkdir(exist_ok=True)
        (folder / str(number)).rename(withdrawn / str(number))
    if restored and not any(withdrawn.iterdir()):
        withdrawn.rmdir()
    return newer, restored


def delete_old(folder: Path, keep: int) -> list[int]:
    """Deletes all but the newest versions, and all but the newest withdrawn versions.

    A version stays for `GRACE_SECONDS` after it stopped serving.

    Args:
        folder: serving folder; local, and locked by the caller.
        keep: number of versions, and of withdrawn versions, to keep; 0 keeps all.

    Returns:
        The deleted versions.
    """
    if not keep:
        return []
    cutoff = time.time() - GRACE_SECONDS
    deleted = []
    for parent in (folder, folder / WITHDRAWN):
        numbers = versions(parent)
        for number, following in zip(numbers[:-keep], numbers[1:], strict=False):
            # A rename sets st_ctime: the time since which the following version serves, or this one is withdrawn.
            since = number if parent != folder else following
            if (parent / str(since)).stat().st_ctime < cutoff:
                partial = folder / f"{number}{PARTIAL}"
                (parent / str(number)).rename(partial)
                shutil.rmtree(partial)
                deleted.append(number)
    return deleted


def version_status(version: Path) -> str:
    """Describes the present state of a version in a local serving folder; "" if the folder does not exist."""
    folder = version.parent
    if not folder.is_dir() or not version.name.isdecimal():
        return ""
    number, numbers = int(version.name), versions(folder)
    if number in numbers:
        return "serves now" if number == numbers[-1] else "a newer version serves"
    return WITHDRAWN if number in versions(folder / WITHDRAWN) else "deleted"


def not_pushed(withdrawn: str) -> str:
    """Returns the text for a model that was not pushed.

    Args:
        withdrawn: the withdrawn version that it is a copy of; "" if it was not pushed for another reason.
    """
    if not withdrawn:
        return "not pushed"
    return f"not pushed: it is version {withdrawn}, which was withdrawn; `im2latex rollback --to {withdrawn}` serves it"
