"""`im2latex watch`: runs the pipeline when data, configuration or code have changed, and reports failures."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from data.files import write_atomically
from data.repository import REPOSITORY
from im2latex.errors import UserError
from pipeline.config import Config, flatten
from pipeline.running.examples import examples_folder
from pipeline.running.launch import run_pipeline
from pipeline.running.notify import FAILED, REJECTED, check_environment, notify
from pipeline.running.record import fingerprint_of, start_of
from pipeline.sources import all_files, fingerprint
from pipeline.workspace import Workspace

# The inputs of a run, as messages name them.
PARTS = ("configuration", "code", "data", "model to start from")


class Watch:
    """Runs the pipeline when its inputs differ from those of the last finished run, of this process or an earlier one.

    Args:
        load: loads the configuration again.
        say: prints a message.
        settled: run at the first check that finds a change; otherwise only if the next check finds the same.
        run: runs the pipeline, like `run_pipeline`.
    """

    def __init__(
        self,
        load: Callable[[], Config],
        say: Callable[[str], None],
        settled: bool = False,
        run: Callable[..., int] = run_pipeline,
    ) -> None:
        check_environment()
        self._load, self._say, self._settled, self._run = load, say, settled, run
        self._workspace = Workspace.from_environment()
        # Of the files seen last: their names, sizes and times, and the fingerprint of their bytes.
        self._data: tuple[list[tuple[str, int, int]], str] | None = None
        self._complaint = ""
        self._seen: dict[str, str] = {}

    def check(self) -> int | None:
        """Runs the pipeline if its inputs have changed and are complete.

        Returns:
            The exit status of the run, 1 if it failed; None if there was nothing to do.
        """
        try:
            config = self._load()
            state = self._state(config)
        except UserError as error:  # a file that is being edited, say
            if str(error) != self._complaint:
                self._say(str(error))
            self._complaint = str(error)
            return None
        self._complaint = ""
        file = self._workspace.home / "watch" / f"{config.name}.json"
        before = json.loads(file.read_text("utf-8")) if file.exists() else {}
        changed = [part for part in PARTS if state[part] != before.get(part)]
        is_complete, self._seen = self._settled or state == self._seen, state
        if not changed or not is_complete:
            return None
        self._say(f"{' and '.join(changed)} changed: running" if before else "first run")
        try:
            status = self._run(config)
        except UserError as error:
            self._notify(config, FAILED, str(error))
            status = error.exit_status
        else:
            if status:
                why = "the model was not good enough or was withdrawn; `im2latex report` says more"
                self._notify(config, REJECTED, why)
        # An interrupted run leaves the file as it is and so runs again; a failed one runs again after a change.
        write_atomically(file, json.dumps(state, indent=1) + "\n")
        return status

    def _notify(self, config: Config, outcome: str, sentence: str) -> None:
        self._say(f"{outcome}: {sentence}")
        for problem in notify(config.name, outcome, sentence):
            self._say(problem)

    def _state(self, config: Config) -> dict[str, str]:
        """Returns the fingerprint of each of `PARTS`."""
        knobs = json.dumps({knob: value for knob, value, _ in flatten(config)}, sort_keys=True)
        return {
            "configuration": hashlib.sha256(knobs.encode()).hexdigest(),
            "code": fingerprint(REPOSITORY, all_files()),
            "data": self._fingerprint(examples_folder(config.data, self._workspace)),
            "model to start from": str(start_of(config.training.start_from).get("start_fingerprint", "")),
        }

    def _fingerprint(self, folder: Path) -> str:
        """Returns the fingerprint of the records. Reads them again only if a name, size or time has changed.

        Synthetic records may not exist yet; the name of their folder identifies them.

        Raises:
            UserError: the files change during reading.
        """
        if folder.is_relative_to(self._workspace.data):
            return folder.name
        seen = _names(folder)
        if self._data is None or self._data[0] != seen:
            content = fingerprint_of(folder)
            if _names(folder) != seen:
                raise UserError(f"{folder} is changing; it is checked again")
            self._data = seen, content
        return self._data[1]


def _names(folder: Path) -> list[tuple[str, int, int]]:
    try:
        stats = [(path, path.stat()) for path in sorted(folder.glob("*/*"))]
    except FileNotFoundError:
        raise UserError(f"{folder} is changing; it is checked again") from None
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def watch(
    load: Callable[[], Config], every: float, say: Callable[[str], None], run: Callable[..., int] = run_pipeline
) -> None:
    """Checks for changes at an interval, in seconds, until Ctrl-C; the other arguments are those of `Watch`."""
    watching = Watch(load, say, run=run)
    say(f"checking configuration, code and data every {every:g} s; Ctrl-C stops")
    while True:
        watching.check()
        time.sleep(every)
