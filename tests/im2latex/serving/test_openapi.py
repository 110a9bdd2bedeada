"""The OpenAPI document lists the requests of the service, and describes its responses."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from starlette.routing import Route

from im2latex.corrections import Corrections
from im2latex.serving.web_page import documentation, files
from tests.im2latex.serving.conftest import Answer, Running, running

API: dict[str, Any] = json.loads(documentation()["/openapi.json"].content)


def schema_of(path: str, status: int, method: str = "post") -> dict[str, Any]:
    response = API["paths"][path][method]["responses"][str(status)]
    return response["content"]["application/json"]["schema"] | {"components": API["components"]}


def is_as_described(answer: Answer, path: str, method: str = "post") -> bool:
    """Validates a body against the schema; the error says why it is not valid."""
    jsonschema.Draft202012Validator(schema_of(path, answer.status, method)).validate(answer.json)
    return True


def test_the_document_has_the_routes_of_the_service(service: Running) -> None:
    middleware = service.service.application()
    routes = {route.path for route in middleware._app.routes if isinstance(route, Route)}  # type: ignore[attr-defined]
    assert routes - set(files()) - set(documentation()) == set(API["paths"])


@pytest.mark.parametrize("name", API["components"]["schemas"])
def test_every_schema_is_valid(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(API["components"]["schemas"][name])


def test_answers_are_as_described(service: Running, images: list[bytes]) -> None:
    image = images[0]
    assert is_as_described(service.ask("POST", "/predict?alternatives=2", image), "/predict")
    assert is_as_described(service.ask("POST", "/predict?clean=perhaps", image), "/predict")
    tensorflow = "/v1/models/im2latex:predict"
    b64 = {"b64": base64.b64encode(image).decode()}
    for document in ({"instances": [b64]}, {"inputs": [b64]}, {"inputs": 1}):
        request = {"signature_name": "predict_images", **document}
        if document != {"inputs": 1}:
            jsonschema.Draft202012Validator(
                API["components"]["schemas"]["Instances"] | {"components": API["components"]}
            ).validate(request)
        assert is_as_described(service.predict(request), tensorflow)
    for path in ("/v1/models/im2latex", "/v1/models/im2latex/metadata", "/statistics"):
        assert is_as_described(service.ask("GET", path), path, "get")


def test_parameters_are_those_that_the_service_takes(service: Running, images: list[bytes]) -> None:
    for parameter in API["paths"]["/predict"]["post"]["parameters"]:
        schema = parameter["schema"]
        for value in schema.get("enum", [schema.get("minimum"), schema.get("maximum")]):
            assert service.ask("POST", f"/predict?{parameter['name']}={value}", images[0]).status == 200
    assert service.ask("POST", "/predict?alternatives=11", images[0]).status == 400


def test_a_saved_correction_is_as_described(model: Path, images: list[bytes], tmp_path: Path) -> None:
    form = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + images[0] + b"\r\n"
        b'--b\r\nContent-Disposition: form-data; name="latex"\r\n\r\nx + y\r\n--b--\r\n'
    )
    with running(lambda: [model], corrections=Corrections(tmp_path, 10**6)) as collecting:
        for _ in range(2):  # saved, and known
            answer = collecting.ask("POST", "/corrections", form, **{"Content-Type": "multipart/form-data; boundary=b"})
            assert answer.status == 200 and is_as_described(answer, "/corrections")


def test_the_page_and_the_document_are_served(service: Running) -> None:
    page = service.ask("GET", "/docs")
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    document = service.ask("GET", "/openapi.json")
    assert document.json == API and document.headers["content-type"] == "application/json"
