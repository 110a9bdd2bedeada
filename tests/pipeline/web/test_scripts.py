"""The scripts give the same results as the Python code that they are ported from."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.pictures.synthetic import draw_png, formulas
from im2latex.clean import clean
from im2latex.images import normalise, rescale
from tests.browser import Browser
from tests.pipeline.web.conftest import FORMULAS, Scripts, hosted
from trainer_module.config.image import ImageConfig

READER = ImageConfig(max_height=512, max_width=1024, border=4, glyph_size=16)
FORMS = (
    READER,
    dataclasses.replace(READER, glyph_size=0),
    ImageConfig(max_height=32, max_width=48, border=3, glyph_size=20),
)


@pytest.fixture(scope="module")
def scripts(browser: Browser, folder: Path) -> Iterator[Scripts]:
    with hosted(folder) as server:
        browser.driver.get(f"http://127.0.0.1:{server.server_port}/model.json")
        yield Scripts(browser)


def sheets() -> Iterator[np.ndarray]:
    """Pictures of every kind, uint8 (height, width, 4)."""
    random_numbers = np.random.default_rng(5)
    for i, formula in enumerate(formulas(3, seed=7, level="full")):
        grey = Image.open(io.BytesIO(draw_png(formula, em=17))).convert("L")
        side = 0.5 * 2.5**i
        grey = grey.resize((max(round(grey.width * side), 1), max(round(grey.height * side), 1)))
        level = np.pad(np.asarray(grey, np.float32), ((3, 11), (17, 5)), constant_values=255)
        light = np.linspace(1, 0.5, level.shape[1])
        noise = random_numbers.normal(0, 9, level.shape)
        for version in (level, 255 - level, level * light, level * 0.3 + 100, np.clip(level * light + noise, 0, 255)):
            yield opaque(np.rint(version).astype(np.uint8))
        colours = np.stack([level, level // 2 + 100, 255 - level // 4], axis=2)
        yield opaque(colours.astype(np.uint8))
        for ink in (0, 200, 255):
            yield np.dstack([np.full((*level.shape, 3), ink, np.uint8), (255 - level).astype(np.uint8)])
    for shape in ((1, 1), (1, 40), (40, 1), (3, 3), (300, 7), (700, 500)):
        yield opaque(np.full(shape, 255, np.uint8))
        yield opaque(random_numbers.integers(0, 256, shape, np.uint8))
        yield opaque((random_numbers.random(shape) < 0.9).astype(np.uint8) * 255)
        yield random_numbers.integers(0, 256, (*shape, 4), np.uint8)


def opaque(colours: np.ndarray) -> np.ndarray:
    colours = colours if colours.ndim == 3 else np.stack([colours] * 3, axis=2)
    return np.dstack([colours, np.full(colours.shape[:2], 255, np.uint8)])


def as_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


NORMALISE = """
const { normalise } = await load("images.js");
const { estimator } = await (await fetch("model.json")).json();
const [height, width, data] = [given[0], given[1], new Uint8ClampedArray(bytes(given[2]).buffer)];
return given[3].map((form) => {
  const found = normalise({ height, width, data }, form, estimator);
  let text = "";
  for (const level of found.pixels) text += String.fromCharCode(level);
  return [found.height, found.width, btoa(text)];
});
"""


def test_images_become_the_same_pixels(scripts: Scripts) -> None:
    forms = [dataclasses.asdict(form) for form in FORMS]
    for pixels in sheets():
        answers = scripts.call(NORMALISE, *pixels.shape[:2], base64.b64encode(pixels.tobytes()).decode(), forms)
        for (height, width, content), form in zip(answers, FORMS, strict=True):
            expected = normalise(as_png(pixels), form)
            assert (height, width) == expected.shape
            got = np.frombuffer(base64.b64decode(content), np.uint8).reshape(expected.shape)
            off = np.abs(got.astype(int) - expected)
            # Where float32 sums end on a half, another order of summing rounds otherwise.
            assert off.max() <= 1 and off.mean() < 0.001


RESCALE = """
const { rescale } = await load("images.js");
const found = rescale({ height: given[0], width: given[1], pixels: bytes(given[2]) }, given[3], given[4]);
let text = "";
for (const level of found.pixels) text += String.fromCharCode(level);
return [found.height, found.width, btoa(text)];
"""


@pytest.mark.parametrize("scale", [0.85, 1.18, 4.0])
def test_rescaled_images_become_the_same_pixels(scripts: Scripts, scale: float) -> None:
    form = READER
    for pixels in itertools.islice(sheets(), 0, None, 5):
        image = normalise(as_png(pixels), form)
        content = base64.b64encode(image.tobytes()).decode()
        height, width, content = scripts.call(RESCALE, *image.shape, content, scale, dataclasses.asdict(form))
        expected = rescale(image, scale, form)
        assert (height, width) == expected.shape
        got = np.frombuffer(base64.b64decode(content), np.uint8).reshape(expected.shape)
        off = np.abs(got.astype(int) - expected)
        assert off.max() <= 1 and off.mean() < 0.001


def written() -> list[str]:
    """Formulas of tokens, and the same with missing, doubled and moved tokens, as models write them."""
    if FORMULAS.exists():
        lines = FORMULAS.read_text("utf-8").splitlines()[:20_000:20]
    else:
        lines = list(formulas(200, seed=3, level="full"))
    numbers = random.Random(3)
    broken = []
    for line in lines:
        tokens = line.split(" ")
        for _ in range(numbers.randint(1, 3)):
            at, other = numbers.randrange(len(tokens)), numbers.randrange(len(tokens))
            tokens[at] = numbers.choice(["", "}", "{", tokens[other], "\\prime", "\\operatorname", "^", "_", "["])
        broken.append(" ".join(filter(None, tokens)))
    return lines + broken + written_by_hand()


def written_by_hand() -> list[str]:
    names = ["s i n", "l i m", "l i m i n f", "t r", "M a x"]
    operators = [f"\\operatorname{star} {{ {name} }} _ {{ x }} y" for name in names for star in ("", "*")]
    pairs = ["\\\\", "\\alpha", "*", "[", "a", "1", "\\mbox", "\\left(", "\\right)", "\\", "~", "\\hspace", "\\tag"]
    return [*operators, *map(" ".join, itertools.permutations(pairs, 2)), "", "é \\é", "\\mathrm { a \\ b }",
            "\\begin{array} [ t ] { l @ { x } r } a & b \\\\ [ 4 m m ] c & d \\end{array}", "x ^ { \\prime 2 } ^ a",
            "a \\rm b \\over c", "\\label { a b } x _ { 1 0 } 2", "% a"]  # fmt: skip


def test_latex_is_cleaned_to_what_a_person_would_type(scripts: Scripts) -> None:
    texts = written()
    script = 'const { clean } = await load("clean.js"); return given[0].map(clean);'
    got: Sequence[Any] = scripts.call(script, texts)
    wrong = [(latex, one, clean(latex)) for latex, one in zip(texts, got, strict=True) if one != clean(latex)]
    assert wrong == []
    assert len({*got} - {*texts}) > 200, json.dumps(got[:9])
