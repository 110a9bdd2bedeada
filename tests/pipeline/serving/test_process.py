"""`im2latex serve` as a process: how it starts and how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from im2latex import __version__

pytestmark = pytest.mark.integration


@contextlib.contextmanager
def serving(*arguments: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "serve", *arguments],
        env={**os.environ, "IM2LATEX_HOME": str(home), "NO_COLOR": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def home(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a version that is broken above one that works."""
    home = tmp_path_factory.mktemp("home")
    (home / "serving" / "im2latex" / "8").mkdir(parents=True)
    (home / "serving" / "im2latex" / "7").symlink_to(model)
    return home


def listening(port: int) -> list[str]:
    """The addresses, as Linux writes them, at which a port is listened to."""
    lines = [line.split() for file in ("tcp", "tcp6") for line in Path("/proc/net", file).read_text().splitlines()[1:]]
    places = [place.split(":") for _, place, _, state, *_ in lines if state == "0A"]
    return [address for address, number in places if int(number, 16) == port]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_what_was_asked_is_answered(
    number: signal.Signals, home: Path, images: list[bytes]
) -> None:
    with serving("--port", "0", home=home) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.match(r"http://127\.0\.0\.1:(\d+) serves .*/im2latex/7; Ctrl-C ends it$", line)
        assert match, line
        port = int(match[1])
        assert listening(port) == ["0100007F"]  # 127.0.0.1 alone
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        # The head of a request before the signal, the body after it.
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(len(images[0])))
        connection.endheaders(images[0][:50])
        other = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        other.request("GET", "/healthz")
        assert other.getresponse().read() == b"alive\n"
        process.send_signal(number)
        timer = threading.Timer(1.0, lambda: connection.send(images[0][50:]))
        timer.start()
        answer = connection.getresponse()
        assert answer.status == 200 and b"latex" in answer.read()
        assert answer.getheader("Connection") == "close"
        timer.join()
        assert process.wait(300) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        said = process.communicate()[1]
        assert "version 8 is passed over" in said and "ending: 1 images" in said
        assert "Traceback" not in said


def test_without_a_model_that_works_it_ends_with_a_sentence(tmp_path: Path) -> None:
    with serving("--port", "0", "--model", "nowhere", home=tmp_path) as process:
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 1
        assert said.splitlines()[-1].startswith("im2latex: no model can be loaded")
        assert "Traceback" not in said


def test_before_the_first_push_the_model_that_comes_with_im2latex_serves(
    tmp_path: Path, images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serving("--port", "0", home=tmp_path) as process:
        assert process.stdout is not None
        match = re.match(r"http://127\.0\.0\.1:(\d+) serves (.*/reader-\w{16});", process.stdout.readline())
        assert match and Path(match[2]).parent == tmp_path / "cache" / "im2latex" / "models"
        connection = http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=60)
        connection.request("POST", "/predict", images[0])
        answer = connection.getresponse()
        assert answer.status == 200 and json.loads(answer.read())["version"] == "1"
        process.terminate()
        said = process.communicate(timeout=300)[1].splitlines()
    assert said[0] == f"model: the reader that comes with im2latex {__version__}"
    assert said[1].startswith("preparing the model (once, about ")


def test_a_port_that_is_taken_is_a_sentence(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving("--port", str(port), home=home) as process:
            said = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith(f"im2latex: cannot listen at 127.0.0.1:{port} (")
