from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tensorflow as tf

from components.baseline.choice import newest_other
from components.serving_folder import digest, serves, versions


class Constant(tf.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = tf.Variable(value)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serve(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"latex": tf.fill(tf.shape(examples), "x"), "value": self.value}


def save(folder: Path, value: float, signature: str = "predict_images") -> Path:
    module = Constant(value)
    tf.saved_model.save(module, str(folder), signatures={signature: module.serve})
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "old": save(folder / "old", 1.0),
        "new": save(folder / "new", 2.0),
        "other signature": save(folder / "other", 3.0, "predict"),
    }


def push(serving: Path, model: Path, version: int) -> Path:
    return Path(shutil.copytree(model, serving / str(version)))


def test_only_numbers_are_versions_also_at_an_address(tmp_path: Path) -> None:
    for name in ("9", "10", "2", "11.partial", "notes"):
        (tmp_path / name).mkdir()
    assert versions(str(tmp_path)) == [2, 9, 10]
    assert versions(str(tmp_path / "missing")) == []


def test_a_digest_depends_on_names_and_bytes_and_not_on_the_folder(tmp_path: Path, models: dict[str, Path]) -> None:
    copy = push(tmp_path, models["old"], 1)
    assert digest(str(copy)) == digest(str(models["old"])) != digest(str(models["new"]))
    assert serves(str(tmp_path), 1, str(models["old"]))
    (copy / "saved_model.pb").rename(copy / "renamed.pb")
    assert not serves(str(tmp_path), 1, str(models["old"]))


def test_the_first_run_has_no_baseline(tmp_path: Path, models: dict[str, Path]) -> None:
    assert newest_other(str(tmp_path / "missing"), str(models["new"])) == ("", "")
    assert newest_other(str(tmp_path), str(models["new"])) == ("", "")


def test_the_newest_version_serves(tmp_path: Path, models: dict[str, Path]) -> None:
    push(tmp_path, models["new"], 9)
    push(tmp_path, models["old"], 10)
    assert newest_other(str(tmp_path), str(models["new"])) == ("10", "")


def test_the_baseline_is_the_same_before_and_after_a_push(tmp_path: Path, models: dict[str, Path]) -> None:
    push(tmp_path, models["old"], 1)
    before = newest_other(str(tmp_path), str(models["new"]))
    push(tmp_path, models["new"], 2)
    assert newest_other(str(tmp_path), str(models["new"])) == before == ("1", "")
    # The old model again: the new one serves now.
    assert newest_other(str(tmp_path), str(models["old"])).version == "2"


@pytest.mark.parametrize("damage", ["no graph", "truncated variables", "empty folder", "other signature"])
def test_a_version_that_cannot_be_evaluated_is_skipped(damage: str, tmp_path: Path, models: dict[str, Path]) -> None:
    push(tmp_path, models["old"], 1)
    if damage == "empty folder":
        (tmp_path / "2").mkdir()
    else:
        broken = push(tmp_path, models["other signature" if damage == "other signature" else "old"], 2)
        if damage == "no graph":
            (broken / "saved_model.pb").unlink()
        if damage == "truncated variables":
            (data,) = broken.glob("variables/*.data-*")
            data.write_bytes(data.read_bytes()[:1])
    serving = newest_other(str(tmp_path), str(models["new"]))
    assert serving.version == "1"
    assert serving.skipped.startswith("version 2 cannot be used: ") and "\n" not in serving.skipped
