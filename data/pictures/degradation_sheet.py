"""Draws a contact sheet that shows what the degradations look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.latex.rendering import render
from data.pictures.degradation import EM, KINDS, degrade
from im2latex.errors import UserError

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
# The default image: scripts, a fraction, a root, delimiters.
FORMULA = r"T ^ { 2 } = \frac { 1 } { \sqrt { 4 } } \left( 1 + \sum _ { i = 1 } ^ { 3 } t _ { i j } ^ { 2 } \right)"
_GAP = 12
_LABEL = 110
_BACKGROUND = (200, 205, 215)


def degradation_sheet(
    image: np.ndarray, path: Path, kinds: Sequence[str] = tuple(KINDS), seed: int = 0, em: float = EM
) -> None:
    """Writes a PNG that shows an image with each kind of degradation (rows) at each of `STRENGTHS` (columns).

    Args:
        image: uint8, (H, W) or (H, W, 3).
        path: the file to write.
        kinds: names from `data.pictures.degradation.KINDS`.
        seed: random seed; each cell has its own random numbers.
        em: font size in pixels.

    Raises:
        UserError: a kind is unknown, or the file cannot be written.
    """
    rows = [
        [
            Image.fromarray(degrade(image, kind, strength, np.random.default_rng((seed, row, column)), em))
            for column, strength in enumerate(STRENGTHS)
        ]
        for row, kind in enumerate(kinds)
    ]
    widths = [max(row[column].width for row in rows) for column in range(len(STRENGTHS))]
    heights = [max(picture.height for picture in row) for row in rows]
    size = (_LABEL + sum(widths) + _GAP * (len(widths) + 1), 24 + sum(heights) + _GAP * (len(heights) + 1))
    sheet = Image.new("RGB", size, _BACKGROUND)
    drawing, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    lefts = [_LABEL + _GAP + sum(widths[:column]) + _GAP * column for column in range(len(widths))]
    for left, strength in zip(lefts, STRENGTHS, strict=True):
        drawing.text((left, 8), f"strength {strength:g}", "black", font)
    top = 24 + _GAP
    for kind, row, height in zip(kinds, rows, heights, strict=True):
        drawing.text((_GAP, top), kind, "black", font)
        for left, picture in zip(lefts, row, strict=True):
            sheet.paste(_on_paper(picture), (left, top))
        top += height + _GAP
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another file with --out") from error


def read_picture(path: Path | None, em: float = EM) -> np.ndarray:
    """Reads an image file, uint8 (H, W, 3); without a path, draws `FORMULA`, uint8 (H, W).

    Args:
        path: an image file, or None.
        em: font size of the drawn formula in pixels.

    Raises:
        UserError: the file is missing or not an image.
    """
    if path is None:
        return render(FORMULA, round(em * 7.2))
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise UserError(f"{path} is not an image ({error.strerror or 'unknown format'}); give a PNG or JPEG") from error


def _on_paper(picture: Image.Image) -> Image.Image:
    """Puts a transparent image on black or white, whichever shows its ink better."""
    if picture.mode != "RGBA":
        return picture
    paper = "white" if np.asarray(picture)[:, :, :3].mean() < 128 else "black"
    return Image.alpha_composite(Image.new("RGBA", picture.size, paper), picture)
