"""Any request gets a result or an error sentence; no other exceptions."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data.dataset.record import Example
from data.pictures.synthetic import draw_png
from im2latex import pictures
from im2latex.clean import clean
from im2latex.errors import ImageError, UserError
from im2latex.pictures import prepare
from im2latex.serving import rest
from im2latex.serving.example import images_of_example
from tests.im2latex.serving.conftest import FUZZ, Running, encoded

FUZZED = settings(max_examples=FUZZ, deadline=None, suppress_health_check=list(HealthCheck), database=None)

PNG = draw_png("x + 1", em=11)
KINDS = (("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "BMP"), ("L", "BMP"),
         ("P", "GIF"), ("L", "TIFF"), ("RGB", "WEBP"))  # fmt: skip
SEEDS = [encoded(Image.open(io.BytesIO(PNG)).convert(mode), kind) for mode, kind in KINDS]


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Returns one of the seeds with some bytes changed, removed or inserted."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        position = draw(st.integers(0, len(content)))
        content[position : position + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


EXAMPLE = Example()
EXAMPLE.features.feature["image"].bytes_list.value.append(b"picture")
EXAMPLE.features.feature["latex"].bytes_list.value.append(b"x")
EXAMPLE.features.feature["size"].int64_list.value.extend([3, 300])
EXAMPLE = EXAMPLE.SerializeToString()

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
        picture = prepare(content)
    except ImageError as error:
        assert str(error).startswith("the image ")
        return
    assert picture.width * picture.height <= pictures.MAX_PIXELS


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


def turned(image: bytes) -> bytes:
    """The picture as a rotated photograph with metadata."""
    notes = Image.Exif()
    notes[0x0112], notes[0x010F], notes[0x8769] = 6, "camera", {0x9003: "2026:11:27 12:00:00", 0x829A: 0.01}
    return encoded(Image.open(io.BytesIO(image)).convert("RGB"), "JPEG", exif=notes)


def form(image: bytes) -> bytes:
    head = b'--e\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    return head + image + b'\r\n--e\r\nContent-Disposition: form-data; name="note"\r\n\r\ntext\r\n--e--\r\n'


UPLOADS = {
    (): [*SEEDS, turned(PNG)],
    (("Content-Type", "multipart/form-data; boundary=e"),): [form(PNG), form(b"")],
    (("Content-Encoding", "gzip"),): [gzip.compress(PNG)],
    (("Content-Encoding", "deflate"),): [zlib.compress(PNG)],
}
QUERIES = ["", "?clean=1", "?alternatives=2", "?alternatives=x", "?clean=&x=1", "?%00=%ff"]


@settings(FUZZED, max_examples=max(FUZZ // 10, 100))
@given(st.data(), st.sampled_from(list(UPLOADS)), st.sampled_from(QUERIES))
def test_the_service_answers_any_upload(
    service: Running, data: st.DataObject, headers: tuple[tuple[str, str], ...], query: str
) -> None:
    content = data.draw(damaged(UPLOADS[headers]))
    answer = service.ask("POST", f"/predict{query}", content, **dict(headers))
    assert answer.status in (200, 400) and ("latex" in answer.json) == (answer.status == 200)


@settings(FUZZED, max_examples=max(FUZZ // 10, 100))
@given((REQUESTS | JSON).map(lambda document: json.dumps(document).encode()))
def test_the_service_answers_any_request_of_tensorflow_serving(service: Running, body: bytes) -> None:
    answer = service.ask("POST", "/v1/models/im2latex:predict", body)
    assert answer.status in (200, 400) and ("error" in answer.json) == (answer.status == 400)


@FUZZED
@given(st.binary(max_size=40) | damaged([EXAMPLE]))
def test_an_example_is_read_as_protobuf_reads_it(serialised: bytes) -> None:
    expected: Any = Example()
    try:
        expected.ParseFromString(serialised)
    except DecodeError:
        expected = None
    try:
        images = images_of_example(serialised)
    except ValueError:
        assert expected is None
        return
    if expected is not None:  # protobuf also refuses errors in parts that are not read
        feature = expected.features.feature
        assert images == (list(feature["image"].bytes_list.value) if "image" in feature else [])


def test_the_service_is_alive_after_all_that(service: Running, images: list[Any]) -> None:
    assert service.is_alive(images[0])
    assert service.service.images.taken == 0
