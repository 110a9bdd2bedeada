from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import struct
import tarfile
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from pipeline.standalone import make_vocabulary
from trainer_module import features
from trainer_module.config.image import ImageConfig
from trainer_module.preprocessing import normalise_image, preprocessing_fn

SAMPLES = Path(os.environ.get("IM2LATEX_SAMPLES", Path(__file__).parents[3] / "shared"))

LIMITS = ImageConfig(max_height=32, max_width=48, border=3)
ROOMY = ImageConfig(max_height=1024, max_width=1024, border=2)

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def normaliser(config: ImageConfig):
    specs = [tf.TensorSpec([], tf.string)]
    graph = tf.function(lambda encoded: normalise_image(encoded, config), input_signature=specs, autograph=False)
    return lambda encoded: graph(tf.constant(encoded)).numpy()[:, :, 0]


normalise = normaliser(LIMITS)
normalise_roomy = normaliser(ROOMY)


def encode(pixels: np.ndarray | Image.Image, file_format: str = "PNG", **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def drawn(width: int, height: int, ink: tuple[int, int, int, int], mode: str = "L", paper="white", pen="black"):
    """A filled box with corners (left, top, right, bottom), the last two outside of it."""
    image = Image.new(mode, (width, height), paper)
    left, top, right, bottom = ink
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=pen)
    return image


def area_weights(source: int, target: int) -> np.ndarray:
    """(target, source): the share of each source pixel in each target pixel."""
    edges = np.linspace(0, source, target + 1)
    pixels = np.arange(source)
    shares = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(shares, 0, None) * target / source


