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
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from im2latex import __version__

pytestmark = pytest.mark.integration


@contextlib.contextmanager
def serving(*arguments: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "im2latex", "serve", *arguments],
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
    """A workspace with a working version and a newer broken one."""
    home = tmp_path_factory.mktemp("home")
    (home / "serving" / "im2latex" / "8").mkdir(parents=True)
    (home / "serving" / "im2latex" / "7").symlink_to(model)
    return home


def listening(port: int) -> list[str]:
    """The addresses on which a port is open, in the format of Linux."""
    lines = [line.split() for file in ("tcp", "tcp6") for line in Path("/proc/net", file).read_text().splitlines()[1:]]
    endpoints = [endpoint.split(":") for _, endpoint, _, state, *_ in lines if state == "0A"]
    return [address for address, number in endpoints if int(number, 16) == port]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_after_the_requests_in_progress(
    number: signal.Signals, home: Path, images: list[bytes]
) -> None:
    with serving("--port", "0", home=home) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.match(r"http://127\.0\.0\.1:(\d+) serves .*/im2latex/7; press Ctrl-C to stop$", line)
        assert match, line
        port = int(match[1])
        assert listening(port) == ["0100007F"]  # only 127.0.0.1
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
        output = process.communicate()[1]
        # The request for /healthz may still be ending too.
        assert "version 8 is skipped" in output and re.search("stopping: [12] requests", output)
        assert "Traceback" not in output


def test_a_model_that_does_not_exist_is_one_sentence(tmp_path: Path) -> None:
    with serving("--port", "0", "--model", "nowhere", home=tmp_path) as process:
        output = process.communicate(timeout=300)[1]
        assert process.returncode == 1
        assert output == "im2latex: there is no model nowhere; name a folder or a file, or leave --model out\n"


def test_without_a_working_model_it_ends_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"damaged")
    with serving("--port", "0", "--model", str(tmp_path), home=tmp_path) as process:
        output = process.communicate(timeout=300)[1]
        assert process.returncode == 1
        assert output.splitlines()[-1].startswith("im2latex: no model can be loaded")
        assert "Traceback" not in output


def test_before_the_first_push_the_model_that_comes_with_im2latex_serves(tmp_path: Path, images: list[bytes]) -> None:
    with serving("--port", "0", "--log-format", "json", home=tmp_path) as process:
        assert process.stdout is not None
        match = re.match(r"http://127\.0\.0\.1:(\d+) serves .*/reader\.npz;", process.stdout.readline())
        assert match
        connection = http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=60)
        connection.request("POST", "/predict", images[0], {"X-Request-ID": "mine-1"})
        answer = connection.getresponse()
        assert answer.status == 200 and json.loads(answer.read())["version"] == "1"
        process.terminate()
        first, *lines = process.communicate(timeout=300)[1].splitlines()
    assert first == f"model: the reader that comes with im2latex {__version__}"
    (line,) = (entry for entry in map(json.loads, lines) if "request_id" in entry)
    expected = {"level": "info", "request_id": "mine-1", "client": "127.0.0.1", "method": "POST", "path": "/predict",
                "status": 200, "images": 1, "version": 1}  # fmt: skip
    assert {name: line[name] for name in expected} == expected and line["seconds"] > 0


def test_while_it_drains_it_is_not_ready_and_still_takes_requests(home: Path, images: list[bytes]) -> None:
    with serving("--port", "0", "--drain-delay", "2", home=home) as process:
        assert process.stdout is not None
        match = re.match(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
        assert match

        def ask(method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=60)
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()

        assert ask("GET", "/readyz") == (200, b"version 7\n")
        process.terminate()
        deadline = time.monotonic() + 1.5
        while ask("GET", "/readyz") != (503, b"stopping\n"):
            assert time.monotonic() < deadline
        assert ask("GET", "/healthz")[0] == 200
        assert ask("POST", "/predict", images[0])[0] == 200
        assert process.wait(60) == 0


def test_limits_are_options_and_wrong_ones_are_refused(home: Path) -> None:
    with serving("--port", "0", "--max-body", "1000", home=home) as process:
        assert process.stdout is not None
        match = re.match(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
        assert match
        connection = http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=60)
        connection.request("POST", "/predict", bytes(1001))
        assert connection.getresponse().status == 413
    for wrong in (("--max-body", "0"), ("--body-timeout", "nan"), ("--log-format", "xml"), ("--port", "70000")):
        with serving(*wrong, home=home) as process:
            output = process.communicate(timeout=60)[1]
            assert process.returncode == 2 and wrong[0] in output
            assert output.startswith("im2latex: ") and output.endswith("; see `im2latex serve --help`\n")
            assert output.count("\n") == 1


def test_a_port_that_is_taken_is_a_sentence(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving("--port", str(port), home=home) as process:
            output = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert output.splitlines()[-1].startswith(
        f"im2latex: cannot listen on 127.0.0.1:{port} (Address already in use); choose another --port"
    )
