"""The one folder that everything a run writes lies under: ./workspace, or where IM2LATEX_HOME says."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from im2latex.errors import UserError
from im2latex.models import pushed, workspace


@dataclass(frozen=True)
class Workspace:
    """Where things are; nothing is made by asking."""

    home: Path

    @classmethod
    def from_environment(cls) -> Workspace:
        """IM2LATEX_HOME, or ./workspace; always absolute, because TFX records addresses."""
        return cls(workspace())

    @property
    def data(self) -> Path:
        """Synthetic data sets, a folder each."""
        return self.home / "data"

    @property
    def pipeline_root(self) -> Path:
        """Artifacts, a folder for each component."""
        return self.home / "pipeline_root"

    @property
    def metadata(self) -> Path:
        """ML Metadata's SQLite file."""
        return self.home / "metadata.sqlite"

    @property
    def connection(self) -> str:
        """Address of the database in which the last run left its metadata; "" is the SQLite file."""
        return self._connection.read_text("utf-8").strip() if self._connection.exists() else ""

    def keep_connection(self, address: str) -> None:
        """Keeps where a run leaves its metadata, so that who reads it need not be told."""
        if address != self.connection:
            self._connection.write_text(f"{address}\n", "utf-8")

    @property
    def _connection(self) -> Path:
        return self.home / "metadata.connection"

    @property
    def checkpoints(self) -> Path:
        """States of unfinished trainings."""
        return self.home / "checkpoints"

    @property
    def serving(self) -> Path:
        """Pushed models: NAME/VERSION/, as TensorFlow Serving reads them."""
        return self.home / "serving"

    def newest_model(self) -> Path:
        """The model pushed last, of all names.

        Raises:
            UserError: there is none.
        """
        pushed = self.versions()
        if not pushed:
            raise UserError(
                f"no model was pushed to {self.serving} yet; `im2latex run` pushes one, --model names another"
            )
        return pushed[-1]

    def versions(self) -> list[Path]:
        """Folders of all pushed models, of all names, the oldest first."""
        return pushed(self.serving)

    @property
    def buckets(self) -> Path:
        """Copies of what lies in buckets."""
        return self.home / "buckets"

    @property
    def temporary(self) -> Path:
        """What TFX and Beam write for the time of a run."""
        return self.home / "tmp"

    @property
    def logs(self) -> Path:
        """The full log of each run, beside its configuration."""
        return self.home / "logs"

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """Keeps other runs out; a process that inherits the descriptor keeps them out as long as it lives.

        Raises:
            UserError: another run is going on.
        """
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another run is using {self.home}; wait for it, or set IM2LATEX_HOME") from None
            yield descriptor
        finally:
            os.close(descriptor)

    def is_locked(self) -> bool:
        """Whether a run is going on."""
        if not self._lock.exists():
            return False
        with self._lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @property
    def _lock(self) -> Path:
        return self.home / "lock"
