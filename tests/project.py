"""A small workspace: a reduced quickstart, run once through every component."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SETTINGS = """
preset = "quickstart"

[data]
train = 48
eval = 8
test = 16
level = "simple"

[model]
filters = [4, 8, 8, 8, 8, 8]
decoder_units = 16
embedding_units = 8

[training]
epochs = 1
batch_size = 8
max_tokens = 40

# A model of this size reads nothing; what is tested is the way it goes.
[evaluation]
gate = ["bleu >= 0", "bleu >= baseline - 1"]
"""


@dataclass(frozen=True)
class Project:
    """A workspace and its configuration."""

    home: Path
    config: Path

    @classmethod
    def of(cls, folder: Path, settings: str = SETTINGS) -> Project:
        """Makes a workspace in a folder, with the text of its configuration. Runs nothing."""
        project = cls(folder / "workspace", folder / "run.toml")
        project.config.write_text(settings, encoding="utf-8")
        return project

    def environment(self) -> dict[str, str]:
        return {**os.environ, "IM2LATEX_HOME": str(self.home), "IM2LATEX_CONFIG": str(self.config), "COLUMNS": "200"}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pipeline.cli", "run", "--config", str(self.config), *arguments]

    def run(self, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
        """Runs `im2latex run` with these arguments; with shell commands, in its own namespace after these."""
        command = self.command(*arguments)
        if before:
            command = ["unshare", "--mount", "sh", "-ec", f'{before}; exec "$@"', "sh", *command]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, env=self.environment())

    def executions(self) -> list[tuple[str, str]]:
        """Returns (component, state) of every execution in ML Metadata, in the order of their start."""
        from ml_metadata import MetadataStore
        from ml_metadata.proto import metadata_store_pb2
        from tfx.orchestration.metadata import sqlite_metadata_connection_config

        store = MetadataStore(sqlite_metadata_connection_config(str(self.home / "metadata.sqlite")))
        node = store.get_context_type("node").id
        executions = []
        for execution in sorted(store.get_executions(), key=lambda execution: execution.id):
            (name,) = (c.name for c in store.get_contexts_by_execution(execution.id) if c.type_id == node)
            state = metadata_store_pb2.Execution.State.Name(execution.last_known_state)
            executions.append((name.rpartition(".")[2], state))
        return executions

    def versions(self) -> list[str]:
        """Names in the serving folder."""
        return sorted(path.name for path in (self.home / "serving" / "im2latex").glob("*"))


def read_only(folder: Path) -> str:
    """Returns the shell commands that make a folder read-only, for `Project.run`."""
    return f"mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}"


def after_first_run(folder: Path, settings: str = SETTINGS) -> Project:
    """A workspace after its first run, whose output is in `first_run.txt` beside it."""
    project = Project.of(folder, settings)
    first = project.run()
    assert first.returncode == 0, first.stdout + first.stderr
    (folder / "first_run.txt").write_text(first.stdout, encoding="utf-8")
    return project
