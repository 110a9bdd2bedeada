"""The kinds of pictures for the robustness test: the examples unchanged, and as cameras, screens and files change them.

The same examples and seed give the same pictures. `data.pictures.degradation` defines the strengths.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.dataset.record import Record
from data.defaults import HELD_OUT_FONT
from data.pictures.degradation import EM, compress, degrade
from data.pictures.geometry import resample
from data.pictures.looks import look_of

# The key of these slices in rules and summaries: `picture=jpeg-30`.
PICTURE = "picture"
NATIVE, UNSEEN_FONT = "native", "unseen-font"


class PictureKind(NamedTuple):
    """A kind of picture."""

    help: str
    # Makes it from the example's picture, uint8 (H, W) or (H, W, 3), a random generator, and the em in pixels.
    make: Callable[[np.ndarray, np.random.Generator, float], np.ndarray]


def _resampled(factor: float) -> PictureKind:
    return PictureKind(f"resampled to {factor:g} times its size", lambda image, rng, em: resample(image, factor))


def _degraded(kind: str, strength: float, help: str) -> PictureKind:
    return PictureKind(help, lambda image, rng, em: degrade(image, kind, strength, rng, em))


PICTURES = {
    NATIVE: PictureKind("as it is", lambda image, rng, em: image),
    **{f"size-{factor:g}": _resampled(factor) for factor in (0.5, 0.75, 1.5, 2, 3, 4)},
    "blur": _degraded("blur", 0.5, "out of focus, by a standard deviation of 1/32 em"),
    "jpeg-30": PictureKind("JPEG of quality 30", lambda image, rng, em: compress(image, 30)),
    "rotation": _degraded("rotation", 0.5, "turned by 1.5 degrees"),
    "noise": _degraded("noise", 0.5, "Gaussian noise of 12.5 levels, or salt and pepper on 1 % of the pixels"),
    "contrast": _degraded("contrast", 0.5, "contrast lower by 3/8"),
    "ink": _degraded("ink", 1, "coloured ink"),
    "inverse": _degraded("inverse", 1, "light ink on a dark page"),
    "transparency": _degraded("transparency", 1, "transparent background, ink of any colour"),
    "shadow": _degraded("shadow", 0.5, "shadow with 80 % of the light"),
    "perspective": _degraded("perspective", 0.5, "one edge a tenth shorter"),
    "erosion": _degraded("erosion", 0.5, "thinner strokes"),
    "dilation": _degraded("dilation", 0.5, "bolder strokes, by 1/32 em"),
    "photo": _degraded("photo", 0.5, "perspective, shadow, blur, noise and JPEG together"),
    UNSEEN_FONT: PictureKind(
        f"drawn in the font {HELD_OUT_FONT}, which no training set has", lambda image, rng, em: image
    ),
}


class RobustnessTest(NamedTuple):
    """How to test a model on other kinds of pictures."""

    examples: int  # number of examples of the split, for each kind
    seed: int = 0  # for the choice of examples, and for directions, colours and patterns


class Trial(NamedTuple):
    """One picture of the robustness test."""

    kind: str
    example: int  # index in the records
    name: str  # of that record
    target: str  # its formula
    image: bytes  # PNG; for an unchanged example its image


def trials(
    records: Iterable[Record], robustness: RobustnessTest, progress: Callable[[int], None] | None = None
) -> list[Trial]:
    """Makes the pictures of every kind. Only the records that it chooses are in memory.

    Args:
        records: the examples, which are iterated twice; their images must be valid.
        robustness: number of examples, and seed.
        progress: called with the number of pictures made since the last call.

    Returns:
        For each kind `robustness.examples` pictures, or one for each record if there are fewer. Records in the held-out
        font are used for the kind `unseen-font` only, unless all records have that font. Without such records, the kind
        `unseen-font` is missing.
    """
    is_held_out = np.array([_is_held_out(record.name) for record in records], bool)
    held_out = _sample(np.flatnonzero(is_held_out), robustness)
    others = _sample(np.flatnonzero(~is_held_out), robustness) or held_out
    needed = {*held_out, *others}
    chosen = {i: record for i, record in enumerate(records) if i in needed}
    pictures = []
    for kind, picture in PICTURES.items():
        for i in held_out if kind == UNSEEN_FONT else others:
            name, image = chosen[i].name, chosen[i].image
            if kind not in (NATIVE, UNSEEN_FONT):
                rng = np.random.default_rng((robustness.seed, zlib.crc32(kind.encode()), i))
                image = _png(picture.make(_pixels(image), rng, _em(name)))
            pictures.append(Trial(kind, i, name, chosen[i].latex, image))
            if progress is not None:
                progress(1)
    return pictures


def _is_held_out(name: str) -> bool:
    look = look_of(name)
    return look is not None and look.font == HELD_OUT_FONT


def _sample(places: np.ndarray, robustness: RobustnessTest) -> list[int]:
    order = np.random.default_rng(robustness.seed).permutation(len(places))
    return sorted(places[order[: robustness.examples]].tolist())


def _em(name: str) -> float:
    """Returns the font size from the name of a drawn record, pixels; `EM` for other records."""
    look = look_of(name)
    return EM if look is None else look.em


def _pixels(encoded: bytes) -> np.ndarray:
    """Decodes a picture: uint8 (H, W) if it is grey, else (H, W, 3); transparent pixels become white."""
    with Image.open(io.BytesIO(encoded)) as image:
        if image.mode in ("1", "L"):
            return np.asarray(image.convert("L"))
        coloured = image.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB"))


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()
