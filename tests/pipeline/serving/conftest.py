"""A small model, pictures, and a service that runs."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.serving.models import Models
from pipeline.serving.service import Limits, Service, listen_for, runner_of
from tests.components.serving_check.models import draw, save_reader

# Inputs that each fuzzing test makes up: IM2LATEX_FUZZ=100000 looks for a while.
FUZZ = int(os.environ.get("IM2LATEX_FUZZ", "300"))
LIMITS = Limits(capacity=40, body=400_000, body_seconds=0.5, idle_seconds=1.0, refresh_seconds=0.05)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose weights are such that different images read differently."""
    folder = tmp_path_factory.mktemp("models") / "7"
    save_reader(folder)
    return folder


@pytest.fixture(scope="session")
def signatures(model: Path) -> Any:
    """The model itself, without any code of the service."""
    return tf.saved_model.load(str(model)).signatures


@pytest.fixture(scope="session")
def images() -> list[bytes]:
    """PNGs of different formulas and sizes."""
    return draw(6)


@pytest.fixture(scope="session")
def picture(images: list[bytes]) -> Image.Image:
    """A formula in grey on a white sheet."""
    ink = np.asarray(Image.open(io.BytesIO(images[0])).convert("L"))
    return Image.fromarray(np.pad(ink, 5, constant_values=255))


class Answer(NamedTuple):
    """What a service answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """A service in a thread of its own, at a free port."""

    def __init__(self, folders: Callable[[], Sequence[Path]], limits: Limits) -> None:
        self.service = Service(Models(folders), limits)
        self.port = 0
        self._listens = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))
        self._thread.start()
        assert self._listens.wait(30)

    async def _serve(self) -> None:
        runner = runner_of(self.service)
        await runner.setup()
        server = await listen_for(self.service, runner, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listens.set()
        await self._end.wait()
        server.close()
        await runner.cleanup()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._loop.close()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    @contextlib.contextmanager
    def asked_on(self, image: bytes) -> Iterator[list[Answer]]:
        """Three clients who ask again and again until the end; their answers."""
        answers: list[Answer] = []
        ended = threading.Event()

        def ask_on() -> None:
            while not ended.is_set():
                answers.append(self.ask("POST", "/predict", image))

        clients = [threading.Thread(target=ask_on) for _ in range(3)]
        for client in clients:
            client.start()
        try:
            yield answers
        finally:
            ended.set()
            for client in clients:
                client.join()

    def predict(self, document: Any) -> Answer:
        return self.ask("POST", "/v1/models/im2latex:predict", json.dumps(document))

    def is_alive(self, image: bytes) -> bool:
        """Whether an image is read as ever."""
        answer = self.ask("POST", "/predict", image)
        return answer.status == 200 and set(answer.json) >= {"latex", "log_probability"}


@contextlib.contextmanager
def running(folders: Callable[[], Sequence[Path]], limits: Limits = LIMITS) -> Iterator[Running]:
    made = Running(folders, limits)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def service(model: Path) -> Iterator[Running]:
    with running(lambda: [model]) as made:
        yield made
