"""Decodes the images of records, with limits, because the files may come from anywhere."""

from __future__ import annotations

import io
import warnings

from PIL import Image

from data.dataset.record import BadRecord
from im2latex.pictures import FORMATS, MAX_PIXELS, MAX_SCANS, MAX_SIDE

TOO_LARGE = f"image of more than {MAX_PIXELS:,} pixels, or {MAX_SIDE:,} a side"
UNDECODABLE = "undecodable image"


def check_size(content: bytes) -> Image.Image:
    """Opens an image and checks the size in its header; decodes no pixels.

    Args:
      content: a file in one of `im2latex.pictures.FORMATS`.

    Raises:
      BadRecord: the image has another format, or too many pixels.
    """
    if content.startswith(b"\xff\xd8") and content.count(b"\xff\xda") > MAX_SCANS:
        raise BadRecord(f"JPEG of more than {MAX_SCANS} scans")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadRecord(TOO_LARGE) from None
    # Pillow's decoders raise many different exceptions for broken images, even SyntaxError and struct.error.
    except Exception as error:
        raise BadRecord(UNDECODABLE) from error
    if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
        raise BadRecord(TOO_LARGE)
    return image


def open_image(content: bytes) -> Image.Image:
    """Decodes an image; arguments and errors as in `check_size`, and BadRecord if the pixels are damaged."""
    image = check_size(content)
    try:
        image.load()
    except Exception as error:  # as above
        raise BadRecord(UNDECODABLE) from error
    return image
