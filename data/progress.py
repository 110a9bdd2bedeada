"""Progress of long work: a bar on a terminal, a line from time to time in other output."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from data.duration import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

# Default interval between two lines.
SECONDS = 30.0


class Advance(Protocol):
    """Reports progress: the name of the work, the items done since the last call, and the total number if known."""

    def __call__(self, what: str, done: int, total: int | None = None, /) -> None: ...


@contextlib.contextmanager
def progress(console: Console | None = None, seconds: float = SECONDS) -> Iterator[Advance]:
    """Shows the progress of one or more kinds of work while the context is open.

    Args:
        console: the output; None means standard error. A terminal shows one bar per kind of work, which disappears
            at the end; any other output gets a line every `seconds`.
        seconds: interval between two lines.
    """
    from rich.console import Console

    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield Lines(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True), seconds).advance
        return
    with _bars(console) as advance:
        yield advance


class Lines:
    """Writes a line every `seconds` with the number of items done, the speed, and the estimated time left.

    Args:
        write: called with each line.
        seconds: interval between two lines, and before the first line.
        clock: returns the current time in seconds.
    """

    def __init__(
        self, write: Callable[[str], None], seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._seconds, self._clock = write, seconds, clock
        self._what = ""
        self._done = self._counted = 0  # items done by now, and by the last line
        self._since = self._printed = self._latest = clock()

    def advance(self, what: str, done: int, total: int | None = None, /) -> None:
        """Reports progress; see `Advance`."""
        if what != self._what:
            self._what, self._done, self._counted, self._since = what, 0, 0, self._latest
        self._done, self._latest = self._done + done, self._clock()
        if self._latest - self._printed >= self._seconds:
            self._write(self._line(total))
            self._counted, self._since, self._printed = self._done, self._latest, self._latest

    def _line(self, total: int | None) -> str:
        # The speed counts from the last line, because work done by an interrupted earlier command is reported at once.
        rate = (self._done - self._counted) / max(self._latest - self._since, 1e-9)
        speed = f"{rate:,.{0 if rate >= 10 else 1}f}"
        if total is None:
            return f"{self._what}: {self._done:,}, {speed}/s"
        left = f", {duration((total - self._done) / rate, 0)} left" if rate else ""
        return f"{self._what}: {self._done:,} of {total:,} ({self._done / total:.0%}), {speed}/s{left}"


@contextlib.contextmanager
def _bars(console: Console) -> Iterator[Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, done: int, total: int | None = None, /) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, speed="")
            speed = bars.tasks[tasks[what]].speed
            bars.update(tasks[what], advance=done, speed=f"{speed:,.0f}/s" if speed else "")

        yield advance
