from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from components.report.pictures import MAX_BYTES, film, of_bytes, of_pixels


def decoded(address: str) -> Image.Image:
    _, _, content = address.partition(";base64,")
    return Image.open(io.BytesIO(base64.b64decode(content)))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_grey_levels_are_unchanged_and_shown_at_their_density() -> None:
    pixels = np.arange(200, dtype=np.uint8).reshape(10, 20)
    picture = of_pixels(pixels, density=2)
    assert (picture.width, picture.height) == (10, 5)
    assert np.array_equal(np.asarray(decoded(picture.address)), pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
def test_every_format_becomes_one_that_browsers_show(kind: str) -> None:
    picture = of_bytes(encoded(Image.new("L", (31, 17), 255), kind))
    assert picture.address.startswith(("data:image/png;", "data:image/jpeg;"))
    assert decoded(picture.address).size == (31, 17) == (picture.width, picture.height)


def test_transparency_becomes_white_and_sixteen_bits_become_eight() -> None:
    clear = of_bytes(encoded(Image.new("LA", (4, 4), (0, 0))))
    assert decoded(clear.address).convert("L").getextrema() == (255, 255)
    deep = of_bytes(encoded(Image.fromarray(np.full((4, 4), 40000, np.uint16))))
    assert decoded(deep.address).convert("L").getextrema() == (156, 156)  # 40000 / 256


def test_a_photograph_is_compressed_and_keeps_its_proportions() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1500, 3000, 3), np.uint8)
    picture = of_bytes(encoded(Image.fromarray(noise)))
    assert len(picture.address) <= MAX_BYTES
    assert (picture.width, picture.height) == (1600, 800)


def test_the_frames_of_a_film_are_stacked_and_scaled_separately() -> None:
    maps = np.zeros((2, 2, 3), np.float32)
    maps[0, 0, 1], maps[0, 1, 2] = 0.5, 0.25
    maps[1, 1, 0] = 1e-3
    pixels = np.asarray(decoded(film(maps, (10, 20, 30))))
    assert pixels.shape == (4, 3, 4)
    alpha = pixels[:, :, 3]
    assert alpha[0, 1] == alpha[3, 0] == 255
    assert int(alpha[1, 2]) == pytest.approx(128, abs=5)
    assert (alpha > 0).sum() == 3
    assert pixels[0, 1, :3].tolist() == [10, 20, 30]


def test_a_film_of_zeros_is_transparent() -> None:
    assert np.asarray(decoded(film(np.zeros((1, 2, 2), np.float32), (1, 2, 3))))[:, :, 3].max() == 0
