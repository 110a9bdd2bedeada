"""A candidate of any format as an encoded record: its image cropped, its formula in normal form."""

from __future__ import annotations

import io

from PIL import Image, ImageChops

from data.dataset.record import BadRecord, Record, encode
from data.importers.source import Candidate
from data.spelling import respell
from im2latex.tokenizer import FormulaError, tokenize

BORDER = 8


def crop_page(page: Image.Image, border: int = BORDER) -> Image.Image:
    """A full page as im2markup prepares it: cropped to the ink, bordered, halved with Lanczos.

    im2markup then places it in one of 21 sizes; batches are cut by size here, so it stays as it is.

    Args:
      page: any mode, black on white; transparency counts as white.
      border: white pixels around the ink, before halving.

    Raises:
      BadRecord: there is no ink.
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
    """The image in 8-bit grey, what is transparent on white."""
    if image.mode == "P":  # full pages are: 256 colours are faster to convert than four million pixels
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
    """The encoded record of a candidate.

    Args:
      candidate: what the source has.
      raw: whether its image is a full page and its formula not tokenised.
      max_tokens: of the formula, in its spelling.
      spelling: of the formula, as `data.spelling.respell` takes it.

    Raises:
      BadRecord: with the reason it is set aside for.
    """
    if candidate.problem:
        raise BadRecord(candidate.problem)
    try:
        formula = candidate.formula.decode()
    except UnicodeDecodeError as error:
        raise BadRecord("bad UTF-8") from error
    try:
        # Percent signs before a formula were taken off when the pages were rendered; later ones began a comment.
        tokens = tokenize(formula.lstrip("% ")) if raw else formula.split()
        tokens = respell(" ".join(tokens), spelling).split()
    except FormulaError as error:
        raise BadRecord(f"unreadable formula: {error}") from error
    if not tokens:
        raise BadRecord("empty formula")
    if len(tokens) > max_tokens:
        raise BadRecord(f"formula of more than {max_tokens} tokens")
    try:
        content = candidate.image if isinstance(candidate.image, bytes) else candidate.image.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if raw:
                buffer = io.BytesIO()
                crop_page(image).save(buffer, "PNG", optimize=True)
                content = buffer.getvalue()
            elif image.format not in ("PNG", "JPEG"):
                buffer = io.BytesIO()
                _grey(image).save(buffer, "PNG")
                content = buffer.getvalue()
    except BadRecord:
        raise
    # Pillow's decoders raise many classes, SyntaxError and struct.error among them, for broken images.
    except Exception as error:
        raise BadRecord("undecodable image") from error
    return encode(Record(content, " ".join(tokens), candidate.name))


def convert_chunk(
    chunk: list[Candidate], raw: bool, max_tokens: int, spelling: str
) -> list[tuple[str, str, bytes | str]]:
    """For each candidate its split, its name, and the encoded record or the reason it is bad."""
    results: list[tuple[str, str, bytes | str]] = []
    for candidate in chunk:
        outcome: bytes | str
        try:
            outcome = convert(candidate, raw, max_tokens, spelling)
        except BadRecord as error:
            outcome = error.reason
        results.append((candidate.split, candidate.name, outcome))
    return results
