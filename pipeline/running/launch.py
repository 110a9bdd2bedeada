"""The command `im2latex run`: starts the pipeline's process, shows its progress, and prints a summary."""

from __future__ import annotations

import difflib
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from components.example_validator.drift import DRIFT
from components.formula_metrics.scores import SCORES
from components.serving_folder import not_pushed
from data.dataset.record import SPLITS
from data.dataset.writer import remove_unfinished
from data.duration import duration
from data.progress import progress
from data.repository import python_path
from im2latex.errors import UserError
from pipeline.config import Config, tensorflow_environment, to_toml
from pipeline.config.sections import SYNTHETIC, TUNER, WITH_TUNER
from pipeline.running.beam import check_engine
from pipeline.running.examples import examples_folder, prepare_examples
from pipeline.running.needs import check_room
from pipeline.running.storage_errors import storage_error
from pipeline.workspace import Workspace
from trainer_module import reader
from trainer_module.config.training import TERMINAL

NOT_BLESSED = 3
# Time between SIGTERM and SIGKILL.
GRACE_SECONDS = 15
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\x08")


def run_pipeline(
    config: Config,
    first: str | None = None,
    last: str | None = None,
    cache: bool = True,
    workspace: Workspace | None = None,
    console: Console | None = None,
    summary: bool = True,
    allow_full_disk: bool = False,
) -> int:
    """Runs the pipeline, or from the component `first` to the component `last`.

    Args:
        config: the configuration.
        first, last: first and last component to run; None for those of the pipeline.
        cache: whether to reuse outputs that were made from the same inputs, settings and code.
        workspace: the workspace; None for that of the environment.
        console: console for the progress; None for stdout.
        summary: whether to print the summary.
        allow_full_disk: whether to start even if the disk may be too small.

    Returns:
        The exit status: 3 if the model was not blessed or is a withdrawn one, else 0.

    Raises:
        UserError: the run failed; the message names the component, the cause and the log.
    """
    first = named_component(first, "--from", config.components)
    last = named_component(last, "--to", config.components)
    _check_start(config, first, last)
    workspace = workspace or Workspace.from_environment()
    try:
        return _run(
            config,
            workspace,
            first=first,
            last=last,
            cache=cache,
            console=console or Console(highlight=False),
            summary=summary,
            allow_full_disk=allow_full_disk,
        )
    except OSError as error:
        if sentence := storage_error(error, workspace.home):
            raise UserError(sentence) from error
        raise


def _run(
    config: Config,
    workspace: Workspace,
    first: str | None,
    last: str | None,
    cache: bool,
    console: Console,
    summary: bool,
    allow_full_disk: bool,
) -> int:
    started = time.monotonic()
    workspace.logs.mkdir(parents=True, exist_ok=True)
    # The pipeline's process inherits the lock, so it is released only when both processes have ended.
    with workspace.lock() as lock:
        _remove_unfinished(workspace)
        if engine := check_engine(config.beam):
            _line(console, "Beam", "", engine)
        if config.data.source != SYNTHETIC:
            prepare_examples(config.data, workspace)
        needed, warning = check_room(config, workspace, first, last, allow_full_disk)
        _line(console, "Needs", "", needed)
        if warning:
            _line(console, "Warning", "", warning)
        _draw_examples(config, workspace, console)
        settings = _keep_settings(config, workspace)
        log = settings.with_suffix(".log")
        command = _command(settings, first, last, cache)
        result = _follow(command, tensorflow_environment(config), workspace, log, lock, console)
    if summary:
        _summary(result, log, time.monotonic() - started, console)
    return NOT_BLESSED if result["blessed"] is False or result["withdrawn"] else 0


def _check_start(config: Config, first: str | None, last: str | None) -> None:
    """Checks that the model to start from exists before the data is prepared, if a training is among the components.

    Raises:
        UserError: there is no such file or folder.
    """
    start, components = config.training.start_from, config.components
    until = components.index(last) if last else len(components)
    trains = (components.index(first) if first else 0) <= components.index("Trainer") and (
        until >= components.index(TUNER if TUNER in components else "Trainer")
    )
    if trains and start not in ("", reader.NAME) and not Path(start).exists():
        raise UserError(
            f"training.start_from: there is no file or folder {start}; give the folder of a version, such as "
            "workspace/serving/im2latex/VERSION, trained weights, or reader"
        )


