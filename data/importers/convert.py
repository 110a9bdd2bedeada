"""Converts candidates of any import format to encoded records: crops images, puts formulas into normal form."""

from __future__ import annotations

import io
import re

from PIL import Image, ImageChops

from data.dataset.images import UNDECODABLE, open_image
from data.dataset.record import BadRecord, Record, encode
from data.importers.source import Candidate, read_image
from data.spelling import respell
from im2latex.tokenizer import FormulaError, tokenize

BORDER = 8
# The longest formula of im2latex-100k has 520 bytes, tokenised, and the longest token of any list 22.
MAX_FORMULA_BYTES, MAX_TOKEN_BYTES = 1 << 16, 128
# All control characters of Unicode but tab, line feed and carriage return, which are white space.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def crop_page(page: Image.Image, border: int = BORDER) -> Image.Image:
    """Prepares a full page as im2markup does: crops it to the ink, adds a border, halves it with Lanczos.

    im2markup then pads the image to one of 21 sizes. This project groups batches by size instead, so it does not pad.

    Args:
      page: black on white, in any mode; transparent pixels count as white.
      border: white pixels around the ink, before halving.

    Raises:
      BadRecord: the page is blank.
    """
    grey = _grey(page)
    box = ImageChops.invert(grey).getbbox()
    if box is None:
        raise BadRecord("blank image")
    left, top, right, bottom = box
    bordered = Image.new("L", (right - left + 2 * border, bottom - top + 2 * border), 255)
    bordered.paste(grey.crop(box), (border, border))
    return bordered.resize((max(1, bordered.width // 2), max(1, bordered.height // 2)), Image.Resampling.LANCZOS)


def _grey(image: Image.Image) -> Image.Image:
    """Converts an image to 8-bit grey, with white behind transparent pixels."""
    if image.mode == "P":  # as full pages are; converting 256 colours is faster than converting four million pixels
        colours = Image.frombytes("P", (256, 1), bytes(range(256)))
        colours.putpalette(image.getpalette() or [])
        colours.info = dict(image.info)
        return Image.frombytes("L", image.size, image.tobytes()).point(_grey(colours.convert("RGBA")).tobytes())
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("L")


def convert(candidate: Candidate, raw: bool, max_tokens: int, spelling: str) -> bytes:
    """Converts a candidate to an encoded record.

    Args:
      candidate: an image and a formula from the source.
      raw: whether the image is a full page and the formula is not tokenised.
      max_tokens: maximum number of tokens of the formula, after respelling.
      spelling: spelling of the formula, see `data.spelling.respell`.

    Raises:
      BadRecord: the candidate is unusable; with the reason.
    """
    if candidate.problem:
        raise BadRecord(candidate.problem)
    formula = _text(candidate.formula)
    if not candidate.name.isprintable():
        raise BadRecord("control character in the name")
    try:
        # The pages were rendered without percent signs before a formula; later ones began a comment.
        tokens = tokenize(formula.lstrip("% ")) if raw else formula.split()
        tokens = respell(" ".join(tokens), spelling).split()
    except FormulaError as error:
        raise BadRecord(f"unreadable formula: {error}") from error
    if not tokens:
        raise BadRecord("empty formula")
    if len(tokens) > max_tokens:
        raise BadRecord(f"formula of more than {max_tokens} tokens")
    if max(len(token.encode()) for token in tokens) > MAX_TOKEN_BYTES:
        raise BadRecord(f"token of more than {MAX_TOKEN_BYTES} bytes")
    content = read_image(candidate.image)
    with open_image(content) as image:
        try:
            if raw:
                content = _png(crop_page(image), optimize=True)
            elif image.format not in ("PNG", "JPEG"):
                content = _png(_grey(image))
        except (OSError, ValueError) as error:  # a damaged palette, say
            raise BadRecord(UNDECODABLE) from error
    return encode(Record(content, " ".join(tokens), candidate.name))


def _text(formula: bytes) -> str:
    """Decodes a formula.

    Raises:
      BadRecord: it is too long, is not UTF-8, or contains control characters, such as NUL and escape.
    """
    if len(formula) > MAX_FORMULA_BYTES:
        raise BadRecord(f"formula of more than {MAX_FORMULA_BYTES:,} bytes")
    try:
        text = formula.decode()
    except UnicodeDecodeError as error:
        raise BadRecord("bad UTF-8") from error
    if CONTROL.search(text):
        raise BadRecord("control character in the formula")
    return text


def _png(image: Image.Image, optimize: bool = False) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=optimize)
    return buffer.getvalue()


def convert_chunk(
    chunk: list[Candidate], raw: bool, max_tokens: int, spelling: str
) -> list[tuple[str, str, bytes | str]]:
    """Returns for each candidate its split, its name, and the encoded record or the reason for rejecting it."""
    results: list[tuple[str, str, bytes | str]] = []
    for candidate in chunk:
        outcome: bytes | str
        try:
            outcome = convert(candidate, raw, max_tokens, spelling)
        except BadRecord as error:
            outcome = error.reason
        results.append((candidate.split, candidate.name, outcome))
    return results
