"""Degrades images of formulas as real inputs are: scaled, photographed, scanned, compressed, recoloured.

It uses NumPy and Pillow only. `degrade` applies one kind of change to an image. The strength ranges from 0, with little
or no change, to 1, where a person can still read every formula. Lengths are relative to the em (the font size), so that
a strength means the same at every resolution; only noise and JPEG blocks are measured in pixels, as in cameras and
files.

Directions, colours and patterns are random and depend on the generator only. The size of a change depends on the
strength only.
"""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from data.pictures.geometry import corners_of, paper_of, resample, warp
from im2latex.errors import UserError

WHITE = 255
# Default font size in pixels: 12 pt at 96 dots per inch.
EM = 16.0

Colour = Sequence[float] | np.ndarray
# Colours of ink and paper of dark pages: GitHub, VS Code, Solarized, Dracula, Nord, Discord, a blackboard.
_DARK_PAGES = (
    ((230, 237, 243), (13, 17, 23)),
    ((212, 212, 212), (30, 30, 30)),
    ((147, 161, 161), (0, 43, 54)),
    ((248, 248, 242), (40, 42, 54)),
    ((216, 222, 233), (46, 52, 64)),
    ((219, 222, 225), (49, 51, 56)),
    ((240, 240, 225), (38, 66, 52)),
)
# Maximum luma of coloured ink, because yellow on white cannot be read.
_BRIGHTEST_INK = 150


class Kind(NamedTuple):
    """A kind of degradation.

    Attributes:
        apply: takes the image, the strength, the random generator and the em in pixels; returns the degraded image.
        help: its description on the command line.
    """

    apply: Callable[[np.ndarray, float, np.random.Generator, float], np.ndarray]
    help: str


def degrade(image: np.ndarray, kind: str, strength: float, rng: np.random.Generator, em: float = EM) -> np.ndarray:
    """Applies one kind of degradation to an image.

    Args:
        image: uint8, (H, W) grey or (H, W, 3) RGB, ink darker than paper.
        kind: one of `KINDS`.
        strength: from 0 to 1.
        rng: random generator of directions, colours and patterns.
        em: font size in pixels.

    Returns:
        uint8. Grey images stay grey, except that kinds that add colour return (H, W, 3), and `transparency` returns
        (H, W, 4) RGBA. The kinds scale, rotation, perspective, shear, border and photo change the size.

    Raises:
        UserError: the kind is unknown.
        ValueError: the strength is out of range, or the image has another shape or dtype.
    """
    if kind not in KINDS:
        raise UserError(f"there is no degradation {kind!r}; the degradations are {', '.join(KINDS)}")
    if not 0 <= strength <= 1:
        raise ValueError(f"a strength is from 0 to 1, not {strength}")
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3):
        raise ValueError(f"an image is uint8 (H, W) or (H, W, 3), not {image.dtype} {image.shape}")
    return KINDS[kind].apply(image, strength, rng, em)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Rounds and clips numbers to uint8 grey levels."""
    return np.clip(np.rint(values), 0, WHITE).astype(np.uint8)


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


# --- geometry ---------------------------------------------------------------------------------


def _scale(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    # At least 8 pixels per em, where subscripts have five.
    if rng.random() < 0.5:
        factor = max(2.0**-strength, min(1.0, 8 / em))
        methods = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
    else:
        factor = 4.0**strength
        methods = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
    return resample(image, factor, methods[rng.integers(len(methods))])


def _rotation(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    angle = 3 * strength * _sign(rng)
    turned = Image.fromarray(image).rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor=paper_of(image))
    return np.asarray(turned)


def _perspective(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    """Moves one edge away from the viewer: its corners move together."""
    corners = corners_of(image)
    edge = int(rng.integers(4))
    start, end = corners[edge].copy(), corners[(edge + 1) % 4].copy()
    step = 0.1 * strength * min(image.shape[:2]) * (end - start) / np.linalg.norm(end - start)
    corners[edge], corners[(edge + 1) % 4] = start + step, end - step
    return warp(image, corners)


def _shear(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    corners = corners_of(image)
    corners[:, 0] += 0.15 * strength * _sign(rng) * corners[:, 1]
    return warp(image, corners)


# --- sharpness --------------------------------------------------------------------------------


def _blur(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(strength * em / EM)))


def _motion_blur(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    """Averages the image along a path of up to 3 pixels at 16 pixels per em."""
    length, angle = 3 * strength * em / EM, rng.uniform(0, math.pi)
    picture, paper = Image.fromarray(image), paper_of(image)
    count = 2 * math.ceil(length / 2) + 1
    total = np.zeros(image.shape, np.float32)
    for step in ((np.arange(count) + 0.5) / count - 0.5) * length:
        way = (1, 0, step * math.cos(angle), 0, 1, step * math.sin(angle))
        moved = picture.transform(picture.size, Image.Transform.AFFINE, way, Image.Resampling.BILINEAR, fillcolor=paper)
        total += np.asarray(moved)
    return _rounded(total / count)


def _sharpen(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    return np.asarray(ImageEnhance.Sharpness(Image.fromarray(image)).enhance(1 + 2 * strength))


def _jpeg(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    return compress(image, round(90 - 75 * strength))


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """Compresses an image as JPEG with a quality from 1 to 95, and decodes it again."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    with Image.open(file) as compressed:
        return np.asarray(compressed)


