from __future__ import annotations

import functools
import io
import itertools
import os
import struct
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw, ImageFilter

from data.pictures.synthetic import draw_png, formulas
from im2latex.images import normalise, rescale
from trainer_module.config.image import ImageConfig
from trainer_module.image_graph import normalise_image
from trainer_module.image_graph import rescale as rescale_graph

SAMPLES = Path(os.environ.get("IM2LATEX_SAMPLES", Path(__file__).parents[3] / "shared"))

LIMITS = ImageConfig(max_height=32, max_width=48, border=3)
ROOMY = ImageConfig(max_height=512, max_width=1024, border=2)
SIZED = ImageConfig(max_height=512, max_width=1024, border=2, glyph_size=16)
NO_BORDER = ImageConfig(max_height=24, max_width=48, border=0)

CALM = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
# An em of 17 pixels.
DRAWN = [Image.open(io.BytesIO(draw_png(formula, em=17))) for formula in formulas(8, seed=5, level="full")]


def encode(image: Image.Image | np.ndarray, file_format: str = "PNG", **options) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@functools.cache
def graph(config: ImageConfig):
    specs = [tf.TensorSpec([], tf.string)]
    traced = tf.function(lambda encoded: normalise_image(encoded, config), input_signature=specs, autograph=False)
    return lambda encoded: traced(encoded).numpy()[:, :, 0]


def both(encoded: bytes, config: ImageConfig) -> np.ndarray:
    """Normalises an image with both implementations, checks that they agree, and returns the result."""
    got, expected = normalise(encoded, config), graph(config)(encoded)
    assert got.dtype == expected.dtype == np.uint8
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= 2
    return got


