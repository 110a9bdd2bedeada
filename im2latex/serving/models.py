"""Keeps the newest working version of the model loaded, and replaces it while the service runs."""

from __future__ import annotations

import io
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from im2latex.errors import UserError
from im2latex.reader import Reader
from im2latex.reading import Beam, Hypothesis

# A version that failed is retried after this time, even if its files have not changed: the cause may have been a lack
# of memory, or the network file system.
RETRY_SECONDS = 600.0

log = logging.getLogger(__name__)


class Served(NamedTuple):
    """A loaded version."""

    folder: Path
    reader: Reader

    @property
    def version(self) -> int:
        """The version number as in TensorFlow Serving; 1 if the folder's name is not a number."""
        return int(self.folder.name) if self.folder.name.isdecimal() else 1


@dataclass(frozen=True)
class _Broken:
    """A version that failed: the state of its files at that time, and when it was tried."""

    files: frozenset[tuple[object, ...]]
    tried: float


class Models:
    """Keeps the newest working version loaded.

    Args:
        folders: returns the folders of the available versions, oldest first.

    Attributes:
        served: the version that serves.
        reloaded: called after each attempt to load a newer version, with whether it succeeded.

    Raises:
        UserError: there is no version, or none works.
    """

    def __init__(self, folders: Callable[[], Sequence[Path]]) -> None:
        self.reloaded: Callable[[bool], None] = lambda served: None
        self._folders = folders
        self._broken: dict[Path, _Broken] = {}
        served = self._newest(None)
        if served is None:
            raise UserError("no model can be loaded; the lines above say why")
        self.served = served

    def refresh(self) -> None:
        """Loads and tests the newest working version while the current one serves, and then switches to it.

        A version whose folder was removed is replaced too, if there is another one.
        """
        served = self._newest(self.served)
        if served is not None and served.folder != self.served.folder:
            log.info("version %d serves now, after %d", served.version, self.served.version)
            self.served = served
            self.reloaded(True)

    def _newest(self, serving: Served | None) -> Served | None:
        """Returns the newest working version; the current one is not tested again."""
        folders = self._folders()
        # A version that was moved away during loading is not marked as broken, because it may come back.
        self._broken = {folder: broken for folder, broken in self._broken.items() if folder in folders}
        for folder in reversed(folders):
            if serving is not None and folder == serving.folder:
                return serving
            now, before = _Broken(_files(folder), time.monotonic()), self._broken.get(folder)
            if before and before.files == now.files and now.tried < before.tried + RETRY_SECONDS:
                continue
            try:
                return load(folder)
            except UserError as error:
                self._broken[folder] = now
                log.warning("version %s is skipped: %s", folder.name, error)
                if serving is not None:
                    self.reloaded(False)
        return None


def load(folder: Path) -> Served:
    """Loads a version and reads an image with its own and with a wider beam, so that the first request is not slower.

    Raises:
        UserError: the version does not work.
    """
    started = time.monotonic()
    try:
        reader = Reader(folder)
        own = reader.search(Beam(1))
        for beam in (own, Beam(own.width + 1)):
            (reading,) = reader.read_each([_probe()], beam)
            if isinstance(reading, UserError):
                raise UserError(f"{folder} cannot read the test image: {reading}")
            if not reading or not all(map(_is_probable, reading)):
                raise UserError(f"{folder} gives no valid probability for the test image")
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged model or its file system can raise nearly anything
        raise UserError(f"{folder} cannot be used ({type(error).__name__}: {error})".partition("\n")[0]) from None
    log.info("%s was loaded in %.1f s", folder.name, time.monotonic() - started)
    return Served(folder, reader)


def read(served: Served, images: Sequence[np.ndarray], beam: Beam) -> list[list[Hypothesis]]:
    """Reads a batch of normalised images."""
    return [list(reading.alternatives) for reading in served.reader.read_normalised(images, beam)]


def _is_probable(hypothesis: Hypothesis) -> bool:
    # Rounding can make the log-probability of a certain hypothesis slightly positive.
    return math.isfinite(hypothesis.log_probability) and hypothesis.log_probability < 1e-3


def _probe() -> bytes:
    """Returns a test image with two strokes, as PNG."""
    ink = Image.new("L", (64, 16), "white")
    ink.paste("black", (8, 7, 24, 9))
    ink.paste("black", (40, 2, 42, 14))
    buffer = io.BytesIO()
    ink.save(buffer, "PNG")
    return buffer.getvalue()


def _files(model: Path) -> frozenset[tuple[object, ...]]:
    """Returns the state of a version's files, which differs after any change, even if modification times are kept."""
    paths = [model, *(Path(folder, name) for folder, folders, names in os.walk(model) for name in folders + names)]
    return frozenset((str(path), *_state(path)) for path in paths)


def _state(path: Path) -> tuple[int, ...]:
    try:
        state = path.stat()
    except OSError as error:  # removed meanwhile, or a broken link
        return (error.errno or 0,)
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
