"""A small model, pictures, and a running service."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
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
from PIL import Image
from starlette.datastructures import Headers

from data.pictures.synthetic import draw_png, formulas
from im2latex.corrections import Corrections
from im2latex.graph import onnx_model
from im2latex.models import ONNX
from im2latex.serving.limits import Limits
from im2latex.serving.models import Models
from im2latex.serving.server import Server, listen
from im2latex.serving.service import Service
from trainer_module.trained import Trained, description

# Inputs that each fuzzing test makes up: IM2LATEX_FUZZ=100000 looks for a while.
FUZZ = int(os.environ.get("IM2LATEX_FUZZ", "300"))
LIMITS = Limits(max_images=40, max_body=400_000, body_timeout=0.5, head_timeout=1.0, write_timeout=1.0, refresh=0.05)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose weights give different results for different images."""
    folder = tmp_path_factory.mktemp("models") / "7"
    from tests.components.serving_check.models import save_reader

    save_reader(folder)
    return folder


@pytest.fixture(scope="session")
def trained(model: Path) -> Trained:
    """That model's weights."""
    from trainer_module.signatures import read_exported

    return read_exported(model)


def save_version(folder: Path, trained: Trained, says: str = "", spoiled: float = 0.0) -> Path:
    """Writes a version that has only an ONNX file.

    Args:
        folder: of the version.
        trained: the model.
        says: what each of its tokens reads as, instead of the vocabulary.
        spoiled: what is added to its weights, such as NaN.
    """
    changed = trained._replace(vocabulary=[says or token for token in trained.vocabulary])
    weights = {name: weight + np.float32(spoiled) for name, weight in trained.weights.items()}
    content = onnx_model(
        dataclasses.asdict(trained.model), weights, trained.max_tokens, json.dumps(description(changed))
    )
    (folder / ONNX).parent.mkdir(parents=True)
    (folder / ONNX).write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def signatures(model: Path) -> Any:
    """The model itself, without any code of the service."""
    import tensorflow as tf

    return tf.saved_model.load(str(model)).signatures


@pytest.fixture(scope="session")
def images() -> list[bytes]:
    """PNGs of different formulas and sizes."""
    return [draw_png(formula, em=11) for formula in formulas(6, seed=3, level="simple", max_tokens=8)]


@pytest.fixture(scope="session")
def picture(images: list[bytes]) -> Image.Image:
    """A formula in grey on a white sheet."""
    ink = np.asarray(Image.open(io.BytesIO(images[0])).convert("L"))
    return Image.fromarray(np.pad(ink, 5, constant_values=255))


class Answer(NamedTuple):
    """The response of a service."""

    status: int
    headers: Headers
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """A service in its own thread, on a free port."""

    def __init__(
        self, folders: Callable[[], Sequence[Path]], limits: Limits, corrections: Corrections | None = None
    ) -> None:
        self.service = Service(Models(folders), limits, corrections=corrections)
        listens = threading.Event()
        self._server = Server(self.service, listens.set)
        sockets = listen("127.0.0.1", 0)
        self.port = sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve(sockets)))
        self._thread.start()
        assert listens.wait(30)

    def close(self) -> None:
        self._server.end()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, Headers(dict(response.getheaders())), response.read())
        finally:
            connection.close()

    @contextlib.contextmanager
    def asked_on(self, image: bytes) -> Iterator[list[Answer]]:
        """Three clients that send requests until the end; their responses."""
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
        """Returns whether an image still gives the expected result."""
        answer = self.ask("POST", "/predict", image)
        return answer.status == 200 and set(answer.json) >= {"latex", "log_probability"}


@contextlib.contextmanager
def running(
    folders: Callable[[], Sequence[Path]], limits: Limits = LIMITS, corrections: Corrections | None = None
) -> Iterator[Running]:
    server = Running(folders, limits, corrections)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def service(model: Path) -> Iterator[Running]:
    with running(lambda: [model]) as service:
        yield service
