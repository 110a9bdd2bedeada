from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data.synthetic import draw_png, formulas
from trainer_module.config.image import ImageConfig
from trainer_module.images import normalise
from trainer_module.preprocessing import normalise_image

ROOMY = ImageConfig(max_height=512, max_width=1024, border=2)
NARROW = ImageConfig(max_height=24, max_width=48, border=3)
NO_BORDER = ImageConfig(max_height=24, max_width=48, border=0)

DRAWN = [Image.open(io.BytesIO(draw_png(formula, em=17))) for formula in formulas(8, seed=5, level="full")]


def encode(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def graph(config: ImageConfig):
    specs = [tf.TensorSpec([], tf.string)]
    traced = tf.function(lambda encoded: normalise_image(encoded, config), input_signature=specs, autograph=False)
    return lambda encoded: traced(encoded).numpy()[:, :, 0].astype(int)


in_graph = {config: graph(config) for config in (ROOMY, NARROW, NO_BORDER)}


def bordered(image: Image.Image) -> Image.Image:
    sheet = Image.new("L", (image.width + 41, image.height + 23), 255)
    sheet.paste(image, (30, 5))
    return sheet


def inverted(image: Image.Image) -> Image.Image:
    return image.point(lambda level: 230 - level * 200 // 255)


def coloured(image: Image.Image) -> Image.Image:
    red, green, blue = (image.point(lambda level, p=paper, i=ink: i + (p - i) * level // 255)
                        for ink, paper in ((130, 250), (10, 240), (60, 215)))  # fmt: skip
    return Image.merge("RGB", (red, green, blue))


def with_alpha(image: Image.Image) -> Image.Image:
    return Image.merge("LA", (image.point(lambda level: level // 3), image.point(lambda level: 255 - level)))


def coloured_with_alpha(image: Image.Image) -> Image.Image:
    return Image.merge("RGBA", (*coloured(image).split(), image.point(lambda level: 255 - level * 2 // 3)))


def with_palette(image: Image.Image) -> Image.Image:
    return coloured(image).quantize(9)


CHANGES = [
    lambda image: image, bordered, inverted, coloured, with_alpha, coloured_with_alpha, with_palette,
    lambda image: image.convert("1"), lambda image: image.convert("RGBA"),
    lambda image: Image.fromarray(np.asarray(image, np.uint16) * 257),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_pixels_are_those_of_the_graph(change):
    for image in DRAWN:
        encoded = encode(change(image))
        got = normalise(encoded, ROOMY)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, in_graph[ROOMY](encoded))


@pytest.mark.parametrize("config", [NARROW, NO_BORDER])
@pytest.mark.parametrize("change", [bordered, coloured_with_alpha])
def test_scaled_images_are_within_one_grey_level_of_the_graph(change, config):
    for image in DRAWN:
        encoded = encode(change(image))
        got, expected = normalise(encoded, config), in_graph[config](encoded)
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize("shape", [(1, 900), (900, 1), (37, 301), (300, 31), (511, 1023)])
def test_areas_of_any_size_are_those_of_the_graph(shape):
    pixels = np.random.default_rng(shape).integers(0, 256, shape, np.uint8)
    pixels[[0, -1]] = pixels[:, [0, -1]] = 0  # so that the ink's edges are never in doubt
    encoded = encode(Image.fromarray(np.pad(pixels, 5, constant_values=255)))
    got, expected = normalise(encoded, NARROW), in_graph[NARROW](encoded)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize("file_format", ["BMP", "GIF"])
def test_other_formats_are_read_like_the_graph(file_format):
    for image in DRAWN:
        encoded = encode(bordered(image), file_format)
        np.testing.assert_array_equal(normalise(encoded, ROOMY), in_graph[ROOMY](encoded))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("level", [0, 90, 254, 255])
def test_a_blank_image_is_its_border(mode, level):
    encoded = encode(Image.new(mode, (30, 20), (level,) * len(mode) if mode != "L" else level))
    got = normalise(encoded, NARROW)
    np.testing.assert_array_equal(got, in_graph[NARROW](encoded))
    assert got.shape == (7, 7) and (got == 255).all()


@pytest.mark.parametrize("change", [bordered, coloured])
def test_jpegs_are_within_the_few_levels_between_two_decoders(change):
    for image in DRAWN:
        encoded = encode(change(image), "JPEG", quality=80)
        got, expected = normalise(encoded, ROOMY), in_graph[ROOMY](encoded)
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 6