def reference(encoded: bytes, config: ImageConfig) -> np.ndarray:
    """The same normalisation with Pillow and numpy."""
    image: Image.Image = Image.open(io.BytesIO(encoded))
    if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        opaque = image.getchannel("A").getbbox() is None
        canvas.paste(image.convert("RGB"), mask=None if opaque else image.getchannel("A"))
        image = canvas
    grey = np.array(image.convert("L")).astype(float)
    frame = sorted([*grey[0], *grey[-1], *grey[:, 0], *grey[:, -1]])
    background = frame[len(frame) // 2]
    if background < 128:
        grey, background = 255 - grey, 255 - background
    grey = np.minimum(np.floor(grey * 255 / background + 0.5), 255)

    def cropped(grey: np.ndarray) -> np.ndarray:
        darkness = 255 - grey
        box = Image.fromarray(darkness / max(darkness.max(), 128) > 0.1875).getbbox()
        if box is None:
            return np.full((1, 1), 255)
        return grey[box[1] : box[3], box[0] : box[2]]

    grey = cropped(grey)
    height, width = grey.shape
    scale = min(1, (config.max_height - 2 * config.border) / height, (config.max_width - 2 * config.border) / width)
    if scale < 1:
        rows = area_weights(height, max(1, round(height * scale)))
        columns = area_weights(width, max(1, round(width * scale)))
        grey = cropped(np.rint(rows @ grey @ columns.T))
    return np.pad(grey, config.border, constant_values=255)


def pixels(*channels: int, side: int = 24):
    return st.tuples(st.integers(1, side), st.integers(1, side)).flatmap(
        lambda size: hnp.arrays(np.uint8, (*size, *channels), elements=st.sampled_from([0, 1, 40, 128, 200, 254, 255]))
    )


@CALM
@example(np.array([[1, 0, 0]], np.uint8))  # blank but for noise
@given(st.one_of(pixels(), pixels(2), pixels(3), pixels(4)))
def test_any_png_gives_what_pillow_gives(array):
    mode = "L" if array.ndim == 2 else {2: "LA", 3: "RGB", 4: "RGBA"}[array.shape[2]]
    encoded = encode(Image.frombytes(mode, array.shape[1::-1], array.tobytes()))
    np.testing.assert_array_equal(normalise_roomy(encoded), reference(encoded, ROOMY))


@CALM
@given(pixels(side=24), st.sampled_from(["P", "1", "BMP", "BMP RGB", "GIF"]))
def test_palettes_bitmaps_and_gifs_give_what_pillow_gives(array, kind):
    image = Image.fromarray(array)
    if kind in ("P", "1"):
        encoded = encode(image.convert("RGB").quantize(4) if kind == "P" else image.convert("1"))
    elif kind == "BMP RGB":
        encoded = encode(image.convert("RGB"), "BMP")
    else:
        encoded = encode(image, kind)
    np.testing.assert_array_equal(normalise_roomy(encoded), reference(encoded, ROOMY))


@CALM
@given(pixels(side=70), st.integers(1, 30))
def test_a_normalised_image_stays_as_it_is(array, repeat):
    once = normalise(encode(np.repeat(array, repeat, axis=1)))
    assert once.shape[0] <= LIMITS.max_height
    assert once.shape[1] <= LIMITS.max_width
    np.testing.assert_array_equal(normalise(encode(once)), once)


@pytest.mark.parametrize(("width", "height"), [(97, 41), (300, 30), (30, 300), (1000, 1), (1, 1000), (49, 20)])
def test_scaling_down_is_the_mean_over_areas(width, height):
    rng = np.random.default_rng(width * height)
    # A dark outline, so that the ink's edges are never in doubt.
    array = rng.integers(0, 256, (height, width), dtype=np.uint8)
    array[[0, -1]] = 0
    array[:, [0, -1]] = 0
    encoded = encode(np.pad(array, 5, constant_values=255))
    got, expected = normalise(encoded), reference(encoded, LIMITS)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1
    assert got.shape[0] == LIMITS.max_height or got.shape[1] == LIMITS.max_width


def test_ink_is_cropped_and_bordered_to_the_pixel():
    got = normalise(encode(drawn(200, 100, (50, 20, 60, 24))))
    assert got.shape == (4 + 2 * 3, 10 + 2 * 3)
    assert (got[3:-3, 3:-3] == 0).all()
    assert got.sum() == 255 * (10 * 16 - 4 * 10)


@pytest.mark.parametrize(
    "image",
    [
        drawn(60, 40, (20, 10, 30, 20), paper="black", pen="white"),
        drawn(60, 40, (20, 10, 30, 20), "RGB", paper=(250, 250, 240), pen="black"),
        drawn(60, 40, (20, 10, 30, 20), "RGBA", paper=(0, 0, 0, 0), pen=(0, 0, 0, 255)),
        drawn(60, 40, (20, 10, 30, 20), "LA", paper=(255, 0), pen=(0, 255)),
    ],
)
def test_any_background_becomes_white(image):
    expected = normalise(encode(drawn(60, 40, (20, 10, 30, 20))))
    np.testing.assert_array_equal(normalise(encode(image)), expected)


def test_light_grey_ink_is_kept():
    assert normalise(encode(drawn(60, 40, (20, 10, 30, 20), pen=200))).shape == (16, 16)


def test_a_faint_hairline_is_ink():
    image = drawn(60, 40, (20, 15, 30, 20))
    ImageDraw.Draw(image).line((20, 10, 29, 10), fill=175)
    assert normalise(encode(image)).shape == (10 + 6, 10 + 6)


@pytest.mark.parametrize("quality", [75, 90])
def test_jpeg_artefacts_are_not_ink(quality):
    image = drawn(120, 80, (36, 27, 61, 45))
    got = normalise_roomy(encode(image, "JPEG", quality=quality))
    expected = normalise_roomy(encode(image))
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).mean() < 8