def named_component(name: str | None, option: str, components: Sequence[str] = WITH_TUNER) -> str | None:
    """Returns the component with a name, ignoring case; None for None.

    Raises:
        UserError: there is no such component.
    """
    if name is None or name in components:
        return name
    if name.lower() == TUNER.lower() and TUNER not in components:
        raise UserError(f"{option}: there is no {TUNER} without tuning; set tuning.trials")
    by_lower = {component.lower(): component for component in components}
    near = [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=1)]
    if near and near[0].lower() == name.lower():
        return near[0]
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(components)}"
    raise UserError(f"{option}: there is no component {name!r}; {hint}")


def _draw_examples(config: Config, workspace: Workspace, console: Console) -> None:
    """Draws synthetic examples that do not exist yet, with a progress bar."""
    folder = examples_folder(config.data, workspace)
    if config.data.source != SYNTHETIC or folder.exists():
        return
    total = sum(getattr(config.data, split) for split in SPLITS)
    started = time.monotonic()
    with progress(console) as advance:
        prepare_examples(config.data, workspace, lambda drawn: advance("Synthetic data", drawn, total))
    _line(console, "Synthetic data", duration(time.monotonic() - started), f"{total:,} formulas in {folder}")


def _remove_unfinished(workspace: Workspace) -> None:
    """Removes leftovers of killed runs, except those recorded in ML Metadata, which the pipeline's process repairs."""
    shutil.rmtree(workspace.temporary, ignore_errors=True)
    workspace.temporary.mkdir(exist_ok=True)
    remove_unfinished(workspace.data)


def _keep_settings(config: Config, workspace: Workspace) -> Path:
    """Writes the configuration of a run to a new file, named by the time; the log gets the same name."""
    stem, number = workspace.logs / time.strftime("run-%Y%m%d-%H%M%S"), 1
    file = stem.with_suffix(".toml")
    # The name may exist: the clock may have been set back, or another run may have started in the same second.
    while file.exists():
        number += 1
        file = stem.with_name(f"{stem.name}-{number}.toml")
    file.write_text(to_toml(config), encoding="utf-8")
    return file


def _command(settings: Path, first: str | None, last: str | None, cache: bool) -> list[str]:
    command = [sys.executable, "-u", "-m", "pipeline.running.process", str(settings)]
    command += ["--from", first] if first else []
    command += ["--to", last] if last else []
    return command if cache else [*command, "--no-cache"]


def _follow(
    command: list[str], variables: dict[str, str], workspace: Workspace, log: Path, lock: int, console: Console
) -> dict[str, Any]:
    """Runs the pipeline's process to its end, shows its events, and returns its result."""
    read_events, write_events = os.pipe()
    with log.open("wb") as log_file, open(read_events, "rb", buffering=0) as events:
        child = subprocess.Popen(
            [*command, "--events", str(write_events)],
            stdout=subprocess.PIPE,
            stderr=log_file,
            stdin=subprocess.DEVNULL,
            pass_fds=(write_events, lock),
            env={
                **variables,
                **os.environ,
                "IM2LATEX_HOME": str(workspace.home),
                "TMPDIR": str(workspace.temporary),
                "PYTHONPATH": python_path(),
                TERMINAL: "1" if console.is_terminal else "",
            },
        )
        os.close(write_events)
        assert child.stdout is not None
        view = _View(console, log_file)
        try:
            _watch({events: view.event, child.stdout: view.output}, view.tick)
            status = child.wait()
        except BaseException:
            _stop(child)
            view.clear()
            raise
    view.clear()
    if view.error:
        raise UserError(f"{view.error} (the full log is {log})")
    # The result is the last event. If the process crashes after it (gRPC sometimes aborts at Python's exit while its
    # threads run), the run has still succeeded; the crash is in the log.
    if view.result is None:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        component = f"{view.running}: " if view.running else ""
        raise UserError(
            f"{component}the pipeline's process {how} (the full log is {log}); the same command continues from here",
        )
    return view.result


def _watch(readers: dict[Any, Any], tick: Any) -> None:
    """Reads from several files, and passes each chunk to the file's function, until all files are at their end."""
    with selectors.DefaultSelector() as selector:
        for file, handle in readers.items():
            selector.register(file, selectors.EVENT_READ, handle)
        while selector.get_map():
            for key, _ in selector.select(timeout=1):
                chunk = os.read(key.fd, 1 << 16)
                if chunk:
                    key.data(chunk)
                else:
                    selector.unregister(key.fileobj)
            tick()


def _stop(child: subprocess.Popen) -> None:
    """Stops the pipeline's process, which gets the terminal's Ctrl-C too."""
    child.terminate()
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


