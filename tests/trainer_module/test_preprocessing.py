from __future__ import annotations

import io
import json
import pickle

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from PIL import Image, ImageDraw
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from pipeline.standalone.examples import make_vocabulary
from trainer_module import features
from trainer_module.config.image import ImageConfig
from trainer_module.image_graph import normalise_image
from trainer_module.preprocessing import preprocessing_fn

LIMITS = ImageConfig(max_height=32, max_width=48, border=3)


def normaliser(config: ImageConfig):
    specs = [tf.TensorSpec([], tf.string)]
    graph = tf.function(lambda encoded: normalise_image(encoded, config), input_signature=specs, autograph=False)
    return lambda encoded: graph(tf.constant(encoded)).numpy()[:, :, 0]


normalise = normaliser(LIMITS)


def encode(pixels: np.ndarray | Image.Image, file_format: str = "PNG", **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def drawn(width: int, height: int, ink: tuple[int, int, int, int], mode: str = "L", paper="white", pen="black"):
    """Draws a filled box (left, top, right, bottom); right and bottom are exclusive."""
    image = Image.new(mode, (width, height), paper)
    left, top, right, bottom = ink
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=pen)
    return image


# --- preprocessing_fn in Transform -----------------------------------------------------------

CUSTOM_CONFIG = {
    "config": json.dumps(
        {
            "image": {"max_height": 32, "max_width": 48, "border": 3},
            "vocabulary": {"min_count": 2},
        }
    )
}
RAW = dataset_metadata.DatasetMetadata(
    schema_utils.schema_from_feature_spec(
        {name: tf.io.FixedLenFeature([], tf.string) for name in (features.IMAGE, features.LATEX, features.NAME)}
    )
)
FORMULAS = ["x ^ { 2 }", r"x + \alpha", "x _ { x } 2 b b a a"]


def record(latex: str, image: Image.Image) -> dict[str, bytes]:
    return {"image": encode(image), "latex": latex.encode(), "name": b"somewhere"}


@pytest.fixture(scope="module")
def transform(tmp_path_factory) -> tuple[list[dict], tft.TFTransformOutput]:
    """Runs Transform on FORMULAS; returns the transformed records, in any order, and Transform's output."""
    folder = tmp_path_factory.mktemp("transform")
    records = [record(latex, drawn(90, 40, (10, 5, 20 + i, 15))) for i, latex in enumerate(FORMULAS)]
    # The in-memory runner by name: newer versions of Beam's default download another one.
    with beam.Pipeline(runner="FnApiRunner") as pipeline, tft_beam.Context(temp_dir=str(folder / "tmp")):
        (data, _), transform_fn = (pipeline | beam.Create(records), RAW) | tft_beam.AnalyzeAndTransformDataset(
            lambda inputs: preprocessing_fn(inputs, CUSTOM_CONFIG)
        )
        data | beam.Map(pickle.dumps) | beam.io.WriteToTFRecord(str(folder / "data"), shard_name_template="")
        transform_fn | tft_beam.WriteTransformFn(str(folder / "output"))
    data = [pickle.loads(line.numpy()) for line in tf.data.TFRecordDataset(str(folder / "data"))]
    return data, tft.TFTransformOutput(str(folder / "output"))


def test_vocabulary_has_frequent_tokens_first_and_ties_in_a_fixed_order(transform):
    # x four times; 2, {, }, b and a twice, the last in the order of bytes first; ^, _, + and \alpha once, so left out.
    assert features.read_vocabulary(transform[1]) == [*features.SPECIAL_TEXTS, "x", "}", "{", "b", "a", "2"]


def test_a_training_without_transform_makes_the_same_vocabulary(transform):
    assert make_vocabulary(FORMULAS, 2) == features.read_vocabulary(transform[1])


def test_tokens_become_ids_without_start_and_end(transform):
    tokens = sorted(row["tokens"].tolist() for row in transform[0])
    assert tokens == [[4, 3, 3], [4, 3, 6, 4, 5, 9, 7, 7, 8, 8], [4, 3, 6, 9, 5]]


def test_images_become_small_grey_png_with_their_size(transform):
    assert sorted(row["width"] for row in transform[0]) == [16, 17, 18]
    for row in transform[0]:
        image = Image.open(io.BytesIO(row["image"]))
        assert (image.format, image.mode, image.size) == ("PNG", "L", (row["width"], row["height"]))
        np.testing.assert_array_equal(np.array(image)[3:-3, 3:-3], 0)


def test_output_is_dense_but_for_the_tokens(transform):
    spec = transform[1].transformed_feature_spec()
    assert spec == {
        "image": tf.io.FixedLenFeature([], tf.string),
        "height": tf.io.FixedLenFeature([], tf.int64),
        "width": tf.io.FixedLenFeature([], tf.int64),
        "tokens": tf.io.VarLenFeature(tf.int64),
    }


def test_the_saved_graph_does_the_same_to_new_records(transform):
    images = [drawn(300, 30, (5, 5, 295, 25)), drawn(60, 40, (20, 10, 30, 20), "RGB", paper="black", pen="white")]
    records = [record(latex, image) for latex, image in zip(["", "2 x \\never b"], images, strict=True)]
    raw = {name: tf.constant([row[name] for row in records]) for name in records[0]}
    got = transform[1].transform_features_layer()(raw)
    tokens = tf.sparse.to_dense(got["tokens"], default_value=features.PAD)
    assert tokens.numpy().tolist() == [[0, 0, 0, 0], [9, 4, 3, 7]]
    for i, row in enumerate(records):
        pixels = np.array(Image.open(io.BytesIO(got["image"][i].numpy())))
        np.testing.assert_array_equal(pixels, normalise(row["image"]))
        assert pixels.shape == (got["height"][i], got["width"][i])


def test_analysis_does_not_read_images():
    specs = {name: tf.TensorSpec([None], tf.string) for name in (features.IMAGE, features.LATEX, features.NAME)}
    columns = tft.get_analyze_input_columns(lambda inputs: preprocessing_fn(inputs, CUSTOM_CONFIG), specs)
    assert columns == [features.LATEX]
