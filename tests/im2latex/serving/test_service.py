"""The service over HTTP, with the signatures of the model beside it."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gc
import gzip
import io
import itertools
import json
import logging
import re
import shutil
import socket
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from data.dataset.record import Example
from im2latex.models import ONNX
from pipeline.workspace import Workspace
from tests.im2latex.serving.conftest import LIMITS, Running, encoded, running, save_version
from trainer_module.trained import Trained


def b64(image: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(image).decode()}


def example(image: bytes) -> bytes:
    message = Example()
    message.features.feature["image"].bytes_list.value.append(image)
    return message.SerializeToString()


def read(signatures: Any, images: list[bytes], **beam: float) -> Any:
    """What the SavedModel itself reads, without any code of the service."""
    import tensorflow as tf

    given = {name: tf.constant(value) for name, value in beam.items()}
    return signatures["predict_alternatives" if beam else "predict_images"](images=tf.constant(images), **given)


def form(image: bytes, name: str = "image", filename: str = "formula.png") -> tuple[bytes, str]:
    """A form with one file as browsers and curl send it, and its content type."""
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
    return head.encode() + image + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge"


def metrics(service: Running) -> dict[tuple[str, tuple[str, ...]], float]:
    text = service.ask("GET", "/metrics").body.decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# --- The same answers as the model's own ----------------------------------------------------------------------------


def test_each_image_alone_is_answered_as_the_signature_answers_it(
    service: Running, signatures: Any, images: list[bytes]
) -> None:
    for image in images:
        own = read(signatures, [image])
        expected = {
            "latex": own["latex"][0].numpy().decode(),
            "log_probability": pytest.approx(float(own["log_probability"][0]), abs=1e-3),
        }
        for name, sent in (("predict_images", image), ("serving_default", example(image))):
            answer = service.predict({"signature_name": name, "instances": [b64(sent)]})
            assert answer.json == {"predictions": [expected]}
        found = service.ask("POST", "/predict", image).json
        assert {name: found[name] for name in expected} == expected and found["version"] == "7"


def test_a_blank_picture_has_a_status_of_its_own(service: Running, images: list[bytes]) -> None:
    blank = encoded(Image.new("RGB", (40, 20), "white"))
    answer = service.ask("POST", "/predict?clean=1&alternatives=3", blank)
    assert (answer.status, answer.json["status"], answer.json["latex"]) == (200, "blank", "")
    assert [one["latex"] for one in answer.json["alternatives"]] == [""]
    assert service.ask("POST", "/predict", images[0]).json["status"] == "read"
    asked = {"signature_name": "predict_images", "instances": [b64(blank)]}
    assert service.predict(asked).json == {"predictions": [{"latex": "", "log_probability": 0.0}]}


def test_images_of_one_request_are_answered_in_their_order(
    service: Running, signatures: Any, images: list[bytes]
) -> None:
    own = read(signatures, images)
    latex = [text.decode() for text in own["latex"].numpy()]
    by_columns = service.predict({"signature_name": "predict_images", "inputs": [b64(image) for image in images]}).json
    assert by_columns["outputs"]["latex"] == latex
    np.testing.assert_allclose(by_columns["outputs"]["log_probability"], own["log_probability"], atol=1e-3)
    by_rows = service.predict({"instances": [{"examples": b64(example(image))} for image in images]}).json
    assert [row["latex"] for row in by_rows["predictions"]] == latex


def test_alternatives_are_those_of_the_signature(service: Running, signatures: Any, images: list[bytes]) -> None:
    own = read(signatures, images[:1], width=4, length_penalty=0.5)
    inputs = {"images": [b64(images[0])], "width": 4, "length_penalty": 0.5}
    answer = service.predict({"signature_name": "predict_alternatives", "inputs": inputs}).json["outputs"]
    assert answer["latex"] == [[text.decode() for text in own["latex"][0].numpy()]]
    for name in ("log_probability", "score"):
        np.testing.assert_allclose(answer[name], own[name], rtol=0, atol=1e-3)
    own = read(signatures, images[:1], width=3, length_penalty=0.0)
    found = service.ask("POST", "/predict?alternatives=3", images[0]).json
    assert [one["latex"] for one in found["alternatives"]] == [text.decode() for text in own["latex"][0].numpy()]
    given = [one["log_probability"] for one in found["alternatives"]]
    np.testing.assert_allclose(given, own["log_probability"][0], rtol=0, atol=1e-3)
    assert found["alternatives"][0]["probability"] == pytest.approx(np.exp(given[0]))
    assert found["latex"] == found["alternatives"][0]["latex"]


def test_an_empty_batch_is_answered_as_the_signature_answers_it(service: Running) -> None:
    answer = service.predict({"signature_name": "predict_images", "inputs": []})
    assert answer.json == {"outputs": {"latex": [], "log_probability": []}}


def test_a_form_and_other_formats_are_read_as_the_png(service: Running, images: list[bytes], picture: Any) -> None:
    expected = service.ask("POST", "/predict", encoded(picture)).json["latex"]
    body, kind = form(encoded(picture))
    assert service.ask("POST", "/predict", body, **{"Content-Type": kind}).json["latex"] == expected
    for kind in ("TIFF", "GIF", "BMP"):
        assert service.ask("POST", "/predict", encoded(picture, kind)).json["latex"] == expected


def test_a_photograph_is_turned_in_an_upload_and_not_for_tensorflow_serving(
    service: Running, signatures: Any, picture: Image.Image
) -> None:
    notes = Image.Exif()
    notes[0x0112] = 6  # turn it by 90 degrees clockwise
    photograph = encoded(picture.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=97, exif=notes)
    with Image.open(io.BytesIO(photograph)) as image:
        lying, upright = encoded(image), encoded(image.transpose(Image.Transpose.ROTATE_270))
    own = {
        name: read(signatures, [sent])["latex"][0].numpy().decode()
        for name, sent in (("upright", upright), ("lying", lying))
    }
    assert own["upright"] != own["lying"]
    assert service.ask("POST", "/predict", photograph).json["latex"] == own["upright"]
    answer = service.predict({"signature_name": "predict_images", "inputs": [b64(photograph)]})
    assert answer.json["outputs"]["latex"] == [own["lying"]]


def test_clean_latex_is_without_blanks_that_tex_does_not_need(service: Running, images: list[bytes]) -> None:
    raw = service.ask("POST", "/predict?clean=0", images[1]).json["latex"]
    assert " " in raw
    assert service.ask("POST", "/predict?clean=1", images[1]).json["latex"] == raw.replace(" ", "")


def test_the_status_is_tensorflow_servings(service: Running, images: list[bytes]) -> None:
    status = {"version": "7", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/im2latex", "/v1/models/im2latex/versions/7"):
        assert service.ask("GET", path).json == {"model_version_status": [status]}
    asked = '{"signature_name": "predict_images", "inputs": []}'
    assert service.ask("POST", "/v1/models/im2latex/versions/7:predict", asked).status == 200
    for method, path in (("GET", "/v1/models/im2latex/versions/6"), ("POST", "/v1/models/im2latex/versions/6:predict")):
        answer = service.ask(method, path, asked)
        assert (answer.status, answer.json) == (404, {"error": "version 6 does not serve; 7 does"})


# --- What is wrong is said, and the service lives -------------------------------------------------------------------

WRONG_DOCUMENTS = {
    "no JSON": ('{"instances": [', "the body is not JSON"),
    "nested": ("[" * 100_000, "the body is not JSON"),
    "no UTF-8": (b'{"instances": "\xff"}', "the body is not JSON"),
    "a list": ("[]", 'an object with either "instances" or "inputs"'),
    "both": ('{"instances": [], "inputs": []}', 'either "instances" or "inputs"'),
    "no instance": ('{"instances": []}', "at least one instance"),
    "no list": ('{"instances": {"b64": ""}}', "has to be a list"),
    "another signature": ('{"signature_name": "../../etc", "instances": [1]}', "there is no signature '../../etc'"),
    "a list of signatures": ('{"signature_name": [null], "instances": null}', "there is no signature [None]"),
    "a number": ('{"instances": [7]}', "examples[0] has to be bytes"),
    "no base64": ('{"instances": [{"b64": "a*"}]}', "examples[0] is not base64"),
    "cut base64": ('{"instances": [{"b64": "abcde"}]}', "examples[0] is not base64"),
    "no example": ('{"instances": [{"b64": "AAAA"}]}', "examples[0] is not a serialised tf.Example"),
    "an example without an image": ('{"instances": [{"b64": ""}]}', 'a feature "image"'),
    "another input": ('{"instances": [{"pictures": {"b64": ""}}]}', 'has to hold "examples" alone'),
    "another column": ('{"inputs": {"pictures": []}}', "serving_default takes examples, and nothing else"),
    "no image": ('{"signature_name": "predict_images", "instances": ["x"]}', "of another format than PNG"),
    "width by rows": ('{"signature_name": "predict_alternatives", "instances": [{"images": "x"}]}', '"width"'),
    "no width": ('{"signature_name": "predict_alternatives", "inputs": {"images": []}}', '"width"'),
    "a wide beam": ('{"signature_name": "predict_alternatives", "inputs": {"images": [], "width": 1000}}', "1 to 32"),
    "no penalty": ('{"signature_name": "predict_alternatives", "inputs": {"images": [], "width": 1}}', "-9 to 9"),
    "an endless penalty": (
        '{"signature_name": "predict_alternatives", "inputs": {"images": [], "width": 1, "length_penalty": Infinity}}',
        "-9 to 9",
    ),
}


@pytest.mark.parametrize("kind", WRONG_DOCUMENTS)
def test_a_wrong_request_is_answered_with_a_sentence(kind: str, service: Running, images: list[bytes]) -> None:
    body, sentence = WRONG_DOCUMENTS[kind]
    answer = service.ask("POST", "/v1/models/im2latex:predict", body)
    assert answer.status == 400 and list(answer.json) == ["error"]
    assert sentence in answer.json["error"] and "\n" not in answer.json["error"]
    assert service.is_alive(images[0])


def test_the_image_that_is_damaged_is_named_and_the_others_of_the_batch_are_read(
    service: Running, images: list[bytes]
) -> None:
    torn = images[2][:-30]
    answer = service.predict({"signature_name": "predict_images", "inputs": [b64(i) for i in (*images[:2], torn)]})
    assert answer.status == 400
    assert answer.json["error"].startswith("image 3 of 3: the image is damaged: it cannot be decoded (")
    expected = [service.ask("POST", "/predict", image).json["latex"] for image in images]

    async def together() -> list[Any]:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{service.port}") as session:

            async def ask(image: bytes) -> Any:
                async with session.post("/predict", data=image) as answer:
                    return answer.status, (await answer.json()).get("latex")

            return await asyncio.gather(*(ask(image) for image in [torn, *images, torn]))

    assert asyncio.run(together()) == [(400, None), *((200, latex) for latex in expected), (400, None)]


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/predict?alternatives=0", 400, "alternatives has to be a whole number from 1 to 10"),
        ("/predict?alternatives=99999999999999999999", 400, "a whole number from 1 to 10"),
        ("/predict?alternatives=²", 400, "a whole number from 1 to 10"),
        ("/predict/../../etc/passwd", 404, "Not Found"),
        ("/katex/fonts/../../../pyproject.toml", 404, "Not Found"),
        ("/katex/fonts/%2e%2e%2fREADME.md", 404, "Not Found"),
        ("/v1/models/im2latex/versions/../../x:predict", 404, "Not Found"),
        ("/v1/models/other:predict", 404, "Not Found"),
    ],
)
def test_a_wrong_address_is_answered_with_a_sentence(
    path: str, status: int, sentence: str, service: Running, images: list[bytes]
) -> None:
    for method in ("POST",) if status == 400 else ("POST", "GET"):
        answer = service.ask(method, path.replace("²", "%C2%B2"), images[0])
        assert answer.status == status and sentence in answer.json["error"]


def test_a_wrong_method_is_refused(service: Running) -> None:
    answer = service.ask("GET", "/predict")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        (b"--edge--\r\n", "multipart/form-data; boundary=edge", "the form has no file"),
        (form(b"", "note")[0].replace(b'; filename="formula.png"', b""), form(b"")[1], "the form has no file"),
        (form(b"x" * 99)[0][:80], form(b"")[1], "the form is damaged"),
        (b"whatever", "multipart/form-data", "the form is damaged"),
        (b"whatever", "multipart/form-data; boundary=" + "x" * 100, "the form is damaged"),
        (form(b"")[0], form(b"")[1], "the image is empty"),
        (form(b"../../etc/passwd", filename="../../../etc/passwd")[0], form(b"")[1], "of another format"),
    ],
)
def test_a_wrong_form_is_answered_with_a_sentence(
    body: bytes, kind: str, sentence: str, service: Running, images: list[bytes]
) -> None:
    answer = service.ask("POST", "/predict", body, **{"Content-Type": kind})
    assert answer.status == 400 and sentence in answer.json["error"]
    assert service.is_alive(images[0])


@pytest.mark.parametrize("path", ["/predict", "/v1/models/im2latex:predict"])
@pytest.mark.parametrize("way", ["at once", "in chunks", "in a form", "compressed"])
def test_too_large_a_body_is_refused(path: str, way: str, service: Running, images: list[bytes]) -> None:
    body: Any = bytes(LIMITS.max_body + 1)
    headers = {}
    if way == "in chunks":
        body = itertools.repeat(bytes(10_000), 50)
    elif way == "in a form":
        body, headers["Content-Type"] = form(body)
    elif way == "compressed":
        body, headers["Content-Encoding"] = gzip.compress(bytes(50 * LIMITS.max_body)), "gzip"
    answer = service.ask("POST", path, body, **headers)
    assert answer.status == 413 and answer.json["error"].startswith("the body is larger than 400,000 bytes")
    assert service.is_alive(images[0])


# --- Slow and impolite clients --------------------------------------------------------------------------------------


def talk(service: Running, *parts: bytes, pause: float) -> tuple[bytes, float]:
    """What a client that sends parts with pauses gets before the connection is closed, and after how many seconds."""
    started = time.monotonic()
    got = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            while more := connection.recv(65536):
                got += more
        except (BrokenPipeError, ConnectionResetError):
            pass
    return got, time.monotonic() - started


def test_a_slow_body_is_given_up(service: Running, images: list[bytes]) -> None:
    for kind, parts in (("image/png", (b"a", b"b")), ("multipart/form-data; boundary=edge", (b"--ed", b"ge\r\n"))):
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
        got, seconds = talk(service, head.encode(), *parts, pause=0.1)
        assert got.startswith(b"HTTP/1.1 408") and b"the body did not arrive within 0.5 s" in got
        assert seconds < 10
    assert service.is_alive(images[0])
    assert service.service.images.taken == 0


@pytest.mark.parametrize("sent", [b"", b"POST /predict HTTP/1.1\r\nHost:"])
def test_a_slow_head_is_given_up(sent: bytes, service: Running, images: list[bytes]) -> None:
    got, seconds = talk(service, sent, pause=0)
    assert got == b"" and LIMITS.head_timeout * 0.5 < seconds < 8
    drops = [b"X"] * 15
    _, seconds = talk(service, b"GET /healthz HTTP/1.1\r\n", *drops, pause=0.2)
    assert seconds < 8
    assert service.is_alive(images[0])


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
             b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
             b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"]
)  # fmt: skip
def test_what_is_no_http_is_refused(sent: bytes, service: Running, images: list[bytes]) -> None:
    got, _ = talk(service, sent, pause=0)
    assert got == b"" or got.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
    assert b"Traceback" not in got
    assert service.is_alive(images[0])


def test_a_client_that_goes_away_leaves_no_place_taken(service: Running, images: list[bytes]) -> None:
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(images[0])}\r\n\r\n".encode()
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(head + images[0])
    assert service.is_alive(images[0])
    deadline = time.monotonic() + 10
    while service.service.images.taken and time.monotonic() < deadline:
        time.sleep(0.05)
    assert service.service.images.taken == 0


def test_bodies_that_hardly_come_take_no_place(model: Path, images: list[bytes]) -> None:
    with running(lambda: [model], dataclasses.replace(LIMITS, max_images=4, body_timeout=30)) as service:
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        slow = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(12)]
        for connection in slow:
            connection.sendall(head + b"x")
        assert service.ask("GET", "/readyz").status == 200
        assert service.is_alive(images[0])
        for connection in slow:
            connection.close()


def test_a_body_that_is_too_large_is_not_asked_for(service: Running) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1000000000000\r\n\r\n"
    got, _ = talk(service, head, pause=0)
    assert got.startswith(b"HTTP/1.1 413 ") and b"100 Continue" not in got


def test_clients_that_give_up_leave_nothing_in_the_log_but_that(
    service: Running, images: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "im2latex.serving")
    several = json.dumps({"signature_name": "predict_images", "instances": [b64(image) for image in images] * 6})
    for path, body in (("/predict", images[0]), ("/v1/models/im2latex:predict", several.encode())):
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        for part in (body, body[:-1]):
            for _ in range(4):
                with socket.create_connection(("127.0.0.1", service.port)) as connection:
                    connection.sendall(head + part)
    assert service.is_alive(images[0])
    deadline = time.monotonic() + 10
    while caplog.text.count(" 499 ") < 8 and time.monotonic() < deadline:
        time.sleep(0.05)
    gc.collect()
    assert caplog.text.count(" 499 ") >= 8
    assert "Traceback" not in caplog.text and "never retrieved" not in caplog.text


# --- Hostile requests -----------------------------------------------------------------------------------------------


def test_a_form_of_many_parts_is_refused_at_once(service: Running, images: list[bytes]) -> None:
    part = b'--e\r\nContent-Disposition: form-data; name=""\r\n\r\n\r\n'
    for body in (b"--e\r\n\r\n\r\n" * 30_000, part * 7_000, b"\r\n" * 190_000, b"--e\r\n" + b"\r" * 390_000):
        started = time.monotonic()
        answer = service.ask("POST", "/predict", body, **{"Content-Type": "multipart/form-data; boundary=e"})
        assert answer.status == 400 and "the form" in answer.json["error"]
        assert time.monotonic() - started < 2
    assert service.is_alive(images[0])


@pytest.mark.parametrize("header", ["X: " + "y" * 100_000, "X: y\r\n" * 2_000, "Y" * 100_000, ":", "\x00: y"])
def test_odd_headers_in_a_form_are_a_sentence(header: str, service: Running, images: list[bytes]) -> None:
    body = form(images[0])[0].replace(b"\r\n\r\n", b"\r\n" + header.encode() + b"\r\n\r\n", 1)
    answer = service.ask("POST", "/predict", body, **{"Content-Type": form(b"")[1]})
    assert answer.status == 400 and "the form is damaged" in answer.json["error"]


def test_compressed_bodies_are_read_and_damaged_ones_are_a_sentence(service: Running, images: list[bytes]) -> None:
    packed = gzip.compress(images[0])
    expected = service.ask("POST", "/predict", images[0]).json["latex"]
    for encoding, body in (("gzip", packed), ("deflate", zlib.compress(images[0])), ("identity", images[0])):
        answer = service.ask("POST", "/predict", body, **{"Content-Encoding": encoding})
        assert answer.json["latex"] == expected
    for broken in (packed[:-9], packed[:40], packed + b"more", b"x" + packed, packed[:20] + b"\xff" * 40, b""):
        answer = service.ask("POST", "/predict", broken, **{"Content-Encoding": "gzip"})
        assert answer.status == 400 and answer.json["error"].startswith("the body ")
    answer = service.ask("POST", "/predict", packed, **{"Content-Encoding": "br"})
    assert answer.status == 415 and "'br' is not known" in answer.json["error"]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("alternatives=" + "9" * 5_000, "a whole number from 1 to 10"),
        ("alternatives=", "a whole number from 1 to 10"),
        ("alternatives=1&alternatives=2", "given twice"),
        ("clean=of", "clean has to be 1 or 0"),
        ("cleen=1", "there is no parameter 'cleen'"),
        ("=", "there is no parameter ''"),
    ],
)
def test_a_wrong_parameter_is_a_sentence(query: str, sentence: str, service: Running, images: list[bytes]) -> None:
    answer = service.ask("POST", f"/predict?{query}", images[0])
    assert answer.status == 400 and sentence in answer.json["error"]


def test_no_means_no(service: Running, images: list[bytes]) -> None:
    raw = service.ask("POST", "/predict", images[1]).json["latex"]
    for word in ("off", "OFF", "no", "false", "0", ""):
        assert service.ask("POST", f"/predict?clean={word}", images[1]).json["latex"] == raw
    for word in ("on", "yes", "True", "1"):
        assert service.ask("POST", f"/predict?clean={word}", images[1]).json["latex"] == raw.replace(" ", "")


def test_every_answer_has_the_id_of_its_request(service: Running) -> None:
    assert service.ask("GET", "/healthz", **{"X-Request-ID": "mine.1"}).headers["x-request-id"] == "mine.1"
    made = {service.ask("GET", "/healthz", **{"X-Request-ID": "no id; of mine"}).headers["x-request-id"] for _ in "ab"}
    assert len(made) == 2 and all(re.fullmatch("[0-9a-f]{16}", identity) for identity in made)


# --- Capacity, new versions, the end --------------------------------------------------------------------------------


def test_small_requests_pass_large_ones_whose_pixels_are_bounded(model: Path, images: list[bytes]) -> None:
    sheet = Image.new("L", (1500, 1000), "white")
    sheet.paste("black", (300, 480, 900, 500))
    large = encoded(sheet)
    limits = dataclasses.replace(LIMITS, max_pixels=4 * 1500 * 1000)
    with running(lambda: [model], limits) as service:
        ended: list[float] = []

        def ask() -> None:
            answer = service.predict({"signature_name": "predict_images", "inputs": [b64(large)] * 4})
            assert answer.status == 200
            ended.append(time.monotonic())

        client = threading.Thread(target=ask)
        client.start()
        deadline = time.monotonic() + 20
        while service.service._decoding.pixels.taken < limits.max_pixels and time.monotonic() < deadline:
            time.sleep(0.002)
        assert service.is_alive(images[0])
        small = time.monotonic()
        client.join()
        assert small < ended[0]
        answer = service.predict({"signature_name": "predict_images", "inputs": [b64(large)] * 5})
        assert answer.status == 503 and answer.json["error"].startswith("too many large images are waiting")
        assert service.service._decoding.pixels.taken == service.service.bytes.taken == 0
        assert service.is_alive(large)


def test_the_bytes_of_all_bodies_are_bounded(model: Path, images: list[bytes]) -> None:
    with running(lambda: [model], dataclasses.replace(LIMITS, max_bytes=500_000, body_timeout=30)) as service:
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", service.port)) as slow:
            slow.sendall(head + bytes(300_000))
            deadline = time.monotonic() + 10
            while service.service.bytes.taken < 300_000 and time.monotonic() < deadline:
                time.sleep(0.01)
            answer = service.ask("POST", "/predict", bytes(300_000))
            assert answer.status == 503 and "bytes" in answer.json["error"] and "Retry-After" in answer.headers
            assert service.ask("GET", "/readyz").body == b"busy\n"
            assert service.is_alive(images[0])
        while service.service.bytes.taken and time.monotonic() < deadline + 10:
            time.sleep(0.01)
        assert service.service.bytes.taken == 0


async def flood(service: Running, image: bytes, count: int) -> list[tuple[int, dict[str, str], Any]]:
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{service.port}", connector=aiohttp.TCPConnector(limit=0)
    ) as session:

        async def ask() -> tuple[int, dict[str, str], Any]:
            async with session.post("/predict", data=image) as answer:
                return answer.status, dict(answer.headers), await answer.json()

        return await asyncio.gather(*(ask() for _ in range(count)))


def test_over_capacity_a_request_is_told_when_to_come_again(model: Path, images: list[bytes]) -> None:
    with running(lambda: [model], dataclasses.replace(LIMITS, max_images=4)) as service:
        answers = asyncio.run(flood(service, images[0], 60))
        latex = {body["latex"] for status, _, body in answers if status == 200}
        refused = [(headers, body) for status, headers, body in answers if status == 503]
        assert len(latex) == 1 and 0 < len(refused) <= 56
        assert len(refused) + sum(status == 200 for status, _, _ in answers) == 60
        for headers, body in refused:
            assert int(headers["Retry-After"]) >= 1 and body["error"].startswith("too many images are waiting")
        too_many = service.predict({"signature_name": "predict_images", "inputs": [b64(images[0])] * 5})
        assert (too_many.status, too_many.json["error"]) == (400, "a request may hold 4 images; send them in several")
        assert service.predict({"signature_name": "predict_images", "inputs": [b64(images[0])] * 4}).status == 200
        assert service.is_alive(images[0])


def test_no_request_is_lost_when_a_newer_version_takes_over(
    tmp_path: Path, model: Path, trained: Trained, images: list[bytes]
) -> None:
    workspace = Workspace(tmp_path / "workspace")
    shutil.copytree(model, workspace.serving / "im2latex" / "7")
    with running(workspace.versions) as service:
        with service.asked_on(images[0]) as answers:
            broken = save_version(tmp_path / "9", trained)
            (broken / ONNX).write_bytes((broken / ONNX).read_bytes()[:2000])
            shutil.move(broken, workspace.serving / "im2latex" / "9")
            shutil.move(save_version(tmp_path / "8", trained, says="n"), workspace.serving / "im2latex" / "8")
            deadline = time.monotonic() + 60
            while service.service.models.served.version != 8 and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.2)
        assert {answer.status for answer in answers} == {200}
        versions = [answer.json["version"] for answer in answers]
        assert set(versions) == {"7", "8"} and versions[-1] == "8"
        read = {version: {answer.json["latex"] for answer in answers if answer.json["version"] == version}
                for version in "78"}  # fmt: skip
        assert [len(of) for of in read.values()] == [1, 1]
        assert {*read["8"].pop().split()} == {"n"} and "n" not in read["7"].pop()
        counted = metrics(service)
        assert counted["im2latex_model_version", ()] == 8
        assert counted["im2latex_reloads_total", ("served",)] == 1
        assert counted["im2latex_reloads_total", ("passed over",)] == 1


def test_a_model_that_fails_is_an_answer_and_a_line_in_the_log(
    model: Path, images: list[bytes], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(lambda: [model]) as service:
        monkeypatch.setattr(service.service.models.served.reader, "read_normalised", fails)
        answer = service.ask("POST", "/predict", images[0])
        assert (answer.status, answer.json) == (500, {"error": "the model failed; the service's log says how"})
        deadline = time.monotonic() + 10
        while "out of memory" not in caplog.text and time.monotonic() < deadline:  # it is logged after the answer
            time.sleep(0.01)
        assert "POST /predict failed" in caplog.text and "out of memory" in caplog.text
        monkeypatch.undo()
        assert service.is_alive(images[0])


def fails(*_: Any) -> None:
    raise MemoryError("out of memory")


# --- What is seen of it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/page.js"), ("GET", "/metrics"), ("GET", "/healthz"), ("PUT", "/"),
                         ("GET", "/nowhere"), ("POST", "/predict"), ("GET", "/v1/models/im2latex")]
)  # fmt: skip
def test_every_answer_has_the_headers_that_browsers_are_safe_with(method: str, path: str, service: Running) -> None:
    headers = service.ask(method, path).headers
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer" and headers["Server"] == "im2latex"
    policy = dict(rule.strip().split(" ", 1) for rule in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert not re.search(r"unsafe|http|\*", headers["Content-Security-Policy"])
    assert "Access-Control-Allow-Origin" not in headers


def test_what_was_asked_is_counted(service: Running, images: list[bytes]) -> None:
    before = metrics(service)
    for _ in range(3):
        assert service.is_alive(images[0])
    service.ask("POST", "/predict", b"no image")
    after = metrics(service)

    def more(*of: Any) -> float:
        return after[of] - before.get(of, 0)

    assert more("im2latex_requests_total", ("/predict", "200")) == 3
    assert more("im2latex_requests_total", ("/predict", "400")) == 1
    assert more("im2latex_request_seconds_count", ("/predict",)) == 4
    assert more("im2latex_batch_images_count", ()) == 3 and more("im2latex_batch_images_sum", ()) == 3
    assert after["im2latex_queue_images", ()] == 0 and after["im2latex_model_version", ()] == 7
    assert after["process_resident_memory_bytes", ()] > 1e6


def test_it_says_that_it_is_alive_and_ready(service: Running) -> None:
    assert service.ask("GET", "/healthz").body == b"alive\n"
    assert service.ask("GET", "/readyz").body == b"version 7\n"
