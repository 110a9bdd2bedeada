"""The model that a command uses, and the SavedModel of the model that comes with im2latex."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from im2latex import __version__, weights
from im2latex.errors import UserError
from im2latex.weights import WEIGHTS
from pipeline.models.choice import cache, chosen_model, saved_model
from tests.components.serving_check.models import draw, save_reader
from trainer_module import reader
from trainer_module.signatures import read_exported
from trainer_module.trained import Trained, save_weights


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A small model that replaces the reader."""
    folder = tmp_path_factory.mktemp("tiny")
    save_reader(folder)
    return read_exported(folder)


@pytest.fixture
def shipped(tiny: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader that is replaced by a small model, an empty cache and an empty workspace."""
    save_weights(tmp_path / "shipped" / WEIGHTS, tiny)
    monkeypatch.setattr(reader, "weights_file", lambda: tmp_path / "shipped" / WEIGHTS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("IM2LATEX_HOME", str(tmp_path / "workspace"))
    return tmp_path / "shipped" / WEIGHTS


def push(home: Path, version: str) -> Path:
    folder = home / "workspace" / "serving" / "im2latex" / version
    folder.mkdir(parents=True)
    return folder


def test_the_default_is_the_model_pushed_last_else_the_reader(
    shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader_folder = tmp_path / "prepared"
    monkeypatch.setattr("pipeline.models.choice.saved_model", lambda: reader_folder)
    of_reader = f"model: the reader that comes with im2latex {__version__}\n"
    assert chosen_model(None) == reader_folder
    assert capsys.readouterr() == ("", of_reader)
    push(tmp_path, "9")
    newest = push(tmp_path, "10")
    assert chosen_model(None) == newest
    assert capsys.readouterr() == ("", f"model: im2latex 10 ({newest})\n")
    monkeypatch.chdir(tmp_path)
    chosen_model(None)
    assert capsys.readouterr().err == "model: im2latex 10 (workspace/serving/im2latex/10)\n"
    assert chosen_model("reader") == reader_folder
    assert capsys.readouterr() == ("", of_reader)
    # A path is a folder, even if its name is `reader`.
    for name in ("./reader", "elsewhere/9"):
        assert chosen_model(name) == Path(name)
    assert capsys.readouterr() == ("", "")


def test_the_saved_model_is_made_once_per_set_of_weights(
    shipped: Path, tiny: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved_model()
    assert folder.parent == tmp_path / "cache" / "im2latex" / "models" == cache()
    assert capsys.readouterr().err.startswith("preparing the model (once, about ")
    read = tf.saved_model.load(str(folder)).signatures["predict_images"](images=tf.constant(draw(3)))
    assert all(read["latex"].numpy())
    changed = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert saved_model() == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == changed
    assert capsys.readouterr().err == ""
    save_weights(shipped, tiny._replace(max_tokens=5))
    other = saved_model()
    assert other != folder and other.parent == folder.parent
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([folder.name, other.name])


def test_two_processes_can_prepare_the_model_at_once(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.models import export

    save = export.save_model
    others: list[Path] = []

    def overtaken(trained: Trained, folder: Path) -> None:
        """Simulates another process that writes the same folder at the same time."""
        save(trained, folder)
        others.extend(folder.rglob("*"))
        save(trained, folder)

    monkeypatch.setattr("pipeline.models.choice.save_model", overtaken)
    model_folder = saved_model()
    assert model_folder.parent == cache() and sorted(model_folder.rglob("*")) == sorted(others)
    assert [path.name for path in cache().iterdir()] == [model_folder.name]


def test_without_a_writable_cache_the_model_is_made_in_a_temporary_folder(shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    code = (
        "from pathlib import Path; from trainer_module import reader; from pipeline.models.choice import saved_model;"
        f"reader.weights_file = lambda: Path({str(shipped)!r});"
        "made = saved_model(); print(made, (made / 'saved_model.pb').is_file())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    folder, is_there = done.stdout.split()
    assert is_there == "True" and not Path(folder).exists() and not Path(folder).parent.exists()
    (sentence,) = (line for line in done.stderr.splitlines() if line.startswith("im2latex: "))
    assert "cannot be kept in" in sentence and "XDG_CACHE_HOME" in sentence


def test_a_missing_file_of_weights_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "NAME", "absent")
    with pytest.raises(UserError, match="absent.npz, the model that comes with im2latex, is missing"):
        saved_model()
