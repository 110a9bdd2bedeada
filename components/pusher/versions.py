"""What stands in a serving folder beside the version that serves; apart from the component, so that who moves versions
needs no TFX.

    1795463587/            a version; a server takes the highest number
    1795464242.partial/    one that is not whole: it is being pushed or deleted, or a killed process left it
    withdrawn/1795464001/  one that was taken back; a server sees a name that is no number, and passes over it

A version changes its place by one rename, so it is served whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"
WITHDRAWN = "withdrawn"
# How long a version stays after the next one was pushed: a server may still be loading it, or be without the newer one.
GRACE_SECONDS = 600.0

log = logging.getLogger(__name__)


def numbers(folder: Path) -> list[int]:
    """The versions in a local folder, the oldest first; none where there is no folder."""
    if not folder.is_dir():
        return []
    # A server would take 007 as well; nobody here has made it.
    return sorted(
        int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.name == f"{int(path.name)}"
    )


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keeps others who push, withdraw or delete versions of a local folder waiting."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            # Every change is a rename, which is whole without a lock too.
            log.warning("%s cannot be locked (%s): let no other run push to it.", folder, error.strerror)
        yield
    finally:
        os.close(descriptor)


def switch(folder: Path, version: int) -> tuple[list[int], bool]:
    """Lets a version serve: withdraws all newer ones, and brings it back where it was withdrawn itself.

    What serves changes once, with the last rename: until then it is the version that served before.

    Args:
        folder: of the versions; local, and held.
        version: one of them, or a withdrawn one.

    Returns:
        The versions that were withdrawn, the oldest first, and whether `version` was brought back.
    """
    withdrawn = folder / WITHDRAWN
    newer = [number for number in numbers(folder) if number > version]
    back = version in numbers(withdrawn)
    if back:
        (withdrawn / str(version)).rename(folder / str(version))
    for number in newer:
        withdrawn.mkdir(exist_ok=True)
        (folder / str(number)).rename(withdrawn / str(number))
    if back and not any(withdrawn.iterdir()):
        withdrawn.rmdir()
    return newer, back


def delete_old(folder: Path, keep: int) -> list[int]:
    """Deletes all but the newest versions, and all but the newest withdrawn ones.

    Args:
        folder: of the versions; local, and held.
        keep: how many stay of either; 0 for all.

    Returns:
        The versions that were deleted.
    """
    if not keep:
        return []
    over = time.time() - GRACE_SECONDS
    deleted = []
    for place in (folder, folder / WITHDRAWN):
        there = numbers(place)
        for number, following in zip(there[:-keep], there[1:], strict=False):
            # A rename sets this time: since then the following version serves, or this one is withdrawn.
            since = number if place != folder else following
            if (place / str(since)).stat().st_ctime < over:
                partial = folder / f"{number}{PARTIAL}"
                (place / str(number)).rename(partial)
                shutil.rmtree(partial)
                deleted.append(number)
    return deleted


def standing(version: Path) -> str:
    """What became of a version that was pushed to a local folder; "" where the folder is not here."""
    folder = version.parent
    if not folder.is_dir() or not version.name.isdecimal():
        return ""
    number, there = int(version.name), numbers(folder)
    if number in there:
        return "serves now" if number == there[-1] else "a newer version serves"
    return WITHDRAWN if number in numbers(folder / WITHDRAWN) else "deleted"


def not_pushed(withdrawn: str) -> str:
    """That a model was not pushed; with why, where it is a copy of a version that was withdrawn."""
    if not withdrawn:
        return "not pushed"
    return f"not pushed: it is version {withdrawn}, which was withdrawn; `im2latex rollback --to {withdrawn}` serves it"
