"""The one folder that everything a run writes lies under: ./workspace, or where IM2LATEX_HOME says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError


@dataclass(frozen=True)
class Workspace:
    """Where things are; nothing is made by asking."""

    home: Path

    @classmethod
    def from_environment(cls) -> Workspace:
        """IM2LATEX_HOME, or ./workspace; always absolute, because TFX records addresses."""
        return cls(Path(os.environ.get("IM2LATEX_HOME") or "workspace").expanduser().absolute())

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
        pushed = [path for path in self.serving.glob("*/*") if path.name.isdecimal()]
        if not pushed:
            raise UserError(
                f"no model was pushed to {self.serving} yet; `im2latex run` pushes one, --model names another"
            )
        return max(pushed, key=lambda path: int(path.name))

    @property
    def temporary(self) -> Path:
        """What TFX and Beam write for the time of a run."""
        return self.home / "tmp"

    @property
    def logs(self) -> Path:
        """The full log of each run, beside its configuration."""
        return self.home / "logs"
