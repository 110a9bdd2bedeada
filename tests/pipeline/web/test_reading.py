"""The page gives the same results as the command, without a server."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

import im2latex
from data.pictures.synthetic import draw_png, formulas
from tests.pipeline.web.conftest import Page, real_pictures

WIDTH = 5


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def forms(png: bytes) -> dict[str, bytes]:
    """One formula in other formats, sizes and colours, and as rotated photographs."""
    grey = Image.open(io.BytesIO(png)).convert("L")
    large = grey.resize((grey.width * 3, grey.height * 3), Image.Resampling.BICUBIC)
    blue = Image.merge("RGB", (grey, grey, grey.point(lambda level: 128 + level // 2)))
    clear = Image.merge("LA", (Image.new("L", grey.size, 255), grey.point(lambda level: 255 - level)))
    turned = large.transpose(Image.Transpose.ROTATE_270)
    exif = Image.Exif()
    exif[0x0112] = 8  # turned to the left
    light = (np.asarray(large, np.float32) * np.linspace(1, 0.6, large.width)).astype(np.uint8)
    return {
        "png": png,
        "jpeg": saved(large, "JPEG", quality=90),
        "bmp": saved(blue, "BMP"),
        "gif": saved(grey, "GIF"),
        "webp": saved(blue, "WEBP", lossless=True),
        "white on black": saved(grey.point(lambda level: 255 - level), "PNG"),
        "white on nothing": saved(clear, "PNG"),
        "palette": saved(blue.quantize(16), "PNG"),
        "turned": saved(turned, "JPEG", quality=95, exif=exif),
        "uneven light": saved(Image.fromarray(light), "PNG"),
    }


def test_it_gives_the_results_of_the_command_without_requests(page: Page) -> None:
    assert page.requests()
    drawn = [draw_png(formula, em=17) for formula in formulas(4, seed=5, level="standard", max_tokens=30)]
    pictures = real_pictures(100 - 10) + list(forms(drawn[0]).values()) + drawn[1:]
    answers = page.read(pictures)
    assert page.requests() == []
    assert page.driver.get_log("browser") == []
    for answer, expected in zip(answers, im2latex.predict(pictures, alternatives=WIDTH), strict=True):
        alternatives = [(one["latex"], one["log_probability"]) for one in answer["alternatives"]]
        assert answer["status"] == "read"
        assert [latex for latex, _ in alternatives] == [one.clean for one in expected.alternatives]
        log_probabilities = [one.log_probability for one in expected.alternatives]
        np.testing.assert_allclose([number for _, number in alternatives], log_probabilities, rtol=0, atol=0.01)
        probabilities = [one["probability"] for one in answer["alternatives"]]
        np.testing.assert_allclose(probabilities, [one.probability for one in expected.alternatives], rtol=0, atol=0.01)
    # The default search of the model, which is wider than the request.
    alone = page.read(pictures[:3], alternatives=1)
    best = [reading.clean for reading in im2latex.predict(pictures[:3])]
    assert [[one["latex"] for one in answer["alternatives"]] for answer in alone] == [[latex] for latex in best]
