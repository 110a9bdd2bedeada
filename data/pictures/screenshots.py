"""Draws formulas as web pages show them, with KaTeX in a headless Chromium.

A page shows many formulas, and one screenshot of it is cut into pieces. Chromium is controlled by the DevTools protocol
through a pipe, so it needs no port and no driver program, and it ends with the process that started it. The page is a
local file that loads nothing from the network.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import functools
import io
import json
import multiprocessing.util
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import im2latex
from data.latex.program import RenderingError
from im2latex.errors import UserError

KATEX = Path(str(im2latex.__file__)).with_name("serving") / "katex"
_PAGE = Path(__file__).with_name("screenshots.html")
# Maximum width and height of a screenshot, in device pixels; Chromium's own limit is 16384.
_MAX_SIDE = 16000
_SECONDS = 300.0
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync"),
    *("--no-first-run", "--mute-audio", "--disable-lcd-text", "--allow-file-access-from-files"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--force-color-profile=srgb", "--font-render-hinting=none"),
)


class PageFormula(NamedTuple):
    """A formula on a page.

    Attributes:
      latex: the formula.
      size: font size in CSS pixels.
      display: display style; otherwise inline.
      text: CSS colour of the formula.
      background: CSS colour of the page.
    """

    latex: str
    size: float
    display: bool
    text: str = "#000000"
    background: str = "#ffffff"


def find_chromium() -> str:
    """Returns the path of Chromium.

    Raises:
      UserError: it is not installed.
    """
    for program in _PROGRAMS:
        if path := shutil.which(program):
            return path
    raise UserError("Chromium, which draws formulas with KaTeX, cannot be found; install it, or use --katex-share 0")


def draw_screenshots(formulas: Sequence[PageFormula], scale: float) -> list[np.ndarray | RenderingError]:
    """Draws formulas with KaTeX, each cropped to its ink.

    Args:
      formulas: the formulas.
      scale: device pixels per CSS pixel.

    Returns:
      For each formula its image, uint8 (H, W, 3), or the error.

    Raises:
      UserError: Chromium is not installed or does not work.
    """
    if not formulas:
        return []
    for _ in range(2):
        try:
            return _chromium().draw(formulas, scale)
        except (TimeoutError, ConnectionError) as error:
            broken = RenderingError(f"Chromium: {error}")
            close_chromium()
    # One of the formulas makes Chromium crash or hang: halve the batch until it is alone.
    if len(formulas) == 1:
        return [broken]
    middle = len(formulas) // 2
    return draw_screenshots(formulas[:middle], scale) + draw_screenshots(formulas[middle:], scale)


@functools.cache
def _chromium() -> _Chromium:
    """Returns the Chromium of this process, started on the first call."""
    # atexit does not run in the processes of a pool.
    multiprocessing.util.Finalize(None, close_chromium, exitpriority=1)
    return _Chromium()


def close_chromium() -> None:
    """Ends the Chromium of this process, if it is running; the next screenshot starts a new one."""
    if _chromium.cache_info().currsize:
        _chromium().close()
        _chromium.cache_clear()


class _Chromium:
    """A headless Chromium with the page of formulas; it speaks the DevTools protocol on file descriptors 3 and 4."""

    def __init__(self) -> None:
        program = find_chromium()
        self.profile = tempfile.TemporaryDirectory(prefix="im2latex-chromium-", ignore_cleanup_errors=True)
        as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
        command = [program, *_OPTIONS, *as_root, f"--user-data-dir={self.profile.name}", "about:blank"]
        self.process, self.to_chromium, self.from_chromium = _spawn(command)
        self.buffer = b""
        self.number = 0
        self.session: str | None = None
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self.call("Page.enable")
            self.open_page()
        except (TimeoutError, ConnectionError) as error:
            self.close()
            raise UserError(f"{program} does not start ({error}); check that it runs with --headless") from error

    def open_page(self) -> None:
        frame = self.call("Page.getFrameTree")["frameTree"]["frame"]["id"]
        base = f'<base href="{KATEX.as_uri()}/"><link rel="stylesheet" href="katex.min.css">'
        self.call("Page.navigate", url=KATEX.joinpath("LICENSE").as_uri())
        html = _PAGE.read_text("utf-8").replace('<meta charset="utf-8">', f'<meta charset="utf-8">{base}')
        self.call("Page.setDocumentContent", frameId=frame, html=html)
        self.run(KATEX.joinpath("katex.min.js").read_text("utf-8"))
        self.run(_STYLED)

    def draw(self, formulas: Sequence[PageFormula], scale: float) -> list[np.ndarray | RenderingError]:
        argument = json.dumps([formula._asdict() for formula in formulas])
        metrics: dict[str, Any] = {"deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", width=1600, height=1000, **metrics)
        layout = self.run(f"drawAll({argument})")
        if max(layout["width"], layout["height"]) * scale > _MAX_SIDE:
            if len(formulas) == 1:
                return [RenderingError("KaTeX: a picture of too many pixels")]
            middle = len(formulas) // 2
            return self.draw(formulas[:middle], scale) + self.draw(formulas[middle:], scale)
        # Enlarge the viewport to the whole page; Chromium would lay out a larger page again for the screenshot.
        self.call("Emulation.setDeviceMetricsOverride", width=layout["width"], height=layout["height"], **metrics)
        shot = self.call("Page.captureScreenshot", format="png", optimizeForSpeed=True)
        with Image.open(io.BytesIO(base64.b64decode(shot["data"]))) as image:
            picture = np.asarray(image.convert("RGB"))
        return [
            RenderingError(f"KaTeX: {box}") if isinstance(box, str) else _cut(picture, box, scale)
            for box in layout["boxes"]
        ]

    def run(self, script: str) -> Any:
        """Runs a script and returns its awaited value."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise ConnectionError(result["exceptionDetails"].get("text", "a script failed"))
        return result["result"].get("value")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command of the DevTools protocol and returns the answer.

        Raises:
          TimeoutError: Chromium does not answer in time.
          ConnectionError: Chromium has ended, or refuses the command.
        """
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        self.send(json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _SECONDS
        while True:
            answer = json.loads(self.receive(end))
            if answer.get("method") == "Inspector.targetCrashed":
                raise ConnectionError("the page crashed")
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise ConnectionError(answer["error"].get("message", "refused"))
                return answer["result"]

    def send(self, content: bytes) -> None:
        while content:
            content = content[os.write(self.to_chromium, content) :]

    def receive(self, end: float) -> bytes:
        """Returns the next message, without its terminating zero byte."""
        parts = [self.buffer]
        while b"\0" not in parts[-1]:
            if not select.select([self.from_chromium], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"no answer in {_SECONDS:g} s")
            part = os.read(self.from_chromium, 1 << 20)
            if not part:
                raise ConnectionError("it ended")
            parts.append(part)
        last, _, self.buffer = parts.pop().partition(b"\0")
        return b"".join([*parts, last])

    def close(self) -> None:
        for descriptor in (self.to_chromium, self.from_chromium):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        self.profile.cleanup()


def _spawn(command: list[str]) -> tuple[int, int, int]:
    """Starts a program that reads from descriptor 3 and writes to descriptor 4.

    Returns:
      Process id, and the descriptors for writing to and reading from the program.
    """
    # Move the descriptors to 10 and above, so that the duplication to 3 and 4 does not overwrite one of them.
    pipes = [*os.pipe(), *os.pipe()]
    commands, to_program, from_program, answers = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pipes)
    for end in pipes:
        os.close(end)
    actions = [
        *((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)),
        (os.POSIX_SPAWN_DUP2, commands, 3),
        (os.POSIX_SPAWN_DUP2, answers, 4),
    ]
    process = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    os.close(commands)
    os.close(answers)
    return process, to_program, from_program


# Waits until the style sheet and all of its fonts are loaded.
_STYLED = """
new Promise((done) => {
  const wait = () => document.styleSheets.length > 1
    ? Promise.all([...document.fonts].map((font) => font.load())).then(() => done(true)) : setTimeout(wait, 20);
  wait();
})
"""


def _cut(picture: np.ndarray, box: Sequence[float], scale: float) -> np.ndarray | RenderingError:
    """Cuts a formula out of a screenshot and crops it to the pixels that differ from its background."""
    left, top, width, height = (side * scale for side in box)
    cell = picture[int(top) : int(top + height), int(left) : int(left + width)]
    ink = (cell != cell[0, 0]).any(axis=2)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if rows.size == 0:
        return RenderingError("a formula without ink")
    return cell[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
