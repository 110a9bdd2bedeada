"""The reader gives low probabilities to pictures without a formula."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import im2latex

WORDS = re.findall(
    r"\w+",
    "the of and to in is that for it was on are as with his they at be this from have or by one had not but what all "
    "were when we there can an your which their said if do will each about how up out them then she many some so these "
    "would other into has more her two like him see time could no make than first been its who now people my made over "
    "Invoice Chapter Figure Monday London Please contact support order number page window password settings account",
)


def blank(rng: np.random.Generator) -> Image.Image:
    """Paper: one level, or grain and uneven light."""
    height, width = rng.integers(20, 200, 2)
    level = rng.uniform(150, 255)
    light = np.linspace(0, rng.uniform(-20, 0), width)
    return Image.fromarray(
        np.clip(level + light + rng.normal(0, rng.choice([0, 2]), (height, width)), 0, 255).astype(np.uint8)
    )


def photo(rng: np.random.Generator) -> Image.Image:
    """Shapes and lines in colours, and noise."""
    height, width = rng.integers(60, 400, 2)
    small = rng.integers(rng.choice([0, 230]), 256, (rng.integers(3, 9), rng.integers(3, 9), 3)).astype(np.uint8)
    image = Image.fromarray(small).resize((int(width), int(height)), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(4, 25)):
        corners = (rng.uniform(-0.1, 1, 2) + [[0, 0], rng.uniform(0.02, 0.3, 2)]) * (width, height)
        draw.ellipse([*map(tuple, corners)], fill=tuple(rng.integers(0, 256, 3).tolist()))
    for _ in range(rng.integers(3, 20)):  # twigs, wires, edges
        course = np.cumsum(rng.normal(0, 15, (6, 2)), axis=0) + rng.uniform(0, 1, 2) * (width, height)
        draw.line([*map(tuple, course)], fill=tuple(rng.integers(0, 256, 3).tolist()), width=int(rng.integers(1, 5)))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1)))
    noisy = np.asarray(image) + rng.normal(0, rng.uniform(2, 15), (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def text(rng: np.random.Generator) -> Image.Image:
    """One to six lines of words, which are in its `info` without spaces."""
    size = int(rng.integers(12, 32))
    lines = [" ".join(rng.choice(WORDS, rng.integers(4, 9))) for _ in range(rng.integers(1, 7))]
    font = ImageFont.load_default(size)
    image = Image.new("L", (20 + int(max(font.getlength(line) for line in lines)), 20 + 2 * size * len(lines)), 255)
    ImageDraw.Draw(image).multiline_text((10, 10), "\n".join(lines), fill=0, font=font)
    image.info["words"] = "".join(lines).replace(" ", "")
    return image


def letters(latex: str) -> str:
    """Returns what a prediction of words spells, without spaces."""
    return re.sub(r"\\(mathrm|mathbf|text)\b|[{}~\s]", "", latex)


@pytest.fixture(scope="module")
def readings() -> dict[str, list[tuple[Image.Image, im2latex.Reading]]]:
    """Draws and reads 200 pictures without a formula, by kind."""
    by_kind = {}
    for index, (make, count) in enumerate({blank: 60, photo: 70, text: 70}.items()):
        pictures = [make(np.random.default_rng((index, number))) for number in range(count)]
        by_kind[make.__name__] = list(zip(pictures, im2latex.predict(pictures), strict=True))
    return by_kind


@pytest.mark.one_stack
@pytest.mark.parametrize("kind", ["blank", "photo", "text"])
def test_a_picture_without_a_formula_has_a_low_probability(
    readings: dict[str, list[tuple[Image.Image, im2latex.Reading]]], kind: str
) -> None:
    probability = np.array([reading.probability for _, reading in readings[kind]])
    # A short line of words can be read correctly, as \mathrm. That is no wrong answer with a high probability.
    wrong = np.array([letters(reading.latex) != picture.info.get("words") for picture, reading in readings[kind]])
    # Of real formulas, half have one above 0.5.
    assert (probability[wrong] < 0.5).mean() >= 0.98
    assert np.median(probability) < 0.05
