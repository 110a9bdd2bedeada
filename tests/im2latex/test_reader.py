"""The Python reader: its inputs and results, and that it does not need TensorFlow."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import im2latex
from components.evaluator.reading import ImageReader
from data.pictures.synthetic import draw_png, formulas
from im2latex.calibration import Calibration
from im2latex.images import WHITE, rescale
from im2latex.protobuf import OnnxGraph
from im2latex.reading import STRIDE, Beam
from pipeline.models.export import save_model
from trainer_module import reader as shipped
from trainer_module.config.decoding import DecodingConfig
from trainer_module.decoding import search
from trainer_module.signatures import read_exported
from trainer_module.trained import onnx_of, save_weights
from trainer_module.weights import model_of


@pytest.fixture(scope="module")
def reader(model: Path) -> im2latex.Reader:
    return im2latex.Reader(model)


def test_the_reader_gives_the_same_results_as_the_saved_model(
    reader: im2latex.Reader, signatures: Any, images: list[bytes]
) -> None:
    expected = signatures["predict_images"](images=tf.constant(images))
    readings = reader.predict(images)
    assert [one.latex.encode() for one in readings] == expected["latex"].numpy().tolist()
    actual = [one.alternatives[0].log_probability for one in readings]
    np.testing.assert_allclose(actual, expected["log_probability"], rtol=0, atol=1e-3)
    width, penalty = tf.constant(3), tf.constant(0.5)
    expected = signatures["predict_alternatives"](images=tf.constant(images), width=width, length_penalty=penalty)
    several = reader.predict(images, alternatives=3, length_penalty=0.5)
    assert [[one.latex.encode() for one in reading.alternatives] for reading in several] == expected[
        "latex"
    ].numpy().tolist()
    for name in ("log_probability", "score", "probability"):
        actual = [[getattr(one, name) for one in reading.alternatives] for reading in several]
        np.testing.assert_allclose(actual, expected[name], rtol=0, atol=1e-3)


def test_both_give_the_probabilities_of_the_model_s_calibration(
    model: Path, images: list[bytes], tmp_path: Path
) -> None:
    plain, fit = read_exported(model), Calibration(0.5, 1.25, 0.75, -0.5)
    save_model(plain._replace(calibration=fit), tmp_path / "model")
    save_weights(tmp_path / "weights.npz", plain._replace(calibration=fit))

    def calibrated(probability: float, slope: float, offset: float) -> float:
        odds = (probability / (1 - probability)) ** slope * np.exp(offset)
        return odds / (1 + odds)

    before = im2latex.Reader(model).predict(images, alternatives=2)
    assert [one.probability for one in before] == pytest.approx(
        [np.exp(one.alternatives[0].log_probability) for one in before], abs=2e-5
    )
    for answers in (
        [list(one.alternatives) for one in im2latex.Reader(tmp_path / "model").predict(images, alternatives=2)],
        [list(one.alternatives) for one in im2latex.Reader(tmp_path / "weights.npz").predict(images, alternatives=2)],
        ImageReader(tmp_path / "model").read(images, Beam(2)),
    ):
        for reading, hypotheses in zip(before, answers, strict=True):
            assert [one.latex for one in hypotheses] == [one.latex for one in reading.alternatives]
            for old, new in zip(reading.alternatives, hypotheses, strict=True):
                assert new.probability == pytest.approx(calibrated(old.probability, 0.75, -0.5), abs=1e-3)
                expected = [calibrated(probability, 0.5, 1.25) for probability in old.token_probability]
                assert new.token_probability == pytest.approx(expected, abs=1e-3)
                assert len(expected) == len(new.latex.split()) > 0
    (one,) = ImageReader(tmp_path / "model").read(images[:1])[0]
    assert one.probability == pytest.approx(answers[0][0].probability, abs=0.2) and one.token_probability


def test_a_model_of_before_there_was_a_calibration_is_read(model: Path, images: list[bytes], tmp_path: Path) -> None:
    graph = (model / "assets.extra" / "model.onnx").read_bytes()
    # Other names for outputs of the same length: as if they were not there.
    old = graph.replace(b"\x0bprobability", b"\x0bprobabilitz").replace(b"token_probability", b"token_probabilitz")
    (tmp_path / "old.onnx").write_bytes(old)
    reading = im2latex.Reader(tmp_path / "old.onnx").predict(images[0])
    assert reading.probability == pytest.approx(np.exp(reading.alternatives[0].log_probability))
    assert reading.alternatives[0].token_probability == ()


def test_a_model_searches_with_the_settings_of_its_description(
    model: Path, reader: im2latex.Reader, images: list[bytes], tmp_path: Path
) -> None:
    decoding = DecodingConfig(beam_width=3, length_penalty=2.0)
    save_model(read_exported(model)._replace(decoding=decoding), tmp_path / "model")
    signatures = tf.saved_model.load(str(tmp_path / "model")).signatures
    outputs = signatures["predict_alternatives"](
        images=tf.constant(images), width=tf.constant(3), length_penalty=tf.constant(2.0)
    )
    expected = [[text.decode() for text in row] for row in outputs["latex"].numpy()]
    assert [row[0] for row in expected] != [one.latex for one in reader.predict(images)]
    one = signatures["predict_images"](images=tf.constant(images))["latex"].numpy()
    assert [text.decode() for text in one] == [row[0] for row in expected]
    for wide in (im2latex.Reader(tmp_path / "model"), ImageReader(tmp_path / "model")):
        for beam, count in [(None, 1), (Beam(2), 2), (Beam(3), 3), (Beam(3, 2.0), 3)]:
            actual = [[one.latex for one in answer] for answer in wide.read_each(images, beam)]  # type: ignore[union-attr]
            assert actual == [row[:count] for row in expected]
        greedy = [answer[0].latex for answer in wide.read_each(images, Beam(1, 0.0))]  # type: ignore[index]
        assert greedy == [one.latex for one in reader.predict(images)]


def test_doubtful_pictures_are_read_again_in_several_sizes_together(
    model: Path, reader: im2latex.Reader, images: list[bytes], tmp_path: Path
) -> None:
    plain, scales, width = read_exported(model), (0.8, 1.3), 3
    keras_model = model_of(plain)
    first = [np.exp(reading.alternatives[0].log_probability) for reading in reader.predict(images, alternatives=width)]
    limit = float(np.mean(first))

    def searched(image: bytes, sizes: Sequence[float], width: int) -> dict[str, float]:
        """Returns the log-probability of each formula that the Keras model finds in a picture."""
        normalised = reader.normalise(image)
        assert normalised is not None
        views = [normalised, *(rescale(normalised, scale, plain.image) for scale in sizes)]
        shapes = np.array([view.shape for view in views], np.int32)
        padded = np.full((len(views), *(-(-shapes.max(axis=0) // STRIDE) * STRIDE), 1), WHITE, np.uint8)
        for view, into in zip(views, padded, strict=True):
            into[: view.shape[0], : view.shape[1], 0] = view
        decoded = search(keras_model, padded, shapes, plain.max_tokens, width, 2.0, len(views), plain.vocabulary)
        texts = [" ".join(plain.vocabulary[token] for token in row if token) for row in np.array(decoded.tokens)[0]]
        return dict(zip(texts, np.array(decoded.log_probability)[0].tolist(), strict=True))

    decoding = DecodingConfig(beam_width=width, length_penalty=2.0, rescale_below=limit, rescales=scales)
    save_model(plain._replace(decoding=decoding, calibration=Calibration(1.0, 0.0, 0.8, -0.3)), tmp_path / "model")
    rereading = im2latex.Reader(tmp_path / "model")
    again = [searched(image, scales, width) for image in images]
    # A search for one formula is greedy at first.
    for beam, wanted in ((Beam(width), width), (None, 1)):
        once = [searched(image, (), wanted) for image in images]
        doubtful = [np.exp(next(iter(of_picture.values()))) < limit for of_picture in once]
        assert 0 < sum(doubtful) < len(doubtful)
        expected = [of_views if is_doubtful else of_picture
                    for of_picture, of_views, is_doubtful in zip(once, again, doubtful, strict=True)]  # fmt: skip
        for tested in (rereading, ImageReader(tmp_path / "model")):
            for several, of_picture in zip(tested.read_each(images, beam), expected, strict=True):
                assert [one.latex for one in several] == list(of_picture)[:wanted]  # type: ignore[union-attr]
                log_probabilities = [one.log_probability for one in several]  # type: ignore[union-attr]
                np.testing.assert_allclose(log_probabilities, [*of_picture.values()][:wanted], rtol=0, atol=2e-3)
                probabilities = np.array([one.probability for one in several])  # type: ignore[union-attr]
                odds = np.exp(log_probabilities) / -np.expm1(log_probabilities)
                np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(0.3) * odds**-0.8), atol=2e-3)
    # The attention is that of the picture in its own size.
    for image, of_picture in zip(images, expected, strict=True):
        attention = rereading.predict(image, attention=True).attention
        assert attention is not None and len(attention.weights) == len(next(iter(of_picture)).split())
        np.testing.assert_array_equal(attention.image, reader.normalise(image))


def test_a_model_that_cannot_search_encoded_images_reads_each_picture_once(
    model: Path, images: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = read_exported(model)._replace(decoding=DecodingConfig(rescale_below=1.0, rescales=(0.8, 1.3)))
    (tmp_path / "new.onnx").write_bytes(onnx_of(trained))
    add_input, add_output = OnnxGraph.input, OnnxGraph.output
    constants = {
        "views": np.array(1), "search": np.array(True), "known_fine": np.zeros((0, 0, 0, 0), np.float32),
    }  # fmt: skip

    def old_input(graph: OnnxGraph, name: str, *of_input: Any) -> str:
        return graph.constant(constants[name]) if name in constants else add_input(graph, name, *of_input)

    def old_output(graph: OnnxGraph, value: str, dtype: str, name: str = "", shape: Any = None) -> None:
        if name != "fine_cells":
            add_output(graph, value, dtype, name, shape)

    monkeypatch.setattr(OnnxGraph, "input", old_input)
    monkeypatch.setattr(OnnxGraph, "output", old_output)
    (tmp_path / "old.onnx").write_bytes(onnx_of(trained))
    once, *others = ([one.latex for one in im2latex.Reader(file).predict(images)] for file in (
        tmp_path / "old.onnx", model, tmp_path / "new.onnx"
    ))  # fmt: skip
    assert once == others[0] != others[1]


def test_the_packaged_model_gives_the_same_results_as_its_saved_model(tmp_path: Path) -> None:
    drawn = [draw_png(formula, em=11) for formula in formulas(8, seed=5, level="standard", max_tokens=30)]
    save_model(shipped.load(), tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    expected = loaded.signatures["predict_images"](images=tf.constant(drawn))
    readings = im2latex.predict(drawn)
    assert [one.latex.encode() for one in readings] == expected["latex"].numpy().tolist()
    actual = [one.alternatives[0].log_probability for one in readings]
    np.testing.assert_allclose(actual, expected["log_probability"], rtol=0, atol=1e-3)
    assert im2latex.Reader(tmp_path / "model").predict(drawn[0]).latex == readings[0].latex


def test_a_picture_may_be_a_path_bytes_an_image_or_an_array(
    reader: im2latex.Reader, images: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "formula.png").write_bytes(images[0])
    image = Image.open(io.BytesIO(images[0])).convert("L")
    pixels = np.asarray(image)
    expected = reader.predict(images[0])
    several = [
        str(tmp_path / "formula.png"), tmp_path / "formula.png", images[0], image, image.convert("RGBA"), pixels,
        pixels[..., np.newaxis], np.stack([pixels] * 3, axis=2),
    ]  # fmt: skip
    for picture in several:
        assert reader.predict(picture) == expected
    assert reader.predict(several) == [expected] * len(several) == reader.predict(tuple(several))
    assert reader.predict([]) == []


def test_a_rotated_photo_is_read_upright(reader: im2latex.Reader, images: list[bytes]) -> None:
    upright = Image.open(io.BytesIO(images[0])).convert("L")
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6
    assert reader.predict(turned) == reader.predict(upright)


def test_an_invalid_picture_is_a_user_error(reader: im2latex.Reader, images: list[bytes]) -> None:
    for wrong, sentence in [
        (b"no picture", "the image is damaged, or of another format"),
        (b"", "the image is empty"),
        (images[0][:-30], "the image is damaged"),
        (np.zeros((20, 20)), r"the image is an array of float64 and shape \(20, 20\); give uint8"),
        (np.zeros((20, 20, 7), np.uint8), "the image is an array of uint8"),
        (np.zeros((0, 5), np.uint8), "the image is an array"),
    ]:
        with pytest.raises(im2latex.ImageError, match=sentence):
            reader.predict(wrong)
    with pytest.raises(FileNotFoundError):
        reader.predict("nowhere.png")
    with pytest.raises(ValueError, match="alternatives is 0"):
        reader.predict(images[0], alternatives=0)
    answers = reader.read_each([b"no picture", images[0]], Beam(2))
    assert isinstance(answers[0], im2latex.ImageError) and not isinstance(answers[1], im2latex.ImageError)


def test_a_blank_picture_has_no_formula(reader: im2latex.Reader) -> None:
    blank = reader.predict(np.full((20, 60), 250, np.uint8), alternatives=3, attention=True)
    assert (blank.latex, blank.clean, blank.probability, blank.is_blank) == ("", "", 0.0, True)
    assert len(blank.alternatives) == 1 and blank.attention is None


def test_attention_is_a_map_over_the_picture_for_each_token(reader: im2latex.Reader, images: list[bytes]) -> None:
    for alternatives in (1, 4):
        for reading in reader.predict(images, alternatives=alternatives, attention=True):
            assert reading.attention is not None
            weights, cell, image = reading.attention
            rows, columns = (-(-side // cell) for side in image.shape)
            assert weights.shape == (len(reading.latex.split()), rows, columns)
            np.testing.assert_allclose(weights.sum(axis=(1, 2)), 1, atol=1e-4)
    plain = reader.predict(images[0], attention=True).attention
    alone = reader.predict(images[0], alternatives=1, attention=True).attention
    assert plain is not None and alone is not None
    np.testing.assert_array_equal(plain.weights, alone.weights)


def test_threads_may_share_a_reader(reader: im2latex.Reader, images: list[bytes]) -> None:
    expected = [reader.predict(image) for image in images]
    readings: dict[int, list[im2latex.Reading]] = {}

    def read(number: int) -> None:
        readings[number] = [reader.predict(image) for image in images * 3]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert readings == dict.fromkeys(range(4), expected * 3)


def test_a_model_may_be_a_file_of_weights_or_of_onnx_or_a_folder(
    model: Path, reader: im2latex.Reader, images: list[bytes], tmp_path: Path
) -> None:
    expected = reader.predict(images)
    save_weights(tmp_path / "weights.npz", read_exported(model))
    for named in (tmp_path, tmp_path / "weights.npz", str(model), model / "assets.extra" / "model.onnx"):
        assert im2latex.Reader(named).predict(images) == expected
    (tmp_path / "torn.onnx").write_bytes((model / "assets.extra" / "model.onnx").read_bytes()[:-500])
    (tmp_path / "torn.npz").write_bytes((tmp_path / "weights.npz").read_bytes()[:-500])
    (tmp_path / "empty").mkdir()
    for name, sentence in [
        ("torn.onnx", r"is not a valid model \(\w+\); name another one"),
        ("torn.npz", r"is damaged, or was written by another version \(\w+\); name other weights"),
        ("empty", "has neither assets.extra/model.onnx nor weights.npz"),
        ("absent", "there is no model .*absent; name a folder or a file"),
    ]:
        with pytest.raises(im2latex.UserError, match=sentence):
            im2latex.Reader(tmp_path / name)


def test_it_imports_neither_tensorflow_nor_the_pipeline(model: Path, images: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "formula.png").write_bytes(images[0])
    code = (
        "import sys, im2latex; first = set(sys.modules);"
        f"im2latex.Reader({str(model)!r}).predict({str(tmp_path / 'formula.png')!r});"
        "import json; print(json.dumps([sorted(first), sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, after = (set(names) for names in json.loads(done.stdout))
    assert not {"numpy", "PIL", "onnxruntime"} & first
    assert not {"tensorflow", "keras", "pydantic", "typer", "data", "trainer_module", "components", "pipeline"} & after


def test_an_output_that_is_full_or_closed_is_a_user_error(model: Path, images: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "formula.png").write_bytes(images[0])
    command = [sys.executable, "-m", "im2latex", "predict", str(tmp_path / "formula.png"), "--model", str(model)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    sentence = "im2latex: the result cannot be written to standard output"
    assert (done.returncode, done.stderr) == (1, f"{sentence} (No space left on device)\n")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, f"{sentence} (Broken pipe)\n")


def test_the_command_predicts_without_tensorflow_and_pipeline(model: Path, images: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "formula.png").write_bytes(images[0])
    code = (
        f"import sys; sys.argv[1:] = ['predict', {str(tmp_path / 'formula.png')!r}];"
        "import atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
        "from im2latex.cli import main; main()"
    )
    home = tmp_path / "home"
    (home / "serving" / "im2latex").mkdir(parents=True)
    (home / "serving" / "im2latex" / "7").symlink_to(model)
    environment = {**os.environ, "IM2LATEX_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout == f"{im2latex.Reader(model).predict(images[0]).latex}\n"
    message, modules = done.stderr.splitlines()
    assert message.startswith("model: im2latex 7 (")
    assert not {"tensorflow", "keras", "typer", "pipeline", "components"} & set(modules.split())
