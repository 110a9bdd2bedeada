from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from im2latex.errors import UserError
from trainer_module import features
from trainer_module.batching import collate
from trainer_module.config.image import ImageConfig
from trainer_module.config.model import ModelConfig
from trainer_module.decoding import search
from trainer_module.examples import Example
from trainer_module.image_graph import normalise_image
from trainer_module.signatures import FormulaReader, read_exported
from trainer_module.trained import Trained
from trainer_module.trainer import TransformedImages
from trainer_module.weights import model_of, new_model, weights_of

MAX_TOKENS = 9
VARIANTS = {
    "image2latex-tf2": {},
    "paper": {
        "hidden_recurrence": True,
        "row_embedding": True,
        "normalisation": "before_relu",
        "dropout": 0.3,
        "attention": "hierarchical",
    },
}


def png(image: Image.Image, file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, file_format)
    return file.getvalue()


def on_paper(image: bytes, left: int, top: int) -> Image.Image:
    """Pastes the image onto a larger white background."""
    ink = Image.open(io.BytesIO(image))
    sheet = Image.new("L", (ink.width + 3 * left, ink.height + 2 * top), "white")
    sheet.paste(ink, (left, top))
    return sheet


def transparent(image: bytes) -> Image.Image:
    """Returns the same ink in black on a transparent background."""
    grey = Image.open(io.BytesIO(image)).convert("L")
    return Image.merge("LA", (Image.new("L", grey.size, 0), grey.point(lambda level: 255 - level)))


def example(image: bytes, **more: bytes) -> bytes:
    values = {"image": image, **more}
    feature_protos = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in values.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=feature_protos)).SerializeToString()


class Exported:
    """A model, and the folder of its SavedModel."""

    def __init__(self, variant, transform, transformed, folder):
        self.vocabulary = features.read_vocabulary(transform)
        self.image = ImageConfig(**transformed.config["image"])
        keras.utils.set_random_seed(2)
        config = ModelConfig(filters=(4, 4, 6, 6, 8, 8), decoder_units=16, embedding_units=8, **variant)
        self.model = new_model(config, self.image, self.vocabulary)
        rng = np.random.default_rng(4)
        for weight in self.model.trainable_weights:
            weight.assign(
                rng.normal(0, 0.8, weight.shape)
            )  # sharper than at the start: different images, different answers
        self.folder = str(folder)
        self.trained = Trained(config, self.image, self.vocabulary, MAX_TOKENS, weights_of(self.model))
        FormulaReader(self.trained, TransformedImages(transform)).save(self.folder)
        self.signatures = tf.saved_model.load(self.folder).signatures

    def read(self, images: list[bytes]) -> tuple[list[str], np.ndarray]:
        got = self.signatures["predict_images"](images=tf.constant(images, tf.string, (len(images),)))
        return [latex.decode() for latex in got["latex"].numpy()], got["log_probability"].numpy()

    def read_by_hand(self, images: list[bytes], width: int = 1, length_penalty: float = 0.0):
        """Returns the texts, log-probabilities and scores, each (batch, width)."""
        normalised = [normalise_image(tf.constant(image), self.image).numpy()[:, :, 0] for image in images]
        nothing = np.array([], np.int32)
        batch = collate([Example(png(Image.fromarray(image)), *image.shape, nothing) for image in normalised])
        inputs = batch.inputs["image"], batch.inputs["size"]
        decoded = search(self.model, *inputs, MAX_TOKENS, width, length_penalty, vocabulary=self.vocabulary)
        latex = [
            [" ".join(self.vocabulary[token] for token in row if token) for row in hypotheses]
            for hypotheses in decoded.tokens.numpy()
        ]
        return latex, decoded.log_probability.numpy(), decoded.score.numpy()


@pytest.fixture(scope="module", params=VARIANTS)
def exported(request, transform, transformed, tmp_path_factory) -> Exported:
    return Exported(VARIANTS[request.param], transform, transformed, tmp_path_factory.mktemp("model"))


