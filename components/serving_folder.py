"""The serving folder: the versions of a model, as SavedModels, and how they are listed, compared, moved and deleted.

    1795463587/            a version; a server takes the highest number
    1795464242.partial/    one that is not whole: it is being pushed or deleted, or a killed process left it
    withdrawn/1795464001/  one that was withdrawn; a server sees a name that is not a number, and ignores it

A version is moved by one rename, so it is served whole or not at all. Versions can be listed and compared on any
file system that TFX knows (gs://, s3://); TFX is imported only for that.
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

# Custom properties of the model that Baseline takes from it.
SERVING_VERSION = "serving_version"  # the version that serves, "" when there is none
PASSED_OVER = "passed_over"  # the newer versions that cannot be used, with reasons
# The id of the artifact that Pusher made of that version, where an orchestrator with drivers knows it.
COPY_OF = "pushed_model"

PARTIAL = ".partial"
# The folder of withdrawn versions, and the property of a model that is a copy of one.
WITHDRAWN = "withdrawn"
# How long a version stays after the next one was pushed: a server may still be loading it, or be without the newer one.
GRACE_SECONDS = 600.0

log = logging.getLogger(__name__)


def versions(folder: str | Path) -> list[int]:
    """The versions in a folder, the oldest first; none if there is no folder."""
    if "://" in str(folder):
        from tfx.dsl.io import fileio

        # Remote listings end folders with a slash.
        names = [os.fspath(name).rstrip("/") for name in fileio.listdir(folder)] if fileio.isdir(folder) else []
    else:
        names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(name) for name in names if is_version(name))


def digest(model: str) -> str:
    """SHA-256 over the relative names and bytes of a SavedModel's files; equal for equal copies only."""
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
    """Whether a version in the serving folder is a copy of the model."""
    return digest(os.path.join(folder, str(version))) == digest(model)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
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


def activate(folder: Path, version: int) -> tuple[list[int], bool]:
    """Lets a version serve: withdraws all newer ones, and brings it back where it was withdrawn itself.

    What serves changes once, with the last rename: until then it is the version that served before.

    Args:
        folder: of the versions; local, and locked.
        version: one of them, or a withdrawn one.

    Returns:
        The versions that were withdrawn, the oldest first, and whether `version` was brought back.
    """
    withdrawn = folder / WITHDRAWN
    newer = [number for number in versions(folder) if number > version]
    back = version in versions(withdrawn)
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
        folder: of the versions; local, and locked.
        keep: how many stay of either; 0 for all.

    Returns:
        The versions that were deleted.
    """
    if not keep:
        return []
    over = time.time() - GRACE_SECONDS
    deleted = []
    for parent in (folder, folder / WITHDRAWN):
        numbers = versions(parent)
        for number, following in zip(numbers[:-keep], numbers[1:], strict=False):
            # A rename sets this time: since then the following version serves, or this one is withdrawn.
            since = number if parent != folder else following
            if (parent / str(since)).stat().st_ctime < over:
                partial = folder / f"{number}{PARTIAL}"
                (parent / str(number)).rename(partial)
                shutil.rmtree(partial)
                deleted.append(number)
    return deleted


def version_status(version: Path) -> str:
    """What became of a version that was pushed to a local folder; "" where the folder is not here."""
    folder = version.parent
    if not folder.is_dir() or not version.name.isdecimal():
        return ""
    number, numbers = int(version.name), versions(folder)
    if number in numbers:
        return "serves now" if number == numbers[-1] else "a newer version serves"
    return WITHDRAWN if number in versions(folder / WITHDRAWN) else "deleted"


def not_pushed(withdrawn: str) -> str:
    """That a model was not pushed; with why, where it is a copy of a version that was withdrawn."""
    if not withdrawn:
        return "not pushed"
    return f"not pushed: it is version {withdrawn}, which was withdrawn; `im2latex rollback --to {withdrawn}` serves it"
