"""The service over HTTP, compared with the signatures of the model."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import re
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from data.dataset.record import Example
from im2latex.models import ONNX
from im2latex.reader import Reader
from im2latex.reading import Beam
from pipeline.workspace import Workspace
from tests.im2latex.serving.clients import b64, form
from tests.im2latex.serving.conftest import LIMITS, Running, encoded, running, save_version
from trainer_module.config.decoding import DecodingConfig
from trainer_module.trained import Trained


def example(image: bytes) -> bytes:
    message = Example()
    message.features.feature["image"].bytes_list.value.append(image)
    return message.SerializeToString()


def read(signatures: Any, images: list[bytes], **beam: float) -> Any:
    """The results of the SavedModel, without any code of the service."""
    import tensorflow as tf

    parameters = {name: tf.constant(value) for name, value in beam.items()}
    return signatures["predict_alternatives" if beam else "predict_images"](images=tf.constant(images), **parameters)


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
            "probability": pytest.approx(float(own["probability"][0]), abs=1e-3),
        }
        for name, sent in (("predict_images", image), ("serving_default", example(image))):
            answer = service.predict({"signature_name": name, "instances": [b64(sent)]})
            assert answer.json == {"predictions": [expected]}
        prediction = service.ask("POST", "/predict", image).json
        assert {name: prediction[name] for name in expected} == expected and prediction["version"] == "7"


def test_a_blank_picture_has_a_status_of_its_own(service: Running, images: list[bytes]) -> None:
    blank = encoded(Image.new("RGB", (40, 20), "white"))
    answer = service.ask("POST", "/predict?clean=1&alternatives=3", blank)
    assert (answer.status, answer.json["status"], answer.json["latex"]) == (200, "blank", "")
    assert [one["latex"] for one in answer.json["alternatives"]] == [""]
    assert service.ask("POST", "/predict", images[0]).json["status"] == "read"
    request = {"signature_name": "predict_images", "instances": [b64(blank)]}
    assert service.predict(request).json == {"predictions": [{"latex": "", "log_probability": 0.0, "probability": 0.0}]}


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
    prediction = service.ask("POST", "/predict?alternatives=3", images[0]).json
    assert [one["latex"] for one in prediction["alternatives"]] == [text.decode() for text in own["latex"][0].numpy()]
    log_probabilities = [one["log_probability"] for one in prediction["alternatives"]]
    np.testing.assert_allclose(log_probabilities, own["log_probability"][0], rtol=0, atol=1e-3)
    assert prediction["alternatives"][0]["probability"] == pytest.approx(np.exp(log_probabilities[0]), abs=2e-5)
    assert prediction["latex"] == prediction["alternatives"][0]["latex"]


def test_requests_with_the_default_search_share_one_beam_search(
    trained: Trained, images: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_version(tmp_path / "8", trained._replace(decoding=DecodingConfig(beam_width=3, length_penalty=2.0)))
    expected = Reader(folder).predict(images[0], alternatives=3).alternatives
    searched = []
    with running(lambda: [folder]) as service:
        batcher = service.service._batcher
        read_batch = batcher._read
        monkeypatch.setattr(
            batcher, "_read", lambda *arguments: (searched.append(arguments[-1]), read_batch(*arguments))[1]
        )
        for query, count in (("", 1), ("?alternatives=2", 2), ("?alternatives=3", 3)):
            prediction = service.ask("POST", f"/predict{query}", images[0]).json
            latex = [one["latex"] for one in prediction.get("alternatives", [prediction])]
            assert latex == [one.latex for one in expected[:count]]
        service.ask("POST", "/predict?alternatives=4", images[0])
    assert searched == [Beam(3, 2.0)] * 3 + [Beam(4, 2.0)]


def test_an_empty_batch_is_answered_as_the_signature_answers_it(service: Running) -> None:
    answer = service.predict({"signature_name": "predict_images", "inputs": []})
    assert answer.json == {"outputs": {"latex": [], "log_probability": [], "probability": []}}


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
    request = '{"signature_name": "predict_images", "inputs": []}'
    assert service.ask("POST", "/v1/models/im2latex/versions/7:predict", request).status == 200
    for method, path in (("GET", "/v1/models/im2latex/versions/6"), ("POST", "/v1/models/im2latex/versions/6:predict")):
        answer = service.ask(method, path, request)
        assert (answer.status, answer.json) == (404, {"error": "version 6 is not served; version 7 is"})


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


def test_over_capacity_a_response_has_the_time_to_retry(model: Path, images: list[bytes]) -> None:
    with running(lambda: [model], dataclasses.replace(LIMITS, max_images=4)) as service:
        answers = asyncio.run(flood(service, images[0], 60))
        latex = {body["latex"] for status, _, body in answers if status == 200}
        refused = [(headers, body) for status, headers, body in answers if status == 503]
        assert len(latex) == 1 and 0 < len(refused) <= 56
        assert len(refused) + sum(status == 200 for status, _, _ in answers) == 60
        for headers, body in refused:
            assert int(headers["Retry-After"]) >= 1 and body["error"].startswith("too many images are waiting")
        too_many = service.predict({"signature_name": "predict_images", "inputs": [b64(images[0])] * 5})
        assert (too_many.status, too_many.json["error"]) == (
            400,
            "a request can contain at most 4 images; send several requests",
        )
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
            while {answer.json["version"] for answer in answers[-9:]} != {"8"} and time.monotonic() < deadline:
                time.sleep(0.05)
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
        assert counted["im2latex_reloads_total", ("skipped",)] == 1


def test_a_model_that_fails_is_an_answer_and_a_line_in_the_log(
    model: Path, images: list[bytes], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(lambda: [model]) as service:
        monkeypatch.setattr(service.service.models.served.reader, "read_normalised", fails)
        answer = service.ask("POST", "/predict", images[0])
        assert (answer.status, answer.json) == (500, {"error": "internal error; the service's log has the details"})
        deadline = time.monotonic() + 10
        while "out of memory" not in caplog.text and time.monotonic() < deadline:  # it is logged after the answer
            time.sleep(0.01)
        assert "POST /predict failed" in caplog.text and "out of memory" in caplog.text
        monkeypatch.undo()
        assert service.is_alive(images[0])


def fails(*_: Any) -> None:
    raise MemoryError("out of memory")


# --- Logs and metrics -----------------------------------------------------------------------------------------------


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


def test_received_pictures_are_counted(service: Running, images: list[bytes]) -> None:
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
