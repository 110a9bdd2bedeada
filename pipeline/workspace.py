"""The workspace: the folder for everything that a run writes, ./workspace or the value of IM2LATEX_HOME."""

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
    """The paths in a workspace; the properties do not create folders."""

    home: Path
    chosen: str | None = None  # address of the database to use instead of the last run's

    @classmethod
    def from_environment(cls, connection: str | None = None) -> Workspace:
        """Returns the workspace at IM2LATEX_HOME, or at ./workspace; the path is absolute, because TFX records it.

        Args:
            connection: address of the database to use; "" for the SQLite file, None for the last run's.
        """
        return cls(workspace(), connection)

    @property
    def data(self) -> Path:
        """Synthetic data sets, one folder each."""
        return self.home / "data"

    @property
    def pipeline_root(self) -> Path:
        """Artifacts, one folder per component."""
        return self.home / "pipeline_root"

    @property
    def metadata(self) -> Path:
        """ML Metadata's SQLite file."""
        return self.home / "metadata.sqlite"

    @property
    def connection(self) -> str:
        """Address of the chosen or else the last run's database for ML Metadata; "" for the SQLite file."""
        if self.chosen is not None:
            return self.chosen
        return self._connection.read_text("utf-8").strip() if self._connection.exists() else ""

    def keep_connection(self, address: str) -> None:
        """Stores the address of a run's database, as the default for commands that read it."""
        if address != self.connection:
            self._connection.write_text(f"{address}\n", "utf-8")

    @property
    def _connection(self) -> Path:
        return self.home / "metadata.connection"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of unfinished trainings."""
        return self.home / "checkpoints"

    @property
    def serving(self) -> Path:
        """Pushed models: NAME/VERSION/, the layout of TensorFlow Serving."""
        return self.home / "serving"

    def newest_model(self) -> Path:
        """Returns the folder of the model pushed last, under any name.

        Raises:
            UserError: no model was pushed.
        """
        pushed = self.versions()
        if not pushed:
            raise UserError(f"no model was pushed to {self.serving} yet; `im2latex run` trains and pushes one")
        return pushed[-1]

    def versions(self) -> list[Path]:
        """Returns the folders of all pushed models, under any name, oldest first."""
        return pushed(self.serving)

    @property
    def buckets(self) -> Path:
        """Copies of files in buckets."""
        return self.home / "buckets"

    @property
    def temporary(self) -> Path:
        """Temporary files of TFX and Beam during a run."""
        return self.home / "tmp"

    @property
    def logs(self) -> Path:
        """The full log and the configuration of each run."""
        return self.home / "logs"

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """Locks the workspace for a run, and yields the lock's file descriptor.

        A child process that inherits the descriptor holds the lock too, until it ends.

        Raises:
            UserError: another run holds the lock.
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
        """Returns whether a run is in progress."""
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