# --- ink --------------------------------------------------------------------------------------


def _dilation(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    """Makes strokes bolder by up to half a pixel on each side, at 16 pixels per em."""
    return _rounded(_spread(image, 0.5 * strength * em / EM, np.minimum))


def _erosion(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    """Makes strokes thinner by up to half a pixel on each side, at 16 pixels per em; fine ones keep half their ink."""
    faded = WHITE - (WHITE - image.astype(np.float32)) * (1 - strength / 2)
    return _rounded(np.minimum(_spread(image, 0.5 * strength * em / EM, np.maximum), faded))


def _spread(image: np.ndarray, radius: float, extreme: np.ufunc) -> np.ndarray:
    """Returns the darkest or lightest value within a radius in pixels, float32; interpolates for fractional radii."""

    def neighbours(image: np.ndarray) -> np.ndarray:
        padded = np.pad(image, [(1, 1), (1, 1), (0, 0)][: image.ndim], "edge")
        of_rows = extreme(extreme(padded[:-2], padded[1:-1]), padded[2:])
        return extreme(extreme(of_rows[:, :-2], of_rows[:, 1:-1]), of_rows[:, 2:])

    for _ in range(int(radius)):
        image = neighbours(image)
    return image + np.float32(radius % 1) * (neighbours(image).astype(np.float32) - image)


def _broken(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    return _specked(image, 2 * strength, 0.05 * em, paper_of(image), rng, em)


def _fading(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    """Makes parts of the ink lighter, by up to 70 %, as when a pen or printer runs dry."""
    lighter = 0.7 * strength * _smooth(image.shape[:2], 4 * em, rng)
    return _rounded(WHITE - (WHITE - image.astype(np.float32)) * (1 - _over(lighter, image)))


# --- colours ----------------------------------------------------------------------------------


def _recoloured(image: np.ndarray, ink: Colour, paper: Colour) -> np.ndarray:
    """Maps black to the ink colour and white to the paper colour. Returns (H, W, 3)."""
    levels = np.arange(256, dtype=np.float32)[:, np.newaxis] / WHITE
    table = _rounded(np.asarray(ink, np.float32) * (1 - levels) + np.asarray(paper, np.float32) * levels)
    return table[image] if image.ndim == 2 else table[image, np.arange(3)]


def _luma(colour: np.ndarray) -> float:
    """Returns the luma of ITU-R BT.601."""
    return float(colour @ (0.299, 0.587, 0.114))


def _contrast(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    """Reduces the contrast of ink and paper, down to a quarter, and shifts both to random lighter levels."""
    lost = 0.75 * strength * WHITE
    low = lost * rng.uniform(0.5, 1)
    return _rounded(np.linspace(low, low + WHITE - lost, 256))[image]


def _ink(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    colour = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.5, 1), 1)) * WHITE
    return _recoloured(image, strength * colour * min(1, _BRIGHTEST_INK / _luma(colour)), (WHITE,) * 3)


def _inverse(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    ink, paper = np.array(_DARK_PAGES[rng.integers(len(_DARK_PAGES))], np.float32)
    return _recoloured(image, WHITE + (ink - WHITE) * strength, paper * strength)


def _coloured_paper(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    colour = colorsys.hsv_to_rgb(rng.random(), 0.4 * strength * rng.random(), 1 - 0.25 * strength * rng.random())
    return _recoloured(image, (0, 0, 0), np.array(colour) * WHITE)


def _transparency(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    colour = rng.uniform(0, strength * WHITE, 3)
    grey = np.asarray(Image.fromarray(image).convert("L"))
    return np.dstack([np.broadcast_to(_rounded(colour), (*grey.shape, 3)), WHITE - grey])


# --- light and paper --------------------------------------------------------------------------


def _over(field: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Reshapes a field with one value per pixel, (H, W), so that it broadcasts over the image's channels."""
    return field if image.ndim == 2 else field[:, :, np.newaxis]


def _smooth(shape: tuple[int, ...], length: float, rng: np.random.Generator) -> np.ndarray:
    """Returns a smooth random field from 0 to 1, float32 (H, W), that varies over a length in pixels."""
    height, width = shape
    knots = rng.random((2 + math.ceil(height / length), 2 + math.ceil(width / length)), np.float32)
    return np.asarray(Image.fromarray(knots).resize((width, height), Image.Resampling.BILINEAR))


def _shadow(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    """Darkens the image to 60 % at most: a slope, a soft blob, or a band with soft edges."""
    height, width = image.shape[:2]
    y, x = np.arange(height, dtype=np.float32)[:, np.newaxis], np.arange(width, dtype=np.float32)
    angle, form = rng.uniform(0, 2 * math.pi), rng.integers(3)
    across = (x - width / 2) * math.cos(angle) + (y - height / 2) * math.sin(angle)
    reach = (abs(width * math.cos(angle)) + abs(height * math.sin(angle))) / 2
    if form == 0:
        dark = (across / reach + 1) / 2
    elif form == 1:
        centre_x, centre_y = rng.uniform(0, width), rng.uniform(0, height)
        radius_x, radius_y = rng.uniform(0.2, 0.5) * width, rng.uniform(0.5, 1) * height
        dark = np.exp(-(((x - centre_x) / radius_x) ** 2) - ((y - centre_y) / radius_y) ** 2)
    else:
        middle, half, edge = rng.uniform(-0.7, 0.7) * reach, rng.uniform(0.15, 0.4) * reach, em * rng.uniform(0.5, 2)
        dark = np.clip((half - np.abs(across - middle)) / edge + 0.5, 0, 1)
    return _rounded(image * _over(1 - 0.4 * strength * dark, image))


def _noise(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    """Adds Gaussian noise (standard deviation up to 25 levels) or, in a third of cases, salt and pepper (up to 2 %)."""
    if rng.random() < 2 / 3:
        return _grain(image, strength, rng, em)
    hit, share = _over(rng.random(image.shape[:2], np.float32), image), 0.01 * strength
    return np.where(hit < share, 0, np.where(hit < 2 * share, WHITE, image)).astype(np.uint8)


def _grain(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    return _rounded(image + 25 * strength * rng.standard_normal(image.shape, np.float32))


def _texture(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    """Makes paper darker in places, by up to 20 %, at scales from two ems to a fibre."""
    spots = np.mean([_smooth(image.shape[:2], length, rng) for length in (2 * em, em / 2, max(1.5, em / 8))], axis=0)
    return _rounded(image * _over(1 - 0.2 * strength * spots, image))


def _dust(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    paper = np.asarray(paper_of(image))
    dark = tuple((paper * 0.35).astype(int).tolist()) if image.ndim == 3 else int(paper * 0.35)
    return _specked(image, 0.15 * strength, 0.03 * em, dark, rng, em)


def _specked(
    image: np.ndarray,
    count: float,
    radius: float,
    colour: int | tuple[int, ...],
    rng: np.random.Generator,
    em: float,
) -> np.ndarray:
    """Draws specks of a colour, `count` per square em on average, with radii of up to `radius` pixels."""
    height, width = image.shape[:2]
    number = rng.poisson(count * height * width / em**2)
    # Draw four times as large and average, because a speck may be smaller than a pixel.
    mask = Image.new("L", (4 * width, 4 * height))
    drawing = ImageDraw.Draw(mask)
    for x, y, size in rng.random((number, 3)) * (4 * width, 4 * height, 1):
        half = 4 * radius * (0.4 + 0.6 * size)
        drawing.ellipse((x - half, y - half, x + half, y + half), WHITE)
    picture = Image.fromarray(image)
    picture.paste(colour, (0, 0), mask.reduce(4))
    return np.asarray(picture)


def _border(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    """Adds what careless cropping leaves beside a formula: part of a frame, of a line or of a page's dark edge."""
    gap, paper = math.ceil(0.6 * em), paper_of(image)
    height, width = (side + 2 * gap for side in image.shape[:2])
    picture = Image.new("L" if image.ndim == 2 else "RGB", (width, height), paper)
    picture.paste(Image.fromarray(image), (gap, gap))
    drawing = ImageDraw.Draw(picture)
    for side in rng.permutation(4)[: 1 + round(strength)]:
        thick = max(1, round(em * rng.choice((0.05, 0.05, 0.25)) * strength))
        level = round(WHITE * (1 - strength * rng.uniform(0.5, 1)))
        along = width if side % 2 == 0 else height
        start, end = np.sort(rng.choice((0, 0.3, 0.7, 1), 2, replace=False)) * along
        box = {
            0: (start, 0, end, thick - 1),
            1: (width - thick, start, width, end),
            2: (start, height - thick, end, height),
            3: (0, start, thick - 1, end),
        }[int(side)]
        drawing.rectangle(box, level if image.ndim == 2 else (level,) * 3)
    return np.asarray(picture)


def _photo(image: np.ndarray, strength: float, rng: np.random.Generator, em: float) -> np.ndarray:
    """Imitates a photo of a page taken with a phone."""
    for apply, share in ((_perspective, 1.0), (_shadow, 1.0), (_blur, 0.7), (_grain, 0.3), (_jpeg, 0.7)):
        image = apply(image, share * strength, rng, em)
    return image


KINDS = {
    "scale": Kind(_scale, "half to four times the size, by the methods of image programs"),
    "rotation": Kind(_rotation, "turned by up to 3 degrees"),
    "perspective": Kind(_perspective, "one edge farther away, and by up to a fifth shorter"),
    "shear": Kind(_shear, "slanted by up to 0.15"),
    "blur": Kind(_blur, "out of focus, by a standard deviation of up to 1/16 em"),
    "motion-blur": Kind(_motion_blur, "moved while it was taken, by up to 3/16 em"),
    "sharpen": Kind(_sharpen, "sharpened too much"),
    "jpeg": Kind(_jpeg, "JPEG, of quality 90 down to 15"),
    "dilation": Kind(_dilation, "bolder strokes, by up to 1/16 em"),
    "erosion": Kind(_erosion, "thinner and fainter strokes"),
    "broken": Kind(_broken, "strokes with small gaps"),
    "fading": Kind(_fading, "ink that is lighter in places, by up to 70 %"),
    "contrast": Kind(_contrast, "ink and paper nearer each other, down to a quarter"),
    "ink": Kind(_ink, "ink of a colour"),
    "inverse": Kind(_inverse, "light ink on a dark page"),
    "paper": Kind(_coloured_paper, "paper of a colour"),
    "transparency": Kind(_transparency, "ink of any colour, and no paper at all: a transparent PNG"),
    "shadow": Kind(_shadow, "light that falls to 60 %"),
    "noise": Kind(_noise, "Gaussian noise of up to 25 levels, or salt and pepper"),
    "texture": Kind(_texture, "uneven paper"),
    "dust": Kind(_dust, "specks"),
    "border": Kind(_border, "a part of a frame or rule beside the formula"),
    "photo": Kind(_photo, "perspective, shadow, blur, noise and JPEG together"),
}
