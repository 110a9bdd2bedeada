from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from im2latex.errors import UserError
from im2latex.models import ONNX
from im2latex.serving.models import Models, Served, load
from pipeline.workspace import Workspace
from tests.im2latex.serving.conftest import save_version
from trainer_module.trained import Trained


@pytest.fixture
def workspace(tmp_path: Path, model: Path) -> Workspace:
    """A workspace with one version, 7."""
    workspace = Workspace(tmp_path)
    shutil.copytree(model, workspace.serving / "im2latex" / "7")
    return workspace


def version(workspace: Workspace, number: int) -> Path:
    return workspace.serving / "im2latex" / str(number)


def test_the_newest_version_serves_and_a_newer_one_takes_over(
    workspace: Workspace, trained: Trained, images: list[bytes]
) -> None:
    models = Models(workspace.versions)
    reported: list[bool] = []
    models.reloaded = reported.append
    before = models.served.reader.predict(images[0])
    models.refresh()
    assert (models.served.version, reported) == (7, [])
    save_version(version(workspace, 10), trained, says="n")
    models.refresh()
    after = models.served.reader.predict(images[0])
    assert (models.served.version, reported) == (10, [True])
    assert (after.latex, after.probability) == (" ".join("n" for _ in before.latex.split()), before.probability)


def truncated(folder: Path) -> None:
    file = folder / ONNX
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(folder: Path) -> None:
    (folder / ONNX).write_bytes(b"")


def loop(folder: Path) -> None:
    (folder / ONNX).unlink()
    (folder / ONNX).symlink_to(folder / ONNX)


def loop_of_folders(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder)


def nothing(folder: Path) -> None:
    shutil.rmtree(folder / ONNX.partition("/")[0])


def folder_in_its_place(folder: Path) -> None:
    (folder / ONNX).unlink()
    (folder / ONNX).mkdir()


@pytest.mark.parametrize("spoil", [truncated, empty, loop, loop_of_folders, nothing, folder_in_its_place])
def test_a_broken_version_is_skipped_at_the_start_and_later(
    spoil, workspace: Workspace, trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "im2latex.serving")  # other tests hush all but errors
    broken = save_version(version(workspace, 9), trained)
    spoil(broken)
    models = Models(workspace.versions)
    assert models.served.version == 7
    assert caplog.text.count("version 9 is skipped") == 1 and "Traceback" not in caplog.text
    # Nor is it in the way of a good one below it.
    save_version(version(workspace, 8), trained)
    caplog.clear()
    models.refresh()
    models.refresh()
    assert models.served.version == 8 and caplog.text == ""
    broken.unlink() if broken.is_symlink() else shutil.rmtree(broken)
    save_version(broken, trained)
    models.refresh()
    assert models.served.version == 9


def test_one_that_was_copied_in_part_is_tried_again_although_copying_keeps_the_times(
    workspace: Workspace, trained: Trained
) -> None:
    models = Models(workspace.versions)
    file = save_version(version(workspace, 9), trained) / ONNX
    content = file.read_bytes()
    for size, serves in ((1000, 7), (2000, 7), (len(content), 9)):
        file.write_bytes(content[:size])
        os.utime(file, (1_000_000_000, 1_000_000_000))
        models.refresh()
        assert models.served.version == serves


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_version_whose_answers_are_no_probabilities_is_skipped(
    number: float, workspace: Workspace, trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "im2latex.serving")
    save_version(version(workspace, 8), trained, spoiled=number)
    assert Models(workspace.versions).served.version == 7
    assert "version 8 is skipped" in caplog.text


def test_a_number_without_an_address_is_not_a_version(workspace: Workspace, trained: Trained) -> None:
    largest = 2**63 - 1
    for number in (largest + 1, 9999999999999999999999):
        save_version(version(workspace, number), trained)
    assert [path.name for path in workspace.versions()] == ["7"]
    save_version(version(workspace, largest), trained)
    assert Models(workspace.versions).served.version == largest


def test_a_version_that_is_taken_back_serves_no_longer(workspace: Workspace, trained: Trained) -> None:
    newer = save_version(version(workspace, 8), trained)
    models = Models(workspace.versions)
    assert models.served.version == 8
    shutil.rmtree(newer)
    models.refresh()
    assert models.served.version == 7
    shutil.rmtree(version(workspace, 7))
    models.refresh()  # better an old model than none
    assert models.served.version == 7


def test_a_version_that_was_moved_away_while_it_was_loaded_is_taken_when_it_comes_back(
    workspace: Workspace, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models(workspace.versions)
    newer, aside = save_version(version(workspace, 8), trained), workspace.home / "8"
    loads = load

    def moved(folder: Path) -> Served:
        if folder == newer and not aside.exists():
            newer.rename(aside)
        return loads(folder)

    with monkeypatch.context() as patch:
        patch.setattr("im2latex.serving.models.load", moved)
        models.refresh()
    models.refresh()
    assert models.served.version == 7
    aside.rename(newer)  # with the times that its files had
    models.refresh()
    assert models.served.version == 8


def test_without_a_working_version_the_service_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model can be loaded"):
        Models(lambda: [tmp_path / "nowhere"])
