from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from pipeline.serving.rollback import rollback
from pipeline.workspace import Workspace
from tests.im2latex.serving.conftest import running

pytestmark = pytest.mark.integration


def test_a_service_follows_a_rollback_without_losing_requests(model: Path, images: list[bytes], tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for version in (7, 8):
        shutil.copytree(model, workspace.serving / "im2latex" / str(version))
    with running(workspace.versions) as service, service.asked_on(images[0]) as answers:
        for to in (7, 8):
            rollback(workspace, None, to, lambda output: None)
            over = time.monotonic() + 60
            while service.service.models.served.version != to and time.monotonic() < over:
                time.sleep(0.02)
            assert service.ask("POST", "/predict", images[0]).json["version"] == str(to)
    assert {answer.status for answer in answers} == {200}
    assert {answer.json["version"] for answer in answers} == {"7", "8"}
