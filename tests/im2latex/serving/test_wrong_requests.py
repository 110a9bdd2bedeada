"""Wrong requests get an error sentence, and the service continues."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import gzip
import itertools
import json
import logging
import re
import socket
import time
import zlib
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.im2latex.serving.clients import b64, form, talk
from tests.im2latex.serving.conftest import LIMITS, Running, running

# --- Wrong requests get an error, and the service continues ---------------------------------------------------------

WRONG_DOCUMENTS = {
    "no JSON": ('{"instances": [', "the body is not valid JSON"),
    "nested": ("[" * 100_000, "the body is not valid JSON"),
    "no UTF-8": (b'{"instances": "\xff"}', "the body is not valid JSON"),
    "a list": ("[]", 'an object with either "instances" or "inputs"'),
    "both": ('{"instances": [], "inputs": []}', 'either "instances" or "inputs"'),
    "no instance": ('{"instances": []}', "at least one instance"),
    "no list": ('{"instances": {"b64": ""}}', "has to be a list"),
    "another signature": ('{"signature_name": "../../etc", "instances": [1]}', "unknown signature '../../etc'"),
    "a list of signatures": ('{"signature_name": [null], "instances": null}', "unknown signature [None]"),
    "a number": ('{"instances": [7]}', "examples[0] has to be bytes"),
    "no base64": ('{"instances": [{"b64": "a*"}]}', "examples[0] is not base64"),
    "cut base64": ('{"instances": [{"b64": "abcde"}]}', "examples[0] is not base64"),
    "no example": ('{"instances": [{"b64": "AAAA"}]}', "examples[0] is not a serialised tf.Example"),
    "an example without an image": ('{"instances": [{"b64": ""}]}', 'a feature "image"'),
    "another input": ('{"instances": [{"pictures": {"b64": ""}}]}', 'can contain only "examples"'),
    "another column": ('{"inputs": {"pictures": []}}', "the inputs of serving_default have to be exactly examples"),
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


def test_a_damaged_image_is_named_and_the_others_of_the_batch_are_read(service: Running, images: list[bytes]) -> None:
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
        ("/predikt", 404, "there is no path /predikt; the page /docs lists the paths"),
        ("/predict/", 404, "there is no path /predict/;"),
        ("/predict/../../etc/passwd", 404, "there is no path /predict/../../etc/passwd;"),
        ("/katex/fonts/../../../pyproject.toml", 404, "there is no path /katex/"),
        ("/katex/fonts/%2e%2e%2fREADME.md", 404, "there is no path /katex/fonts/%2e%2e%2fREADME.md;"),
        ("/v1/models/im2latex/versions/../../x:predict", 404, "there is no path /v1/models/im2latex/versions/"),
        ("/v1/models/other:predict", 404, "there is no path /v1/models/other:predict;"),
        ("/" + "x" * 5000, 404, f"there is no path /{'x' * 199};"),
    ],
)
def test_a_wrong_address_is_answered_with_a_sentence(
    path: str, status: int, sentence: str, service: Running, images: list[bytes]
) -> None:
    for method in ("POST",) if status == 400 else ("POST", "GET"):
        answer = service.ask(method, path.replace("²", "%C2%B2"), images[0])
        assert answer.status == status and list(answer.json) == ["error"]
        assert sentence in answer.json["error"]


def test_a_version_that_is_no_number_is_answered_with_the_version_that_serves(service: Running) -> None:
    answer = service.ask("GET", "/v1/models/im2latex/versions/newest")
    sentence = "a version is a whole number, not 'newest'; version 7 is served"
    assert (answer.status, answer.json) == (404, {"error": sentence})


def test_a_wrong_method_is_answered_with_the_methods_of_the_path(service: Running) -> None:
    answer = service.ask("GET", "/predict")
    sentence = "/predict takes POST, not GET; the page /docs lists the requests"
    assert (answer.status, answer.headers["Allow"], answer.json) == (405, "POST", {"error": sentence})
    answer = service.ask("POST", "/readyz")
    assert answer.status == 405 and set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD"}
    assert answer.json == {"error": "/readyz takes GET or HEAD, not POST; the page /docs lists the requests"}


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


def test_a_slow_body_times_out(service: Running, images: list[bytes]) -> None:
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
def test_invalid_http_is_refused(sent: bytes, service: Running, images: list[bytes]) -> None:
    got, _ = talk(service, sent, pause=0)
    assert got == b"" or got.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
    assert b"Traceback" not in got
    assert service.is_alive(images[0])


def test_a_disconnected_client_frees_its_quota(service: Running, images: list[bytes]) -> None:
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


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(service: Running) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1000000000000\r\n\r\n"
    got, _ = talk(service, head, pause=0)
    assert got.startswith(b"HTTP/1.1 413 ") and b"100 Continue" not in got


def test_disconnected_clients_are_logged_as_one_line(
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
    deadline = time.monotonic() + 10
    while (caplog.text.count(" 499 ") < 8 or service.service.images.taken) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert service.is_alive(images[0])
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
    assert answer.status == 415 and "'br' is not supported" in answer.json["error"]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("alternatives=" + "9" * 5_000, "a whole number from 1 to 10"),
        ("alternatives=", "a whole number from 1 to 10"),
        ("alternatives=1&alternatives=2", "a parameter is repeated"),
        ("clean=of", "clean has to be 1 or 0"),
        ("cleen=1", "unknown parameter 'cleen'"),
        ("=", "unknown parameter ''"),
    ],
)
def test_a_wrong_parameter_is_a_sentence(query: str, sentence: str, service: Running, images: list[bytes]) -> None:
    answer = service.ask("POST", f"/predict?{query}", images[0])
    assert answer.status == 400 and sentence in answer.json["error"]


def test_false_values_of_a_parameter_are_false(service: Running, images: list[bytes]) -> None:
    raw = service.ask("POST", "/predict", images[1]).json["latex"]
    for word in ("off", "OFF", "no", "false", "0", ""):
        assert service.ask("POST", f"/predict?clean={word}", images[1]).json["latex"] == raw
    for word in ("on", "yes", "True", "1"):
        assert service.ask("POST", f"/predict?clean={word}", images[1]).json["latex"] == raw.replace(" ", "")


def test_every_answer_has_the_id_of_its_request(service: Running) -> None:
    assert service.ask("GET", "/healthz", **{"X-Request-ID": "mine.1"}).headers["x-request-id"] == "mine.1"
    identities = {
        service.ask("GET", "/healthz", **{"X-Request-ID": "no id; of mine"}).headers["x-request-id"] for _ in "ab"
    }
    assert len(identities) == 2 and all(re.fullmatch("[0-9a-f]{16}", identity) for identity in identities)
