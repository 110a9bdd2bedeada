"""The model that serves: the newest version that works, replaced while it serves."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from components.evaluator.reading import ImageReader
from im2latex.errors import UserError
from im2latex.reading import Beam, Hypothesis

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A version that is loaded."""

    folder: Path
    reader: ImageReader

    @property
    def version(self) -> int:
        """As TensorFlow Serving counts them; 1 where the folder's name is not a number."""
        return int(self.folder.name) if self.folder.name.isdecimal() else 1


@dataclass(frozen=True)
class Read:
    """What a version read in an image."""

    version: int
    hypotheses: list[Hypothesis]


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
        # Versions that do not work, each with the time of its last change: one that was repaired is tried again.
        self._broken: dict[Path, float] = {}
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

    def read(self, images: Sequence[bytes], beam: Beam | None) -> list[Read | Exception]:
        """Reads a batch by the version that serves when it begins."""
        served = self.served
        return [
            answer if isinstance(answer, Exception) else Read(served.version, answer)
            for answer in served.reader.read_each(images, beam)
        ]

    def _newest(self, serving: Served | None) -> Served | None:
        """The newest that works; the one that serves is known to."""
        folders = self._folders()
        # One that was moved away while it was being loaded is not broken, and may come back.
        self._broken = {folder: changed for folder, changed in self._broken.items() if folder in folders}
        for folder in reversed(folders):
            if serving is not None and folder == serving.folder:
                return serving
            changed = _last_change(folder)
            if self._broken.get(folder) == changed:
                continue
            try:
                return load(folder)
            except UserError as error:
                self._broken[folder] = changed
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
    reader = ImageReader(folder)
    ink = Image.new("L", (64, 16), "white")
    ink.paste("black", (8, 7, 24, 9))
    buffer = io.BytesIO()
    ink.save(buffer, "PNG")
    try:
        for beam in (None, Beam(2)) if reader.has_alternatives else (None,):
            reader.read([buffer.getvalue()], beam)
    except Exception as error:  # noqa: BLE001  a damaged model can raise nearly anything
        raise UserError(f"{folder} loads and cannot read an image ({type(error).__name__})") from error
    log.info("version %s was loaded in %.1f s", folder.name, time.monotonic() - started)
    return Served(folder, reader)


def _last_change(folder: Path) -> float:
    """When the newest of a version's files was written, seconds; 0 where there are none."""
    try:
        return max((path.stat().st_mtime for path in folder.rglob("*")), default=0.0)
    except FileNotFoundError:  # taken away meanwhile
        return 0.0
