"""Encodes pictures as `data:` URLs, so that a page needs no other files."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

# Limits of a picture, pixels and bytes: a report has dozens of them, and is sent by mail.
MAX_WIDTH, MAX_HEIGHT, MAX_BYTES = 1600, 800, 60_000
QUALITY = 70
# Levels of opacity: enough for the eye, and few enough to compress well.
LEVELS = 31


class EmbeddedPicture(NamedTuple):
    """A picture as a `data:` URL, and the size at which it is shown, CSS pixels."""

    address: str
    width: int
    height: int


def of_bytes(encoded: bytes, density: float = 1) -> EmbeddedPicture:
    """Converts an encoded image of any format.

    Args:
        encoded: the image.
        density: image pixels per CSS pixel.

    Raises:
        OSError: the image cannot be decoded.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        if image.mode.startswith("I"):  # 16 bits
            shown = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        else:
            shown = image.convert("L") if image.mode in ("1", "L") else _on_white(image)
    return _picture(shown, density)


def of_pixels(pixels: np.ndarray, density: float = 1) -> EmbeddedPicture:
    """Converts grey levels, uint8 (height, width), shown with `density` image pixels per CSS pixel."""
    return _picture(Image.fromarray(pixels), density)


def film(maps: np.ndarray, colour: tuple[int, int, int]) -> str:
    """Returns the `data:` URL of a PNG with the frames of a film stacked vertically.

    Args:
        maps: weights, (frames, rows, columns), at least 0.
        colour: red, green and blue of every pixel. Its opacity is its weight, relative to the highest of the frame.
    """
    frames, rows, columns = maps.shape
    highest = maps.reshape(frames, -1).max(axis=1)[:, None, None]
    levels = np.rint(LEVELS * maps / np.maximum(highest, np.finfo(np.float32).tiny))
    # Transparent pixels have no colour, because that compresses better.
    pixels = np.zeros((frames * rows, columns, 4), np.uint8)
    alpha = np.rint(255 / LEVELS * levels).astype(np.uint8).reshape(frames * rows, columns)
    pixels[alpha > 0, :3] = colour
    pixels[:, :, 3] = alpha
    return _address(Image.fromarray(pixels), "PNG")


def _on_white(image: Image.Image) -> Image.Image:
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")


def _picture(image: Image.Image, density: float) -> EmbeddedPicture:
    shrink = max(image.width / MAX_WIDTH, image.height / MAX_HEIGHT, 1.0)
    shown = _scaled(image.size, 1 / shrink / density)
    if shrink > 1:
        image = image.resize(_scaled(image.size, 1 / shrink), Image.Resampling.LANCZOS)
    address = _address(image, "PNG")
    while len(address) > MAX_BYTES:  # a photograph
        address = min(address, _address(image, "JPEG"), key=len)
        image = image.resize(_scaled(image.size, 0.75), Image.Resampling.LANCZOS)
    return EmbeddedPicture(address, *shown)


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def _address(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, quality=QUALITY)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
