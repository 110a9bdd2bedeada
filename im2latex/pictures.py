"""Checks and converts untrusted image files; files that are too large or not images are refused before decoding.

Only Pillow's decoders for the formats below are used, first on the header only. PNG, JPEG and plain BMP are passed on
unchanged, because the model decodes and normalises them itself. Other formats are converted to PNG.
"""

from __future__ import annotations

import io
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

# The plugins register the decoders of FORMATS. `Image.init` would import those of forty other formats too.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from im2latex.errors import ImageError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
# MPO is a JPEG with several images, which some cameras write.
_MODEL_DECODES = ("PNG", "JPEG", "MPO")
# The BMP variants that the model decodes: header size in bytes, bits per pixel, compression.
_PLAIN_BMPS = ((40, 24, 0), (40, 32, 0))
MAX_PIXELS = 16_000_000
MAX_SIDE = 16_000
# Minimum number of pixels, enough for a dot.
LEAST_PIXELS = 9
# Maximum number of scans in a JPEG. Encoders write about ten, and a decoder processes the whole image for each.
MAX_SCANS = 100
# PNG compression level; low, because these PNGs are kept for milliseconds only.
COMPRESSION = 1

# How to rotate an image by its EXIF orientation. Pillow's `exif_transpose` also rewrites the other EXIF data, and fails
# on unusual data.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Every PNG with an orientation contains one of these. To read the orientation, Pillow decodes the whole image.
_NOTES = re.compile(rb"eXIf|exif|xmp")


class EncodedPicture(NamedTuple):
    """An image in a format that the model decodes."""

    encoded: bytes  # PNG, JPEG or BMP
    width: int  # pixels
    height: int


def encode(picture: str | os.PathLike[str] | bytes | Image.Image | np.ndarray) -> bytes:
    """Returns the encoded bytes of a picture: reads a file, passes bytes through, or encodes pixels as PNG.

    Args:
        picture: the path of a file, the bytes of a file, a Pillow image, or an array, uint8 (height, width) or
            (height, width, 1 to 4 channels).

    Raises:
        ImageError: the array has another shape or dtype, or the Pillow image has an unsupported mode.
        OSError: the file cannot be opened.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, np.ndarray):
        shape = picture.shape[:-1] if picture.ndim == 3 and picture.shape[-1] == 1 else picture.shape
        is_image = len(shape) == 2 or (len(shape) == 3 and shape[-1] in (2, 3, 4))
        if picture.dtype != np.uint8 or not is_image or not picture.size:
            raise ImageError(
                f"the image is an array of {picture.dtype} and shape {picture.shape}; give uint8, (height, width) or "
                "(height, width, channels)"
            )
        picture = Image.fromarray(np.ascontiguousarray(picture.reshape(shape)))
    if isinstance(picture, Image.Image):
        turn = _turn(picture)
        return _as_png(picture if turn is None else picture.transpose(turn)).encoded
    return Path(picture).read_bytes()


def prepare(encoded: bytes, turn: bool = True) -> EncodedPicture:
    """Checks an image, and converts it to PNG if the model cannot decode its format; of an animation, the first frame.

    Args:
        encoded: the bytes of an image file.
        turn: whether to rotate a photo by its EXIF orientation.

    Raises:
        ImageError: the file is not an image in one of FORMATS, or the image is too large, too small or damaged.
    """
    image = _checked(encoded)
    try:
        how = _turn(image, encoded) if turn else None
        if how is None and _is_decoded_by_the_model(image, encoded):
            return EncodedPicture(encoded, *image.size)
        return _converted(image, how)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001  Pillow's decoders raise nearly anything for damaged files
        raise damaged(error) from None


def without_metadata(encoded: bytes) -> bytes:
    """Returns an image as PNG with its pixels alone, rotated by its EXIF orientation.

    Raises:
        ImageError: as `prepare`.
    """
    image = _checked(encoded)
    try:
        return _converted(image, _turn(image, encoded)).encoded
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001  as in `prepare`
        raise damaged(error) from None


def size_of(encoded: bytes) -> tuple[int, int]:
    """Returns width and height of an image in pixels, from its header.

    Raises:
        ImageError: as `prepare`, except for errors that only decoding finds.
    """
    return _checked(encoded).size


def damaged(error: Exception) -> ImageError:
    """Returns the error for an image that a decoder failed on."""
    return ImageError(f"the image is damaged: it cannot be decoded ({type(error).__name__})")


def _checked(encoded: bytes) -> Image.Image:
    if not encoded:
        raise ImageError("the image is empty: it has no bytes")
    image = _opened(encoded)
    _check(image, encoded)
    return image


def _opened(encoded: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(f"the image is damaged, or of another format than {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"the image has far more than {MAX_PIXELS:,} pixels; make it smaller") from None
    except Exception as error:  # noqa: BLE001  Pillow's readers raise nearly anything for damaged headers
        raise damaged(error) from None


def _check(image: Image.Image, encoded: bytes) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"the image has {width:,} x {height:,} pixels, more than {MAX_PIXELS:,} in all or {MAX_SIDE:,} a side; "
            "make it smaller"
        )
    if width * height < LEAST_PIXELS:
        raise ImageError(f"the image has {width} x {height} pixels, too few for a formula; send a larger one")
    if encoded.startswith(b"\xff\xd8") and encoded.count(b"\xff\xda") > MAX_SCANS:
        raise ImageError(f"the image is a JPEG of more than {MAX_SCANS} scans; save it again")


def _is_decoded_by_the_model(image: Image.Image, encoded: bytes) -> bool:
    if image.format == "BMP":
        return struct.unpack_from("<I10xHI", encoded, 14) in _PLAIN_BMPS
    return image.format in _MODEL_DECODES


def _turn(image: Image.Image, encoded: bytes = b"") -> Image.Transpose | None:
    """Returns the transposition that makes an image upright; None if none is needed or the EXIF data is unreadable."""
    if image.format == "PNG" and encoded and not _NOTES.search(encoded):
        return None
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  unreadable EXIF data, see above
        return None


def _converted(image: Image.Image, how: Image.Transpose | None) -> EncodedPicture:
    image.load()
    return _as_png(image if how is None else image.transpose(how))


def _as_png(image: Image.Image) -> EncodedPicture:
    """Encodes an image as PNG: 8-bit grey or RGB, RGBA if it has transparency, or 16-bit grey."""
    if image.mode == "F":
        raise ImageError("the image has floating-point pixels; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray(np.clip(np.asarray(image), 0, 65535).astype(np.uint16))
        mode = image.mode
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        mode = "RGBA"
    else:
        mode = "L" if image.mode in ("1", "L") else "RGB"
    try:
        image = image.convert(mode)
    except ValueError:
        raise ImageError(f"the image has colours of the kind {image.mode}; save it as RGB") from None
    # Remove metadata and colour profiles, which may be damaged and would be written too.
    image.info = {name: image.info[name] for name in ("transparency",) if name in image.info}
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=COMPRESSION)
    return EncodedPicture(buffer.getvalue(), *image.size)