def levels_apart(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the mean difference of two images in grey levels; infinity if their sizes differ."""
    return float(np.abs(a.astype(float) - b).mean()) if a.shape == b.shape else np.inf


def inked(image: np.ndarray) -> float:
    """Returns the amount of ink, in black pixels."""
    return float((255 - image.astype(float)).sum() / 255)


def is_like(got: np.ndarray, expected: np.ndarray, share: float) -> bool:
    """Returns whether two images have the same size, within two pixels, and the same amount of ink, within a share."""
    sizes = np.abs(np.array(got.shape) - expected.shape).max() <= 2
    return bool(sizes and abs(inked(got) - inked(expected)) <= share * inked(expected))


def bordered(image: Image.Image) -> Image.Image:
    sheet = Image.new("L", (image.width + 41, image.height + 23), 255)
    sheet.paste(image, (30, 5))
    return sheet


def coloured(image: Image.Image, ink=(130, 10, 60), paper=(250, 240, 215)) -> Image.Image:
    channels = (
        image.point(lambda level, p=p, i=i: i + (p - i) * level // 255) for i, p in zip(ink, paper, strict=True)
    )
    return Image.merge("RGB", tuple(channels))


def transparent(image: Image.Image, ink=(0, 0, 0)) -> Image.Image:
    return Image.merge("RGBA", (*(Image.new("L", image.size, level) for level in ink), image.point(lambda x: 255 - x)))


def drawn(width: int, height: int, ink: tuple[int, int, int, int], mode: str = "L", paper="white", pen="black"):
    """Draws a filled box (left, top, right, bottom); right and bottom are exclusive."""
    image = Image.new(mode, (width, height), paper)
    left, top, right, bottom = ink
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=pen)
    return image


# --- ink --------------------------------------------------------------------------------------

# Ink and paper, red, green and blue.
COLOURS = [
    ((0, 0, 0), (255, 255, 255)), ((17, 17, 17), (255, 255, 255)), ((51, 51, 51), (255, 255, 255)),
    ((119, 119, 119), (255, 255, 255)), ((170, 170, 170), (255, 255, 255)), ((0, 0, 255), (255, 255, 255)),
    ((255, 0, 0), (255, 255, 255)), ((0, 128, 0), (255, 255, 255)), ((255, 200, 0), (255, 255, 255)),
    ((31, 35, 40), (246, 248, 250)), ((230, 237, 243), (13, 17, 23)), ((255, 255, 255), (0, 0, 0)),
    ((212, 212, 212), (30, 30, 30)), ((131, 148, 150), (0, 43, 54)), ((101, 123, 131), (253, 246, 227)),
    ((255, 255, 0), (0, 0, 160)), ((200, 30, 30), (30, 130, 30)), ((90, 60, 20), (240, 220, 180)),
    ((0, 0, 0), (128, 128, 128)), ((255, 255, 255), (128, 128, 128)),
]  # fmt: skip


@pytest.mark.parametrize(("ink", "paper"), COLOURS)
def test_ink_of_any_colour_on_any_paper_is_as_black_on_white(ink, paper):
    for image in DRAWN:
        expected = normalise(encode(bordered(image)), ROOMY)
        assert levels_apart(both(encode(coloured(bordered(image), ink, paper)), ROOMY), expected) < 3


@pytest.mark.parametrize("ink", [(0, 0, 0), (255, 255, 255), (200, 0, 0), (255, 255, 0)])
def test_ink_of_any_colour_on_transparency_is_visible(ink):
    for image in DRAWN:
        expected = normalise(encode(bordered(image)), ROOMY)
        assert levels_apart(both(encode(transparent(bordered(image), ink)), ROOMY), expected) < 3


def test_uneven_light_is_removed():
    for image in DRAWN:
        sheet = np.asarray(bordered(image), np.float32)
        height, width = sheet.shape
        light = np.linspace(1, 0.6, width) * np.linspace(1, 0.9, height)[:, np.newaxis]
        expected = normalise(encode(bordered(image)), ROOMY)
        got = both(encode(np.rint(sheet * light).astype(np.uint8)), ROOMY)
        assert is_like(got, expected, 0.12)


def test_noise_of_the_paper_is_removed():
    for i, image in enumerate(DRAWN):
        sheet = np.asarray(bordered(image), np.float32)
        noisy = sheet + np.random.default_rng(i).normal(0, 12, sheet.shape)
        got = both(encode(np.clip(noisy, 0, 255).astype(np.uint8)), ROOMY)
        expected = normalise(encode(bordered(image)), ROOMY)
        assert is_like(got, expected, 0.2)


FIRST = bordered(DRAWN[0])


@pytest.mark.parametrize(
    "image",
    [
        FIRST.convert("1", dither=Image.Dither.NONE),
        coloured(FIRST).quantize(9),
        FIRST.convert("RGBA"),
        Image.merge("LA", (FIRST, Image.new("L", FIRST.size, 255))),
        Image.fromarray(np.asarray(FIRST, np.uint16) * 257),
    ],
)
def test_any_kind_of_pixel_is_read(image):
    expected = normalise(encode(FIRST), ROOMY)
    assert is_like(both(encode(image), ROOMY), expected, 0.2 if image.mode == "1" else 0.05)


@CALM
@given(
    hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4])),
        elements=st.sampled_from([0, 1, 40, 128, 200, 254, 255]),
    ),
    st.sampled_from([LIMITS, NO_BORDER]),
)
def test_any_picture_fits_and_both_implementations_agree_on_its_size(pixels, config):
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    encoded = encode(Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes()))
    got = both(encoded, config)
    assert 1 <= got.shape[0] <= config.max_height and 1 <= got.shape[1] <= config.max_width


@pytest.mark.parametrize("config", [ROOMY, SIZED])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("level", [0, 90, 254, 255])
def test_a_blank_image_is_its_border(mode, level, config):
    got = both(encode(Image.new(mode, (30, 20), (level,) * len(mode) if mode != "L" else level)), config)
    assert got.shape == (5, 5) and (got == 255).all()


def test_noise_alone_is_blank():
    noise = np.random.default_rng(0).normal(240, 5, (60, 200))
    assert both(encode(np.clip(noise, 0, 255).astype(np.uint8)), SIZED).shape == (5, 5)


def test_unused_alpha_of_a_32_bit_bitmap_is_ignored():
    image = drawn(60, 40, (20, 10, 30, 20), "RGBA", paper=(255, 255, 255, 0), pen=(0, 0, 0, 0))
    file_header = struct.pack("<2sIII", b"BM", 54 + 60 * 40 * 4, 0, 54)
    header = file_header + struct.pack("<IiiHHIIiiII", 40, *image.size, 1, 32, *[0] * 6)
    bottom_up = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    expected = normalise(encode(image.convert("RGB")), LIMITS)
    np.testing.assert_array_equal(graph(LIMITS)(header + bottom_up.tobytes()), expected)


# --- the frame --------------------------------------------------------------------------------


def test_ink_is_cropped_and_bordered_to_the_pixel():
    got = both(encode(drawn(200, 100, (50, 20, 60, 24))), LIMITS)
    assert got.shape == (4 + 2 * 3, 10 + 2 * 3)
    assert (got[3:-3, 3:-3] == 0).all()
    assert got.sum() == 255 * (10 * 16 - 4 * 10)


@pytest.mark.parametrize("config", [ROOMY, SIZED])
def test_white_around_a_formula_changes_no_pixel(config):
    for image in DRAWN:
        wide = Image.new("L", (image.width + 200, image.height + 90), 255)
        wide.paste(image, (150, 11))
        np.testing.assert_array_equal(normalise(encode(wide), config), both(encode(bordered(image)), config))


def test_light_grey_ink_is_kept():
    assert both(encode(drawn(60, 40, (20, 10, 30, 20), pen=200)), LIMITS).shape == (16, 16)


def test_a_faint_hairline_is_ink():
    image = drawn(60, 40, (20, 15, 30, 20))
    ImageDraw.Draw(image).line((20, 10, 29, 10), fill=175)
    assert both(encode(image), LIMITS).shape == (10 + 6, 10 + 6)


@pytest.mark.parametrize("quality", [75, 90])
def test_jpeg_artefacts_are_not_ink(quality):
    image = drawn(120, 80, (36, 27, 61, 45))
    got = graph(ROOMY)(encode(image, "JPEG", quality=quality))
    assert levels_apart(got, normalise(encode(image), ROOMY)) < 8


@pytest.mark.parametrize("change", [bordered, coloured])
def test_jpegs_are_within_the_few_levels_between_two_decoders(change):
    for image in DRAWN:
        encoded = encode(change(image), "JPEG", quality=80)
        assert is_like(normalise(encoded, ROOMY), graph(ROOMY)(encoded), 0.05)


@pytest.mark.parametrize("file_format", ["BMP", "GIF"])
def test_other_formats_are_read_alike(file_format):
    for image in DRAWN:
        np.testing.assert_array_equal(
            both(encode(bordered(image), file_format), ROOMY), normalise(encode(bordered(image)), ROOMY)
        )


def test_the_first_frame_of_an_animation_is_read():
    frames = [drawn(60, 40, (20, 10, 30, 20)), drawn(60, 40, (1, 1, 50, 30))]
    assert both(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), LIMITS).shape == (16, 16)


@pytest.mark.parametrize("encoded", [b"", b"no image", encode(drawn(60, 40, (20, 10, 30, 20)))[:60]])
def test_bytes_that_are_not_an_image_are_refused(encoded):
    with pytest.raises(tf.errors.InvalidArgumentError):
        graph(LIMITS)(encoded)


# --- size -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(97, 41), (300, 30), (30, 300), (1000, 1), (1, 1000), (49, 20)])
def test_scaling_down_is_cubic_as_pillows(width, height):
    pixels = np.random.default_rng(width * height).choice(np.array([0, 255], np.uint8), (height, width), p=[0.2, 0.8])
    # A dark outline, so that the ink's edges are never in doubt.
    pixels[[0, -1]] = pixels[:, [0, -1]] = 0
    got = both(encode(np.pad(pixels, 5, constant_values=255)), NO_BORDER)
    assert got.shape[0] == NO_BORDER.max_height or got.shape[1] == NO_BORDER.max_width
    expected = np.asarray(Image.fromarray(pixels).resize(got.shape[::-1], Image.Resampling.BICUBIC))
    if min(width, height) > 1:  # of a single line the stretched ink is paper too
        assert levels_apart(got, expected) < 3


@pytest.mark.parametrize("scale", [0.6, 0.8, 1.25, 1.6, 2.5, 4])
def test_glyphs_are_scaled_to_one_size_at_any_resolution(scale):
    ratios = []
    for image in DRAWN:
        if len(np.unique(np.asarray(image))) < 3 or image.width < 40:  # too little to tell a size by
            continue
        size = round(image.width * scale), round(image.height * scale)
        resized = image.resize(size, Image.Resampling.LANCZOS)
        got, expected = both(encode(bordered(resized)), SIZED), normalise(encode(bordered(image)), SIZED)
        ratios.append(got.shape[1] / expected.shape[1])
    assert len(ratios) > 4
    assert 0.8 < np.median(ratios) < 1.25
    assert min(ratios) > 0.6 and max(ratios) < 1.6


def test_blurred_glyphs_are_scaled_to_the_same_size():
    for image in DRAWN:
        if image.width < 40:
            continue
        expected = normalise(encode(bordered(image)), SIZED)
        got = both(encode(bordered(image).filter(ImageFilter.GaussianBlur(0.8))), SIZED)
        assert 0.75 < got.shape[1] / expected.shape[1] < 1.33


def test_an_em_is_scaled_to_the_requested_size():
    widths = {}
    for size in (12, 16, 24):
        config = ImageConfig(max_height=512, max_width=1024, border=0, glyph_size=size)
        widths[size] = [normalise(encode(bordered(image)), config).shape[1] for image in DRAWN]
    np.testing.assert_allclose(np.array(widths[24]) / widths[12], 2, rtol=0.15)
    # They were drawn at 17.
    natural = [normalise(encode(image), ROOMY).shape[1] - 4 for image in DRAWN]
    assert np.median(np.array(widths[16]) / natural) == pytest.approx(16 / 17, rel=0.15)


def test_real_images_stay_small_and_whole():
    archive = SAMPLES / "im2latex-100k" / "formula_images_processed.tar.gz"
    if not archive.exists():
        pytest.skip(f"{archive} is missing; IM2LATEX_SAMPLES names the folder with im2latex-100k in it")
    with tarfile.open(archive) as tar:
        # The first of the archive: reading on to random ones would take the whole archive.
        files = [tar.extractfile(member) for member in itertools.islice(tar, 200)]
        encoded = [file.read() for file in files if file is not None]
    for image in encoded:
        got = both(image, SIZED)
        # At 100 dpi, 12 pt is an em of 16.6 pixels.
        before = Image.open(io.BytesIO(image))
        assert 0.6 < (got.shape[1] - 4) / (before.width - 8) < 1.6 or before.width < 40


# --- memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [FIRST, coloured(FIRST), coloured(FIRST).quantize(9), FIRST.convert("RGBA")])
def test_an_image_is_the_same_in_one_band_and_in_many(image, monkeypatch):
    encoded = encode(image)
    expected = both(encoded, SIZED)
    monkeypatch.setattr("im2latex.bands.BAND", 5 * image.width)
    np.testing.assert_array_equal(normalise(encoded, SIZED), expected)


@pytest.mark.parametrize(("channels", "most"), [(1, 12), (3, 14), (4, 19)])
def test_a_pixel_of_a_large_image_takes_few_bytes(channels, most):
    pixels = np.random.default_rng(1).integers(0, 256, (1000, 1500, channels), np.uint8)
    encoded = encode(pixels.squeeze(), compress_level=0)
    tracemalloc.start()
    normalise(encoded, SIZED)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most * pixels.shape[0] * pixels.shape[1]


def test_version_1_loaders_read_the_graph(tmp_path):
    module = tf.Module()
    module.normalise = tf.function(lambda image: {"pixels": normalise_image(image, SIZED)})
    signature = module.normalise.get_concrete_function(tf.TensorSpec([], tf.string, "image"))
    tf.saved_model.save(module, str(tmp_path), signatures=signature)
    encoded = encode(transparent(bordered(DRAWN[0])))
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
        signature = loaded.signature_def["serving_default"]
        got = session.run(signature.outputs["pixels"].name, {signature.inputs["image"].name: encoded})
    np.testing.assert_array_equal(got[:, :, 0], graph(SIZED)(encoded))


@pytest.mark.parametrize("scale", [0.5, 0.85, 1.0, 1.18, 3.0])
def test_a_normalised_image_is_rescaled_up_to_the_limits(scale):
    for image in DRAWN:
        pixels = normalise(encode(image), SIZED)
        limits = ImageConfig(max_height=64, max_width=512, border=2)
        got = rescale(pixels, scale, limits)
        expected = rescale_graph(tf.constant(pixels[:, :, np.newaxis]), scale, limits).numpy()[:, :, 0]
        factor = min(scale, 64 / pixels.shape[0], 512 / pixels.shape[1])
        assert got.shape == expected.shape == tuple(round(side * factor) for side in pixels.shape)
        assert np.abs(got.astype(int) - expected).max() <= 1
        assert abs(got.mean() - pixels.mean()) < 3
