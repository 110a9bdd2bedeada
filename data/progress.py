"""How far long work is: a bar where a person looks on, a line now and then where the output goes to a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from data.duration import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

# Between two lines.
SECONDS = 30.0


class Advance(Protocol):
    """Takes what is being done, how many of it were done since the last call, and how many there are, if known."""

    def __call__(self, what: str, done: int, total: int | None = None, /) -> None: ...


@contextlib.contextmanager
def progress(console: Console | None = None, seconds: float = SECONDS) -> Iterator[Advance]:
    """Shows how far work is, of one kind or several in turn, while the context is open.

    Args:
        console: where; None takes standard error. On a terminal there is a bar for each kind of work, which disappears
            at the end; elsewhere a line is printed every so often.
        seconds: between two lines.
    """
    from rich.console import Console

    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield Lines(lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True), seconds).advance
        return
    with _bars(console) as advance:
        yield advance


class Lines:
    """A line each `seconds`: how many are done, how fast that goes, and how long the rest will take at that speed.

    Args:
        write: takes each line.
        seconds: between two lines, and before the first.
        clock: the time, seconds.
    """

    def __init__(
        self, write: Callable[[str], None], seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._seconds, self._clock = write, seconds, clock
        self._what = ""
        self._done = self._counted = 0  # until now, and until the last line
        self._since = self._told = self._latest = clock()

    def advance(self, what: str, done: int, total: int | None = None, /) -> None:
        """Takes what `Advance` takes."""
        if what != self._what:
            self._what, self._done, self._counted, self._since = what, 0, 0, self._latest
        self._done, self._latest = self._done + done, self._clock()
        if self._latest - self._told >= self._seconds:
            self._write(self._line(total))
            self._counted, self._since, self._told = self._done, self._latest, self._latest

    def _line(self, total: int | None) -> str:
        # Since the last line: what an earlier command had done comes all at once.
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
