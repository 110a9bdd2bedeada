"""Whatever is sent, there is an answer or a sentence, and nothing else is raised."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data.pictures.synthetic import draw_png
from im2latex import pictures
from im2latex.clean import clean
from im2latex.errors import ImageError, UserError
from im2latex.pictures import prepare
from im2latex.serving import rest
from tests.im2latex.serving.conftest import FUZZ, Running, encoded

FUZZED = settings(max_examples=FUZZ, deadline=None, suppress_health_check=list(HealthCheck), database=None)

PNG = draw_png("x + 1", em=11)
KINDS = (("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "BMP"), ("L", "BMP"),
         ("P", "GIF"), ("L", "TIFF"), ("RGB", "WEBP"))  # fmt: skip
SEEDS = [encoded(Image.open(io.BytesIO(PNG)).convert(mode), kind) for mode, kind in KINDS]


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of the seeds with some bytes changed, left out or put in."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(content)))
        content[place : place + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


NAMES = st.sampled_from([*rest.SIGNATURES, "", "signature_name", "instances", "inputs", "images", "examples", "b64",
                         "width", "length_penalty"])  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NAMES | st.text(max_size=8) | st.just("iVBORw0KGgo="),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=5),
    max_leaves=12,
)
REQUESTS = st.fixed_dictionaries(
    {}, optional={"signature_name": NAMES, "instances": JSON, "inputs": JSON | st.dictionaries(NAMES, JSON)}
)


@FUZZED
@given(damaged(SEEDS) | st.binary(max_size=64))
@pytest.mark.filterwarnings("ignore")
def test_a_file_is_a_picture_or_a_sentence(content: bytes) -> None:
    try:
        found = prepare(content)
    except ImageError as error:
        assert str(error).startswith("the image ")
        return
    assert found.width * found.height <= pictures.MAX_PIXELS


@FUZZED
@given((REQUESTS | JSON).map(lambda document: json.dumps(document).encode()) | st.binary(max_size=40))
def test_a_body_is_a_request_or_a_sentence(body: bytes) -> None:
    try:
        request = rest.parse(body)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert all(isinstance(image, bytes) for image in request.images)


@FUZZED
@given(st.text() | st.text(alphabet="{}_^\\\\ abz19&'[]*~").map(lambda text: " ".join(text)))
def test_any_text_can_be_cleaned(latex: str) -> None:
    assert isinstance(clean(latex), str)


@settings(FUZZED, max_examples=max(FUZZ // 10, 100))
@given(damaged(SEEDS), st.sampled_from(["", "?clean=1", "?alternatives=2", "?alternatives=x"]))
def test_the_service_answers_whatever_is_uploaded(service: Running, content: bytes, query: str) -> None:
    answer = service.ask("POST", f"/predict{query}", content)
    assert answer.status in (200, 400) and ("latex" in answer.json) == (answer.status == 200)


def test_the_service_is_alive_after_all_that(service: Running, images: list[Any]) -> None:
    assert service.is_alive(images[0])
    assert service.service.images.taken == 0
