"""The folder of the model that comes with im2latex, on a server for files, and its page in a browser."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.support.wait import WebDriverWait

from im2latex.errors import UserError
from pipeline.web.folder import save_web
from tests.browser import Browser
from trainer_module import reader

SAMPLES = Path(os.environ.get("IM2LATEX_SAMPLES", Path(__file__).parents[4] / "shared"))
PICTURES = SAMPLES / "im2latex-100k" / "formula_images_processed.tar.gz"
FORMULAS = SAMPLES / "im2latex-100k" / "im2latex_formulas.norm.lst"


def real_pictures(count: int) -> list[bytes]:
    """The first pictures of the archive; none if it is missing."""
    if not PICTURES.exists():
        return []
    with tarfile.open(PICTURES) as archive:
        files = (archive.extractfile(member) for member in archive if member.isfile())
        return [file.read() for file, _ in zip(files, range(count), strict=False) if file]


@contextlib.contextmanager
def hosted(folder: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server for the files of a folder, on a free port, with only the headers of a plain static host."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web") / "formulas"
    try:
        save_web(folder, reader.load())
    except UserError as error:
        if not str(error).startswith("cannot fetch"):
            raise
        pytest.skip(f"needs packages of npm: {error}")
    return folder


class Scripts:
    """A browser that has opened an address of the folder, from which it can load scripts."""

    def __init__(self, browser: Browser) -> None:
        self.driver, self.run = browser.driver, browser.run
        self.driver.set_script_timeout(300)

    def call(self, script: str, *arguments: Any) -> Any:
        """Returns the result of the body of an async function; `bytes` decodes base64."""
        body = f"""
            const done = arguments[arguments.length - 1];
            const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const load = (name) => import(new URL(name, document.baseURI));
            (async (...given) => {{ {script} }})(...arguments).then(done, (error) => done({{ thrown: `${{error}}` }}));
        """
        answer = self.driver.execute_async_script(body, *arguments)
        assert not (isinstance(answer, dict) and "thrown" in answer), answer
        return answer


class Page(Scripts):
    """The page in a browser, which is offline after the page is loaded."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        super().__init__(browser)
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self._resize(1280, "light")
        with hosted(folder) as server:
            self.address = f"http://127.0.0.1:{server.server_port}/"
            self.driver.get(self.address)
            self.wait(lambda: self.text("status") != "Loading the model…")
        assert self.text("status") == "Nothing to read yet."
        # Later there is no server to fetch it from.
        assert self.run("return [...document.fonts].map((font) => font.status)") == ["loaded"] * 20

    def _resize(self, width: int, scheme: str) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})

    def show(self, width: int, scheme: str) -> None:
        """The same page in a window of another width and a light or dark scheme."""
        self._resize(width, scheme)

    def wait(self, condition: Callable[[], bool]) -> None:
        WebDriverWait(self.driver, 60).until(lambda _: condition())

    def text(self, name: str) -> str:
        return self.run("return document.getElementById(arguments[0]).textContent", name)

    def read(self, pictures: Sequence[bytes], alternatives: int = 5) -> list[dict[str, Any]]:
        """Returns the results of the page's worker for pictures, and the seconds for each."""
        code = """
            const started = performance.now();
            const answer = await read(new Blob([bytes(given[0])]), given[1]).catch(({ message }) => ({ message }));
            return { ...answer, seconds: (performance.now() - started) / 1000 };
            """
        # A call for each picture: a call has to end within Selenium's limit.
        return [self.call(code, base64.b64encode(picture).decode(), alternatives) for picture in pictures]

    def requests(self) -> list[str]:
        """The requested addresses since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


@pytest.fixture(scope="module")
def page(browser: Browser, folder: Path) -> Page:
    return Page(browser, folder)
