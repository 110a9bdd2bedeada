from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from im2latex import pictures
from im2latex.errors import ImageError
from im2latex.pictures import prepare
from tests.im2latex.serving.conftest import encoded
from trainer_module.config.image import ImageConfig
from trainer_module.image_graph import normalise_image


def seen(image: bytes) -> np.ndarray:
    """Returns the normalised image of a file, as the model sees it."""
    return normalise_image(tf.constant(prepare(image).encoded), ImageConfig()).numpy()[:, :, 0].astype(int)


def deep(picture: Image.Image, dtype: type) -> Image.Image:
    return Image.fromarray(np.asarray(picture).astype(dtype) * 257)


def on_nothing(picture: Image.Image) -> Image.Image:
    """Returns the same ink in black on a transparent background."""
    ink = picture.point(lambda level: 255 - level)
    return Image.merge("LA", (Image.new("L", picture.size), ink)).convert("RGBA")


WAYS = {
    "png": lambda p: encoded(p),
    "png, inverted": lambda p: encoded(p.point(lambda level: 255 - level)),
    "png, transparent": lambda p: encoded(on_nothing(p)),
    "png, 16 bits": lambda p: encoded(deep(p, np.uint16)),
    "png, interlaced colours": lambda p: encoded(p.convert("RGB"), optimize=True),
    "png, animated": lambda p: encoded(p, save_all=True, append_images=[Image.new("L", p.size)]),
    "bmp": lambda p: encoded(p.convert("RGB"), "BMP"),
    "bmp, 8 bits": lambda p: encoded(p, "BMP"),
    "bmp, transparent": lambda p: encoded(on_nothing(p), "BMP"),
    "gif": lambda p: encoded(p, "GIF"),
    "gif, animated": lambda p: encoded(p, "GIF", save_all=True, append_images=[Image.new("L", p.size)]),
    "tiff": lambda p: encoded(p, "TIFF"),
    "tiff, packed": lambda p: encoded(p, "TIFF", compression="tiff_lzw"),
    "tiff, transparent": lambda p: encoded(on_nothing(p), "TIFF"),
    "tiff, CMYK": lambda p: encoded(p.convert("CMYK"), "TIFF"),
    "tiff, 16 bits": lambda p: encoded(deep(p, np.uint16), "TIFF"),
    "tiff, 32 bits": lambda p: encoded(deep(p, np.int32), "TIFF"),
    "tiff, pages": lambda p: encoded(p, "TIFF", save_all=True, append_images=[Image.new("L", p.size)]),
    "webp": lambda p: encoded(p.convert("RGB"), "WEBP", lossless=True),
    "webp, transparent": lambda p: encoded(on_nothing(p), "WEBP", lossless=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_model_sees_the_same_ink_in_every_format(way: str, picture: Image.Image) -> None:
    np.testing.assert_allclose(seen(WAYS[way](picture)), seen(encoded(picture)), atol=1)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_the_model_sees_nearly_the_same_ink_in_a_jpeg(mode: str, picture: Image.Image) -> None:
    pixels = seen(encoded(picture.convert(mode), "JPEG", quality=97))
    assert np.abs(pixels - seen(encoded(picture))).mean() < 4


def test_formats_that_the_model_decodes_are_passed_on_unchanged(picture: Image.Image) -> None:
    for image in (encoded(picture), encoded(picture, "JPEG"), encoded(picture.convert("RGB"), "BMP")):
        assert prepare(image) == (image, *picture.size)


def test_a_photo_is_rotated_by_its_exif_orientation(picture: Image.Image) -> None:
    lying = picture.transpose(Image.Transpose.ROTATE_90)
    notes = Image.Exif()
    notes[0x0112] = 6  # turn it by 90 degrees clockwise
    image = encoded(lying, "JPEG", quality=97, exif=notes)
    assert (prepare(image).width, prepare(image).height) == picture.size
    assert np.abs(seen(image) - seen(encoded(picture))).mean() < 4
    assert prepare(image, turn=False) == (image, *lying.size)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    """Returns a PNG of a few kilobytes whose pixels would take gigabytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def of_many_scans(picture: Image.Image) -> bytes:
    image = encoded(picture, "JPEG", progressive=True)
    start = image.rindex(b"\xff\xda")
    return image[:start] + image[start:-2] * 200 + image[-2:]


REFUSED = {
    "nothing": (lambda p: b"", "the image is empty: it has no bytes"),
    "text": (lambda p: b"E = m c^2", "of another format than PNG, JPEG, BMP, GIF, TIFF, WEBP"),
    "pdf": (lambda p: encoded(p, "PDF"), "of another format"),
    "eps": (lambda p: encoded(p, "EPS"), "of another format"),
    "svg": (lambda p: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "of another format"),
    "pixel": (lambda p: encoded(Image.new("L", (1, 1))), "the image has 1 x 1 pixels, too few for a formula"),
    "large": (lambda p: bomb(20_000, 20_000), "the image has far more than 16,000,000 pixels"),
    "bomb": (lambda p: bomb(5_000, 5_000), "the image has 5,000 x 5,000 pixels, more than 16,000,000"),
    "long": (lambda p: bomb(20_000, 10), "the image has 20,000 x 10 pixels"),
    "huge": (lambda p: bomb(2**31 - 1, 2**31 - 1), "the image has far more than 16,000,000 pixels"),
    "gif bomb": (lambda p: b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + encoded(p, "GIF")[10:], "far more than"),
    "scans": (of_many_scans, "the image is a JPEG of more than 100 scans"),
    "floats": (lambda p: encoded(Image.new("F", (20, 20)), "TIFF"), "the image has floating-point pixels"),
    "torn tiff": (lambda p: encoded(p, "TIFF")[:-200], "the image is damaged: it cannot be decoded"),
    "torn gif": (lambda p: encoded(p, "GIF")[:-40], "the image is damaged: it cannot be decoded"),
    "torn header": (lambda p: encoded(p)[:20], "the image is damaged"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_invalid_pictures_are_refused_with_a_message(kind: str, picture: Image.Image) -> None:
    make, sentence = REFUSED[kind]
    with pytest.raises(ImageError, match=sentence):
        prepare(make(picture))


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    for image in (bomb(5_000, 5_000), bomb(20_000, 20_000)):
        with pytest.raises(ImageError, match="pixels"):
            prepare(image)


def test_the_largest_picture_passes() -> None:
    assert prepare(bomb(4_000, 4_000)).width == 4_000
    assert pictures.MAX_PIXELS == 4_000 * 4_000
