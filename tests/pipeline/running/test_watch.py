"""`im2latex watch` runs once for each change, and notifies of failures."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from im2latex.errors import UserError
from pipeline.config import Config, load_config
from pipeline.running.notify import COMMAND, FAILED, WEBHOOK, check_environment, notify
from pipeline.running.watch import Watch


class Runs:
    """Replaces the pipeline: counts its runs, and ends with a given result."""

    def __init__(self) -> None:
        self.configs: list[Config] = []
        self.end: int | BaseException = 0

    def __call__(self, config: Config) -> int:
        self.configs.append(config)
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IM2LATEX_HOME", str(tmp_path / "workspace"))
    for name in (COMMAND, WEBHOOK):
        monkeypatch.delenv(name, raising=False)
    for split in ("train", "eval", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / "a.tfrecord").write_bytes(b"records")
    return tmp_path / "data"


@pytest.fixture
def settings(data: Path) -> list[str]:
    return [f"data.source={data}"]


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def output() -> list[str]:
    return []


@pytest.fixture
def watch(settings: list[str], runs: Runs, output: list[str]) -> Watch:
    return Watch(lambda: load_config(None, None, settings), output.append, settled=True, run=runs)


def test_it_runs_once_for_each_change(
    watch: Watch, runs: Runs, output: list[str], data: Path, settings: list[str]
) -> None:
    assert [watch.check(), watch.check()] == [0, None]
    # Another process with the same arguments continues from there.
    again = Watch(lambda: load_config(None, None, settings), output.append, settled=True, run=runs)
    assert again.check() is None and len(runs.configs) == 1
    (data / "train" / "b.tfrecord").write_bytes(b"more")
    assert [watch.check(), watch.check()] == [0, None]
    settings.append("training.epochs=7")
    assert [watch.check(), watch.check()] == [0, None]
    assert runs.configs[-1].training.epochs == 7
    assert output == ["first run", "data changed: running", "configuration changed: running"]


def test_a_file_that_is_only_touched_is_no_change(watch: Watch, data: Path) -> None:
    assert watch.check() == 0
    os.utime(data / "train" / "a.tfrecord", (1, 1))
    assert watch.check() is None


def test_other_code_is_a_change(watch: Watch, output: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch.check() == 0
    monkeypatch.setattr("pipeline.running.watch.all_files", list)
    assert watch.check() == 0 and output[-1] == "code changed: running"


def test_data_that_is_still_being_copied_starts_no_run(
    settings: list[str], runs: Runs, output: list[str], data: Path
) -> None:
    watch = Watch(lambda: load_config(None, None, settings), output.append, run=runs)
    assert watch.check() is None
    (data / "train" / "b.tfrecord").write_bytes(b"half")
    assert watch.check() is None
    (data / "train" / "b.tfrecord").write_bytes(b"half and half")
    assert [watch.check(), watch.check(), watch.check()] == [None, 0, None]


def test_an_interrupted_run_is_run_again_and_a_failed_one_is_not(watch: Watch, runs: Runs, data: Path) -> None:
    runs.end = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        watch.check()
    runs.end = UserError("Trainer: the training diverged")
    assert [watch.check(), watch.check()] == [1, None]
    (data / "train" / "a.tfrecord").write_bytes(b"better")
    runs.end = 0
    assert watch.check() == 0


def test_an_unreadable_configuration_is_reported_once(
    watch: Watch, runs: Runs, output: list[str], settings: list[str]
) -> None:
    settings.append("training.epochs=none")
    assert [watch.check(), watch.check()] == [None, None]
    assert len(output) == 1 and "training.epochs" in output[0]
    settings.pop()
    assert watch.check() == 0


def test_a_command_is_notified_of_failed_runs_and_rejected_models(
    watch: Watch, runs: Runs, output: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMMAND, f"sh -c 'cat >> {tmp_path / 'reported'}; echo >> {tmp_path / 'reported'}'")
    assert watch.check() == 0 and not (tmp_path / "reported").exists()
    runs.end = UserError("ImportExampleGen: a record is damaged")
    (data / "train" / "a.tfrecord").write_bytes(b"damaged")
    assert watch.check() == 1
    runs.end = 3
    (data / "train" / "a.tfrecord").write_bytes(b"poor")
    assert watch.check() == 3
    failed, rejected = map(json.loads, (tmp_path / "reported").read_text().splitlines())
    assert (failed["source"], failed["outcome"]) == ("im2latex", "failed")
    assert failed["text"] == "ImportExampleGen: a record is damaged"
    assert rejected["outcome"] == "rejected" and "not good enough" in rejected["text"]
    for command, problem in [("sh -c 'exit 7'", "ended with status 7"), ("/nowhere", "cannot be run (No such file")]:
        monkeypatch.setenv(COMMAND, command)
        (data / "train" / "a.tfrecord").write_bytes(command.encode())
        assert watch.check() == 3 and output[-1].startswith(f"{COMMAND} {problem}")


@pytest.fixture
def server() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a webhook, and the messages that it received."""
    reported: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802
            reported.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(500 if self.path == "/broken" else 204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Suppresses messages."""

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}", reported
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_a_webhook_is_notified_too(server: tuple[str, list[bytes]]) -> None:
    address, reported = server
    assert notify("Trainer", FAILED, "kein Platz für „x“", {WEBHOOK: f"{address}/hook"}) == []
    message = json.loads(reported[0])
    assert (message["source"], message["outcome"], message["text"]) == ("Trainer", "failed", "kein Platz für „x“")
    (problem,) = notify("Trainer", FAILED, "", {WEBHOOK: f"{address}/broken"})
    assert problem == f"{WEBHOOK} answered with 500 Internal Server Error"
    (problem,) = notify("Trainer", FAILED, "", {WEBHOOK: "http://127.0.0.1:9/"})
    assert "refused" in problem
    assert notify("Trainer", FAILED, "", {}) == []
    with pytest.raises(UserError, match="has to start with http"):
        check_environment({WEBHOOK: "hooks.example.com"})
