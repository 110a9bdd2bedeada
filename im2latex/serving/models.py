"""The model that serves: the newest version that works, replaced while it serves."""

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

# After so long a version that did not work is tried again, even if its files look the same: what was wrong may have
# been the memory, or the network that its files came by.
RETRY_SECONDS = 600.0

log = logging.getLogger(__name__)


class Served(NamedTuple):
    """A version that is loaded."""

    folder: Path
    reader: Reader

    @property
    def version(self) -> int:
        """As TensorFlow Serving counts them; 1 where the folder's name is not a number."""
        return int(self.folder.name) if self.folder.name.isdecimal() else 1


@dataclass(frozen=True)
class _Broken:
    """A version that did not work: how its files looked then, and when it was tried."""

    files: frozenset[tuple[object, ...]]
    tried: float


class Models:
    """Keeps the newest version loaded.

    Args:
        folders: gives the versions that there are, the oldest first.

    Attributes:
        served: the version that serves.
        reloaded: called after each attempt to load a newer version, with whether it serves now.

    Raises:
        UserError: there is none, or none that works.
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
        """Loads the newest version that works beside the one that serves, lets it read, and then replaces that one.

        A version that was taken away does not serve any longer, as long as there is another.
        """
        served = self._newest(self.served)
        if served is not None and served.folder != self.served.folder:
            log.info("version %d serves now, after %d", served.version, self.served.version)
            self.served = served
            self.reloaded(True)

    def _newest(self, serving: Served | None) -> Served | None:
        """The newest that works; the one that serves is known to."""
        folders = self._folders()
        # One that was moved away while it was being loaded is not broken, and may come back.
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
                log.warning("version %s is passed over: %s", folder.name, error)
                if serving is not None:
                    self.reloaded(False)
        return None


def load(folder: Path) -> Served:
    """Loads a version and lets it read an image, each way there is, so that the first request is as quick as others.

    Raises:
        UserError: it does not work.
    """
    started = time.monotonic()
    try:
        reader = Reader(folder)
        for beam in (Beam(1), Beam(2)):
            (reading,) = reader.read_each([_probe()], beam)
            if isinstance(reading, UserError):
                raise UserError(f"it cannot read an image: {reading}")
            if not reading or not all(map(_is_probable, reading)):
                raise UserError("it answers an image with what is no probability")
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged model, or the file system below it, can raise nearly anything
        raise UserError(f"{folder} cannot be used ({type(error).__name__}: {error})".partition("\n")[0]) from None
    log.info("version %s was loaded in %.1f s", folder.name, time.monotonic() - started)
    return Served(folder, reader)


def read(served: Served, images: Sequence[np.ndarray], beam: Beam) -> list[list[Hypothesis]]:
    """Reads a batch of normalised images."""
    return [list(reading.alternatives) for reading in served.reader.read_normalised(images, beam)]


def _is_probable(hypothesis: Hypothesis) -> bool:
    # Rounding may take the sum of certain steps above 0 by a little.
    return math.isfinite(hypothesis.log_probability) and hypothesis.log_probability < 1e-3


def _probe() -> bytes:
    """A picture of two strokes."""
    ink = Image.new("L", (64, 16), "white")
    ink.paste("black", (8, 7, 24, 9))
    ink.paste("black", (40, 2, 42, 14))
    buffer = io.BytesIO()
    ink.save(buffer, "PNG")
    return buffer.getvalue()


def _files(model: Path) -> frozenset[tuple[object, ...]]:
    """How a version's files look: any change to one of them changes this, also where copying keeps their times."""
    places = [model, *(Path(folder, name) for folder, folders, names in os.walk(model) for name in folders + names)]
    return frozenset((str(place), *_state(place)) for place in places)


def _state(place: Path) -> tuple[int, ...]:
    try:
        state = place.stat()
    except OSError as error:  # taken away meanwhile, or a link that leads nowhere
        return (error.errno or 0,)
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
