from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tfx import types
from tfx.types import artifact_utils, standard_artifacts

from components.serving_check.component import RESULT, Executor, ServingCheck, read_images, spread
from data.dataset.record import Record, encode
from im2latex.errors import UserError
from tests.components.artifacts import artifact, trained
from tests.components.pusher.test_component import Push
from tests.components.serving_check import models


def write_examples(folder: Path, shards: list[list[bytes]]) -> Any:
    """Writes an Examples artifact like ImportExampleGen's: images in the split test, in shards; train is empty."""
    examples = artifact(standard_artifacts.Examples, folder)
    examples.split_names = artifact_utils.encode_split_names(["train", "test"])
    splits: dict[str, list[list[bytes]]] = {"train": [[]], "test": shards}
    for split, parts in splits.items():
        (folder / f"Split-{split}").mkdir(parents=True)
        for number, images in enumerate(parts):
            path = folder / f"Split-{split}" / f"data_tfrecord-{number:05d}-of-{len(parts):05d}.gz"
            with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
                for image in images:
                    writer.write(encode(Record(image, "x", "")))
    return examples


@given(st.integers(0, 300), st.integers(1, 40))
def test_items_are_selected_at_even_distances(number: int, count: int) -> None:
    taken = spread(iter(range(number)), count)
    assert len(taken) == min(number, count)
    assert taken[:1] == list(range(number))[:1]
    gaps = [after - before for before, after in zip(taken, taken[1:], strict=False)]
    if gaps:
        assert min(gaps) >= 1 and max(gaps) <= 2 * min(gaps)
        assert number - taken[-1] <= 2 * min(gaps)


def test_images_are_spread_over_the_split(tmp_path: Path) -> None:
    examples = write_examples(tmp_path, [[b"0", b"1", b"2", b"3"], [b"4", b"5", b"6", b"7"]])
    assert read_images(examples, "test", 4) == [b"0", b"2", b"4", b"6"]
    assert read_images(examples, "test", 100) == [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7"]


def test_a_split_without_examples_is_one_sentence(tmp_path: Path) -> None:
    examples = write_examples(tmp_path, [[b"0"]])
    with pytest.raises(UserError, match="the split train has no example"):
        read_images(examples, "train", 4)


def test_inputs_and_outputs_have_tfx_types() -> None:
    component = ServingCheck(
        model=types.Channel(standard_artifacts.Model),
        examples=types.Channel(standard_artifacts.Examples),
        split="test",
        images=4,
        max_seconds=1.0,
    )
    assert component.outputs["blessing"].type is standard_artifacts.InfraBlessing
    assert component.exec_properties == {"split": "test", "images": 4, "max_seconds": 1.0}


class Checked:
    """The blessing of a model, and the result of a Pusher with that and with the Evaluator's blessing."""

    def __init__(self, model: Path, examples: Any, folder: Path, max_seconds: float) -> None:
        self.blessing = artifact(standard_artifacts.InfraBlessing, folder / "blessing")
        inputs = {"model": [trained(model)], "examples": [examples]}
        properties = {"split": "test", "images": 3, "max_seconds": max_seconds}
        Executor().Do(inputs, {"blessing": [self.blessing]}, properties)
        self.result = json.loads((folder / "blessing" / RESULT).read_text())
        push = Push(trained(model), folder, infra_blessing=self.blessing)
        self.pushed = push.run(push.version())


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_examples(tmp_path_factory.mktemp("examples"), [models.draw(5)])


# Python runs this at startup; at exit it writes the names of the imported modules.
WATCH = """
import atexit, sys
atexit.register(lambda: open({path!r}, "a").write(" ".join([*sys.modules, ""])))
"""


@pytest.mark.integration
def test_a_good_model_is_blessed_with_its_saved_model_alone(
    examples: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = models.save_reader(tmp_path / "model" / "Format-Serving")
    assert len(set(reader.predict_images(tf.constant(models.draw(5)))["latex"].numpy())) > 2  # it does read
    (tmp_path / "sitecustomize.py").write_text(WATCH.format(path=str(tmp_path / "imported")))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    checked = Checked(tmp_path / "model", examples, tmp_path, max_seconds=5.0)
    blessing, result = checked.blessing, checked.result
    assert blessing.get_int_custom_property("blessed") == 1
    assert result["blessed"] is True
    for name in ("seconds_to_load", "seconds_per_image", "seconds_per_image_p99"):
        assert blessing.get_float_custom_property(name) == result[name] > 0
    assert result["seconds_per_image"] <= result["seconds_per_image_p99"] < 5
    assert blessing.get_int_custom_property("peak_memory") == result["peak_memory"]
    assert 50e6 < result["peak_memory"] < 2e9
    assert "reason" not in result and not blessing.has_custom_property("reason")
    assert len(checked.pushed) == 1
    imported = {name.partition(".")[0] for name in (tmp_path / "imported").read_text().split()}
    assert {"tensorflow", "onnxruntime"} <= imported
    assert not {"data", "trainer_module", "pipeline", "tfx", "tensorflow_transform"} & imported


def test_a_slow_model_is_refused_with_the_reason_and_not_pushed(
    examples: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = {"latex": ["x"], "log_probability": [-1.0], "seconds": 0.25}
    together = {"latex": 3 * ["x"], "log_probability": 3 * [-1.0], "seconds": 0.75}
    events = [{"seconds_to_load": 1.5}, *4 * [read], together, {"peak_memory": 4096}]
    (tmp_path / "reported").write_text("".join(json.dumps(event) + "\n" for event in events))
    models.replace_python(tmp_path, monkeypatch, f"cat {tmp_path}/reported")
    checked = Checked(tmp_path / "model", examples, tmp_path, max_seconds=0.2)
    blessing, result = checked.blessing, checked.result
    assert blessing.get_int_custom_property("blessed") == 0
    assert result["blessed"] is False
    assert blessing.get_string_custom_property("reason") == result["reason"]
    assert result["reason"].endswith("takes 0.25 s an image (median of 3), more than the 0.2 s allowed")
    assert blessing.get_float_custom_property("seconds_per_image") == result["seconds_per_image"] == 0.25
    assert checked.pushed == []


def test_a_model_that_crashes_is_refused_without_an_exception(
    examples: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.replace_python(tmp_path, monkeypatch, "kill -9 $$")
    checked = Checked(tmp_path / "model", examples, tmp_path, max_seconds=5.0)
    assert checked.result == {
        "blessed": False,
        "reason": "the model's process was killed by SIGKILL while loading",
    }
    assert not checked.blessing.has_custom_property("seconds_to_load")
    assert checked.pushed == []
