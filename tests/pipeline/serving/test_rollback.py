from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from pipeline.rollback import rollback
from pipeline.workspace import Workspace
from tests.pipeline.serving.conftest import Answer, running

pytestmark = pytest.mark.integration


def test_a_rollback_is_taken_while_requests_come_and_none_is_lost(
    model: Path, images: list[bytes], tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    for version in (7, 8):
        shutil.copytree(model, workspace.serving / "im2latex" / str(version))
    with running(workspace.versions) as service:
        answers: list[Answer] = []
        ended = threading.Event()

        def ask() -> None:
            while not ended.is_set():
                answers.append(service.ask("POST", "/predict", images[0]))

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        try:
            for to in (7, 8):
                rollback(workspace, None, to, lambda said: None)
                over = time.monotonic() + 60
                while service.service.models.served.version != to and time.monotonic() < over:
                    time.sleep(0.02)
                assert service.ask("POST", "/predict", images[0]).json["version"] == str(to)
        finally:
            ended.set()
            for client in clients:
                client.join()
    assert {answer.status for answer in answers} == {200}
    assert {answer.json["version"] for answer in answers} == {"7", "8"}