@pytest.fixture
def images(transformed) -> list[bytes]:
    """Images of four sizes, one of them scaled down by the normalisation."""
    first, second, third, fourth = transformed.images[:4]
    wide = Image.open(io.BytesIO(third))
    return [
        first,
        png(on_paper(second, 50, 7)),
        png(wide.resize((wide.width * 5, wide.height * 5))),
        png(on_paper(fourth, 3, 90), "JPEG"),
        png(transparent(first)),
    ]


def test_images_give_the_same_results_as_the_separate_steps(exported, images):
    latex, log_probability = exported.read(images)
    expected, expected_log_probability, _ = exported.read_by_hand(images)
    assert [[text] for text in latex] == expected
    np.testing.assert_allclose(log_probability[:, None], expected_log_probability, atol=1e-4)
    assert len(set(latex)) >= 3
    assert all(1 <= len(tokens.split(" ")) <= MAX_TOKENS for tokens in latex)


@pytest.mark.parametrize(("width", "length_penalty"), [(1, 0.0), (4, 0.0), (4, 1.5)])
def test_alternatives_are_those_of_beam_search(exported, images, width, length_penalty):
    got = exported.signatures["predict_alternatives"](
        images=tf.constant(images), width=tf.constant(width), length_penalty=tf.constant(length_penalty)
    )
    expected, log_probability, score = exported.read_by_hand(images, width, length_penalty)
    assert [[text.decode() for text in row] for row in got["latex"].numpy()] == expected
    np.testing.assert_allclose(got["log_probability"], log_probability, atol=1e-4)
    np.testing.assert_allclose(got["score"], score, atol=1e-4)
    assert all(len(set(row)) == width for row in expected)


def test_a_beam_of_width_zero_is_refused(exported, images):
    with pytest.raises(tf.errors.InvalidArgumentError, match="width has to be at least 1"):
        exported.signatures["predict_alternatives"](
            images=tf.constant(images), width=tf.constant(0), length_penalty=tf.constant(0.0)
        )


def test_an_exported_model_can_be_loaded_again(exported):
    trained = read_exported(exported.folder)
    assert trained[:4] == exported.trained[:4]
    for name, value in exported.trained.weights.items():
        np.testing.assert_array_equal(trained.weights[name], value)
    for variable, value in zip(model_of(trained).weights, exported.model.weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value.numpy())


@pytest.mark.parametrize("damage", ["absent", "no description", "no weights"])
def test_a_folder_without_an_exported_model_is_a_user_error(exported, tmp_path, damage):
    if damage != "absent":
        shutil.copytree(exported.folder, tmp_path, dirs_exist_ok=True)
        part = {"no description": "assets.extra", "no weights": "variables"}[damage]
        shutil.rmtree(tmp_path / part)
    with pytest.raises(UserError, match=f"{tmp_path} is not a model that this pipeline exported"):
        read_exported(tmp_path)


def test_an_image_is_read_alone_as_in_a_batch(exported, images):
    latex, log_probability = exported.read(images)
    for i, image in enumerate(images):
        alone, alone_log_probability = exported.read([image])
        assert alone == latex[i : i + 1]
        np.testing.assert_allclose(alone_log_probability, log_probability[i : i + 1], atol=1e-4)


def test_border_and_transparency_change_nothing(exported, images, transformed):
    one, *others = exported.read([transformed.images[0], png(on_paper(transformed.images[0], 31, 17)), images[4]])[0]
    assert others == [one, one]