def test_sixteen_bit_png_is_read():
    array = np.full((20, 30), 65535, np.uint16)
    array[5:9, 10:20] = 0x8000
    got = normalise(encode(Image.fromarray(array)))
    assert got.shape == (10, 16)
    assert (got[3:-3, 3:-3] == 128).all()


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (50, 30), 255),
        Image.new("L", (50, 30), 0),
        Image.new("L", (1, 1), 90),
        Image.new("RGBA", (9, 9)),
    ],
)
def test_a_blank_image_is_its_border(image):
    got = normalise(encode(image))
    assert got.shape == (7, 7)
    assert (got == 255).all()


def test_unused_alpha_of_a_32_bit_bitmap_is_no_transparency():
    image = drawn(60, 40, (20, 10, 30, 20), "RGBA", paper=(255, 255, 255, 0), pen=(0, 0, 0, 0))
    file_header = struct.pack("<2sIII", b"BM", 54 + 60 * 40 * 4, 0, 54)
    header = file_header + struct.pack("<IiiHHIIiiII", 40, *image.size, 1, 32, *[0] * 6)
    bottom_up = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    np.testing.assert_array_equal(normalise(header + bottom_up.tobytes()), normalise(encode(image.convert("RGB"))))


def test_the_first_frame_of_an_animation_is_read():
    frames = [drawn(60, 40, (20, 10, 30, 20)), drawn(60, 40, (1, 1, 50, 30))]
    encoded = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert normalise(encoded).shape == (16, 16)


@pytest.mark.parametrize("encoded", [b"", b"no image", encode(drawn(60, 40, (20, 10, 30, 20)))[:60]])
def test_what_is_no_image_is_refused(encoded):
    with pytest.raises(tf.errors.InvalidArgumentError):
        normalise(encoded)


def test_version_1_loaders_read_the_graph(tmp_path):
    module = tf.Module()
    module.normalise = tf.function(lambda image: {"pixels": normalise_image(image, LIMITS)})
    signature = module.normalise.get_concrete_function(tf.TensorSpec([], tf.string, "image"))
    tf.saved_model.save(module, str(tmp_path), signatures=signature)
    encoded = encode(drawn(300, 60, (5, 5, 295, 55), "RGBA"))
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
        signature = loaded.signature_def["serving_default"]
        got = session.run(signature.outputs["pixels"].name, {signature.inputs["image"].name: encoded})
    np.testing.assert_array_equal(got[:, :, 0], normalise(encoded))


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
    """The records of FORMULAS after Transform, in any order, and Transform's output."""
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


def test_analysis_reads_no_image():
    specs = {name: tf.TensorSpec([None], tf.string) for name in (features.IMAGE, features.LATEX, features.NAME)}
    columns = tft.get_analyze_input_columns(lambda inputs: preprocessing_fn(inputs, CUSTOM_CONFIG), specs)
    assert columns == [features.LATEX]


def test_real_images_stay_small_and_whole():
    archive = SAMPLES / "im2latex-100k" / "formula_images_processed.tar.gz"
    if not archive.exists():
        pytest.skip(f"{archive} is missing; IM2LATEX_SAMPLES names the folder with im2latex-100k in it")
    with tarfile.open(archive) as tar:
        # The first of the archive: reading on to random ones would take the whole archive.
        files = [tar.extractfile(member) for member in itertools.islice(tar, 500)]
        encoded = [file.read() for file in files if file is not None]
    config = ImageConfig()

    custom_config = {"config": json.dumps({"image": {}, "vocabulary": {}})}
    with tf.Graph().as_default() as graph:
        # The images' part of the graph needs nothing of the analysis, so it can be run without.
        placeholder = tf.compat.v1.placeholder(tf.string, [None])
        images = preprocessing_fn({features.IMAGE: placeholder, features.LATEX: placeholder}, custom_config)["image"]
        with tf.compat.v1.Session(graph=graph) as session:
            normalised = session.run(images, {placeholder: encoded})
    assert sum(map(len, normalised)) <= 1.3 * sum(map(len, encoded))
    for before, after in zip(encoded[:100], normalised, strict=False):
        got, expected = np.array(Image.open(io.BytesIO(after))), reference(before, config)
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 1