class _View:
    """Shows a run on the terminal: a line for each component, and the output of the training."""

    def __init__(self, console: Console, log: IO[bytes]) -> None:
        self.running = ""
        self.error = ""
        self.result: dict[str, Any] | None = None
        self._console = console
        self._log = log
        self._since = 0.0
        self._events = b""
        self._line = b""
        self._shows_status = False

    def event(self, chunk: bytes) -> None:
        """Handles a chunk of JSON lines, see `pipeline.running.process`."""
        *lines, self._events = (self._events + chunk).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if "repaired" in event:
                executions = "1 execution" if event["repaired"] == 1 else f"{event['repaired']:,} executions"
                _line(self._console, "Repaired", "", f"{executions} left running by killed runs")
            elif "result" in event:
                self.result = event["result"]
            elif "error" in event:
                self.error = ": ".join(filter(None, (event["component"], event["error"])))
            elif event["state"] == "running":
                self.running, self._since = event["component"], time.monotonic()
                self.tick()
            else:
                self.clear()
                time_taken = "cached" if event["cached"] else duration(event["seconds"])
                _line(self._console, event["component"], time_taken, event["detail"])
                self.running = ""

    def output(self, chunk: bytes) -> None:
        """Handles a chunk of the process's stdout: writes it to the log and, during trainings, to the terminal."""
        training = self.running in (TUNER, "Trainer")
        if training and self._console.is_terminal:
            self.clear()
            self._console.file.write(chunk.decode(errors="replace"))
            self._console.file.flush()
        *lines, self._line = (self._line + chunk).split(b"\n")
        for line in lines:
            # Keras overwrites its line with carriage returns; only the last state goes into the log.
            text = _TERMINAL_CODES.sub("", line.decode(errors="replace")).rsplit("\r", 1)[-1]
            self._log.write(f"{text}\n".encode())
            if training and not self._console.is_terminal:
                self._console.print(text, markup=False, soft_wrap=True)
        self._log.flush()

    def tick(self) -> None:
        """Shows the running component and its duration; not during Trainer, which has its own progress."""
        if self._console.is_terminal and self.running and self.running != "Trainer":
            self._console.file.write(f"\r\x1b[2K{self.running:<18} {duration(time.monotonic() - self._since)} …")
            self._console.file.flush()
            self._shows_status = True

    def clear(self) -> None:
        """Removes the status line."""
        if self._shows_status:
            self._console.file.write("\r\x1b[2K")
            self._shows_status = False


def _line(console: Console, component: str, time_taken: str, text: str) -> None:
    console.print(f"{component:<18} {time_taken:>9}  {text}".rstrip(), markup=False, soft_wrap=True)


def _summary(result: dict[str, Any], log: Path, seconds: float, console: Console) -> None:
    """Prints the table at the end of a run. A terminal folds long rows; a file or a pipe gets each as one line."""
    rows: list[tuple[str, str]] = []
    if result["examples"]:
        rows.append(("examples", ", ".join(f"{count:,} {split}" for split, count in result["examples"].items())))
    if result["drift"].startswith(DRIFT):
        rows.append(("drift", result["drift"].removeprefix("drift ")))
    if result["vocabulary"] is not None:
        rows.append(("vocabulary", f"{result['vocabulary']:,} tokens"))
    if result["tuned"]:
        rows.append(("tuning", result["tuned"]))
    for name, value in (result["metrics"] or {}).items():
        score = SCORES[name]
        serving = result["baseline_metrics"].get(name)
        beside = f" (serving now, version {result['baseline']}: {score.shown(serving)})" if serving is not None else ""
        rows.append((score.title, f"{score.shown(value)}{beside}"))
    if result["pictures"]:
        rows.append(("kinds of pictures", result["pictures"]))
    if result["blessed"] is not None:
        rows.append(("blessed", "yes" if result["blessed"] else f"no: {'; '.join(result['reasons'])}"))
    if result["blessed"] is not False:
        withheld = not_pushed(result["withdrawn"]) if result["withdrawn"] else "not reached"
        rows.append(("pushed to", result["pushed"] or withheld))
    if result["report"]:
        rows.append(("report", result["report"]))
    rows.append(("time", duration(seconds)))
    rows.append(("log", str(log)))
    console.print()
    if console.is_terminal:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column()
        table.add_column(overflow="fold")  # do not cut long paths
        for row in rows:
            table.add_row(*row)
        console.print(table, markup=False)
        return
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(f"{name:<{width}}  {value}", markup=False, soft_wrap=True)