def test_a_blank_image_gives_an_empty_formula_with_probability_1(exported, images):
    # White, grey, and noise of paper are blank; a dot is ink.
    noise = np.random.default_rng(1).integers(240, 256, (30, 50)).astype(np.uint8)
    blank = [
        png(image) for image in (Image.new("L", (40, 20), 255), Image.new("RGB", (9, 9), 90), Image.fromarray(noise))
    ]
    dot = Image.new("L", (9, 9), 255)
    dot.putpixel((4, 4), 0)
    for batch, indices in ((blank[:1], [0]), ([images[0], *blank, png(dot)], [1, 2, 3])):
        latex, log_probability = exported.read(batch)
        assert [i for i, text in enumerate(latex) if not text] == indices
        assert [i for i, value in enumerate(log_probability) if value == 0] == indices
        got = exported.signatures["predict_alternatives"](
            images=tf.constant(batch), width=tf.constant(3), length_penalty=tf.constant(0.5)
        )
        for index in indices:
            assert got["latex"][index].numpy().tolist() == [b"", b"", b""]
            for name in ("log_probability", "score"):
                assert got[name][index].numpy().tolist() == [0.0, -math.inf, -math.inf]
            assert not got["probability"][index].numpy().any() and not got["token_probability"][index].numpy().any()
    assert exported.read([images[0], *blank])[0][0] == exported.read(images[:1])[0][0]


def test_examples_may_contain_further_features(exported, images):
    records = [example(image, latex=b"a + b", name=b"somewhere", size=b"large") for image in images]
    records[1] = example(images[1])
    got = exported.signatures["serving_default"](examples=tf.constant(records))
    latex, log_probability = exported.read(images)
    assert [text.decode() for text in got["latex"].numpy()] == latex
    np.testing.assert_allclose(got["log_probability"], log_probability, atol=1e-4)


def test_an_empty_batch_is_answered(exported):
    assert exported.read([])[0] == []
    got = exported.signatures["serving_default"](examples=tf.constant([], tf.string))
    assert got["latex"].shape == got["log_probability"].shape == (0,)


def test_signatures_have_named_and_typed_inputs_and_outputs(exported):
    for name, argument in {"serving_default": "examples", "predict_images": "images"}.items():
        signature = exported.signatures[name]
        assert signature.structured_input_signature == ((), {argument: tf.TensorSpec((None,), tf.string, argument)})
        outputs = {key: (spec.dtype, spec.shape.rank) for key, spec in signature.structured_outputs.items()}
        assert outputs == {
            "latex": (tf.string, 1), "log_probability": (tf.float32, 1), "probability": (tf.float32, 1),
            "token_probability": (tf.float32, 2),
        }  # fmt: skip


@pytest.mark.parametrize("encoded", [b"", b"no image"])
def test_bytes_that_are_not_an_image_are_refused(exported, images, encoded):
    with pytest.raises(tf.errors.InvalidArgumentError):
        exported.read([images[0], encoded])


VERSION_1 = """
import json, sys
import tensorflow as tf

folder, given = sys.argv[1:]
images = [bytes.fromhex(image) for image in json.loads(given)]
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    loaded = tf.compat.v1.saved_model.load(session, ["serve"], folder)
    signature = loaded.signature_def["predict_images"]
    outputs = [signature.outputs[name].name for name in ("latex", "log_probability")]
    latex, log_probability = session.run(outputs, {signature.inputs["images"].name: images})
assert not {"trainer_module", "data", "tensorflow_transform"} & set(sys.modules)
print(json.dumps([[text.decode() for text in latex], log_probability.tolist()]))
"""


@pytest.mark.integration
@pytest.mark.parametrize("exported", ["paper"], indirect=True)
def test_version_1_loaders_read_the_model_without_this_code(exported, images, tmp_path):
    arguments = [exported.folder, json.dumps([image.hex() for image in images])]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", VERSION_1, *arguments],
        cwd=tmp_path, env=environment, check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    latex, log_probability = json.loads(done.stdout.splitlines()[-1])
    expected, expected_log_probability = exported.read(images)
    assert latex == expected
    np.testing.assert_allclose(log_probability, expected_log_probability, atol=1e-4)
