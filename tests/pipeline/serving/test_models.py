from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from im2latex.errors import UserError
from pipeline.serving.models import Models, Read, Served, load
from pipeline.workspace import Workspace
from tests.components.serving_check.models import save, sure


@pytest.fixture
def workspace(tmp_path: Path, model: Path) -> Workspace:
    """A workspace with one version, 7."""
    workspace = Workspace(tmp_path)
    shutil.copytree(model, workspace.serving / "im2latex" / "7")
    return workspace


def push(workspace: Workspace, version: int, latex: str = "y") -> Path:
    """Pushes a model that answers the same to every image."""
    return save(workspace.serving / "im2latex" / str(version), lambda images: sure(images, latex))


def test_the_newest_version_serves_and_a_newer_one_takes_over(workspace: Workspace, images: list[bytes]) -> None:
    models = Models(workspace.versions)
    told: list[bool] = []
    models.reloaded = told.append
    (before,) = models.read(images[:1], None)
    assert isinstance(before, Read)
    models.refresh()
    assert (models.served.version, told) == (7, [])
    push(workspace, 10)
    models.refresh()
    (after,) = models.read(images[:1], None)
    assert isinstance(after, Read)
    assert (before.version, after.version, told) == (7, 10, [True])
    assert (before.hypotheses[0].latex != "y", after.hypotheses[0].latex) == (True, "y")


def test_a_broken_version_is_passed_over_once_and_tried_again_when_it_changes(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pipeline.serving")  # other tests hush all but errors
    broken = workspace.serving / "im2latex" / "9"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"half a model")
    models = Models(workspace.versions)
    assert models.served.version == 7
    assert "version 9 is passed over" in caplog.text
    caplog.clear()
    models.refresh()
    assert caplog.text == ""
    shutil.rmtree(broken)
    push(workspace, 9)
    models.refresh()
    assert models.served.version == 9


def test_a_version_that_loads_and_cannot_read_is_passed_over(workspace: Workspace) -> None:
    import tensorflow as tf

    def fails(images: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.assert_equal(tf.size(images), -1)]):
            return sure(tf.identity(images))

    save(workspace.serving / "im2latex" / "8", fails)
    assert Models(workspace.versions).served.version == 7


def test_a_version_that_is_taken_back_serves_no_longer(workspace: Workspace) -> None:
    newer = push(workspace, 8)
    models = Models(workspace.versions)
    assert models.served.version == 8
    shutil.rmtree(newer)
    models.refresh()
    assert models.served.version == 7
    shutil.rmtree(workspace.serving / "im2latex" / "7")
    models.refresh()  # better an old model than none
    assert models.served.version == 7


def test_a_version_that_was_moved_away_while_it_was_loaded_is_taken_when_it_comes_back(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models(workspace.versions)
    newer, aside = push(workspace, 8), workspace.home / "8"
    loads = load

    def moved(folder: Path) -> Served:
        if folder == newer and not aside.exists():
            newer.rename(aside)
        return loads(folder)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.serving.models.load", moved)
        models.refresh()
    models.refresh()
    assert models.served.version == 7
    aside.rename(newer)  # with the times that its files had
    models.refresh()
    assert models.served.version == 8


def test_without_any_version_that_works_there_is_no_service(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model can be loaded"):
        Models(lambda: [tmp_path / "nowhere"])
