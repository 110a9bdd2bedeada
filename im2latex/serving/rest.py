"""Request and response bodies of TensorFlow Serving's REST API (tensorflow.org/tfx/serving/api_rest).

A request names a signature and has its inputs by row, `instances`, or by column, `inputs`; bytes are `{"b64": "..."}`.
The response has the same order: `predictions` or `outputs`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from im2latex.errors import UserError
from im2latex.reading import Beam, Hypothesis
from im2latex.serving.example import images_of_example

DEFAULT, ALTERNATIVES = "serving_default", "predict_alternatives"
# The image input of each signature.
SIGNATURES = {DEFAULT: "examples", "predict_images": "images", ALTERNATIVES: "images"}
MAX_WIDTH = 32


class Request(NamedTuple):
    """A parsed request."""

    images: list[bytes]
    beam: Beam | None
    by_rows: bool


def parse(body: bytes) -> Request:
    """Parses the body of a request.

    Raises:
        UserError: the body is not a valid request; the message says what is wrong.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is not valid JSON ({error})") from None
    if not isinstance(document, dict) or len({"instances", "inputs"} & set(document)) != 1:
        raise UserError('the body has to be an object with either "instances" or "inputs"')
    signature = document.get("signature_name") or DEFAULT
    if not isinstance(signature, str) or signature not in SIGNATURES:
        raise UserError(f"unknown signature {signature!r:.80}; the signatures are {', '.join(SIGNATURES)}")
    name, by_rows = SIGNATURES[signature], "instances" in document
    if by_rows:
        inputs = {name: _rows(document["instances"], name)}
    else:
        columns = document["inputs"]
        inputs = columns if isinstance(columns, dict) and "b64" not in columns else {name: columns}
    beam = _beam(inputs) if signature == ALTERNATIVES else None
    expected = {name, "width", "length_penalty"} if beam else {name}
    if set(inputs) != expected:
        raise UserError(f"the inputs of {signature} have to be exactly {', '.join(sorted(expected))}")
    values = inputs[name]
    if not isinstance(values, list):
        raise UserError(f'"{name}" has to be a list')
    images = [_bytes(value, f"{name}[{i}]") for i, value in enumerate(values)]
    if signature == DEFAULT:
        images = [_image_of_example(image, f"{name}[{i}]") for i, image in enumerate(images)]
    return Request(images, beam, by_rows)


def _rows(instances: Any, name: str) -> list[Any]:
    if not isinstance(instances, list) or not instances:
        raise UserError('"instances" has to be a list with at least one instance')
    rows = []
    for i, instance in enumerate(instances):
        if isinstance(instance, dict) and "b64" not in instance:
            if set(instance) != {name}:
                raise UserError(f'instances[{i}] can contain only "{name}"; use "inputs" for values for all images')
            instance = instance[name]
        rows.append(instance)
    return rows


def _beam(inputs: dict[str, Any]) -> Beam:
    width, length_penalty = inputs.get("width"), inputs.get("length_penalty")
    if type(width) is not int or not 1 <= width <= MAX_WIDTH:
        raise UserError(f'predict_alternatives takes "inputs" with "width", a whole number from 1 to {MAX_WIDTH}')
    if isinstance(length_penalty, bool) or not isinstance(length_penalty, int | float) or not abs(length_penalty) <= 9:
        raise UserError('predict_alternatives takes "inputs" with "length_penalty", a number from -9 to 9')
    return Beam(width, float(length_penalty))


def _bytes(value: Any, name: str) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, dict) or set(value) != {"b64"} or not isinstance(value["b64"], str):
        raise UserError(f'{name} has to be bytes: {{"b64": "..."}}')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{name} is not base64 ({error})") from None


def _image_of_example(serialised: bytes, name: str) -> bytes:
    try:
        values = images_of_example(serialised)
    except ValueError:
        raise UserError(f"{name} is not a serialised tf.Example") from None
    if len(values) != 1:
        raise UserError(f'{name} has to have a feature "image" with one bytes value')
    return values[0]


def answer(request: Request, read: Sequence[Sequence[Hypothesis]]) -> dict[str, Any]:
    """Returns the response body for the hypotheses of each image."""
    names = ("latex", *_numbers(request.beam is not None))

    def value(hypotheses: Sequence[Hypothesis], name: str) -> Any:
        values = [getattr(hypothesis, name) for hypothesis in hypotheses]
        return values if request.beam else values[0]

    if request.by_rows:
        return {"predictions": [{name: value(hypotheses, name) for name in names} for hypotheses in read]}
    return {"outputs": {name: [value(hypotheses, name) for hypotheses in read] for name in names}}


def status(version: int) -> dict[str, Any]:
    """Returns the body that reports that a version serves."""
    state = {"version": str(version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    return {"model_version_status": [state]}


def metadata(name: str, version: int) -> dict[str, Any]:
    """Returns the body that describes the model's inputs and outputs: the signatures of a pushed SavedModel."""

    def tensor(tensor_name: str, dtype: str, *sizes: int) -> dict[str, Any]:
        dims = [{"size": str(size), "name": ""} for size in sizes]
        return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": tensor_name}

    def signature(inputs: dict[str, Any], *sizes: int, scored: bool) -> dict[str, Any]:
        outputs = {"latex": tensor("latex", "DT_STRING", *sizes)}
        outputs |= {output: tensor(output, "DT_FLOAT", *sizes) for output in _numbers(scored)}
        return {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"}

    signatures = {}
    for signature_name, images in SIGNATURES.items():
        inputs = {images: tensor(images, "DT_STRING", -1)}
        if signature_name == ALTERNATIVES:
            inputs |= {"width": tensor("width", "DT_INT32"), "length_penalty": tensor("length_penalty", "DT_FLOAT")}
        signatures[signature_name] = signature(
            inputs, *((-1, -1) if signature_name == ALTERNATIVES else (-1,)), scored=signature_name == ALTERNATIVES
        )
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _numbers(scored: bool) -> tuple[str, ...]:
    """Returns the names of the numbers that a signature returns for each hypothesis."""
    return ("log_probability", *(("score",) if scored else ()), "probability")
