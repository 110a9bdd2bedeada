"""Writes ONNX files: a graph builder, and the few protocol buffer messages that it needs.

The format is onnx.proto3 of github.com/onnx/onnx, in the wire format of protocol buffers. This small implementation
avoids a dependency on the packages `onnx` and `protobuf`, and the time to import them.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

# Versions of the format and of the operators: those of ONNX 1.12, which all current runtimes support.
FORMAT, OPERATORS = 8, 17
# TensorProto.DataType.
TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10}

Message: TypeAlias = bytes
Attribute: TypeAlias = "int | float | str | Sequence[int] | OnnxGraph"


class OnnxGraph:
    """An ONNX graph, or the body of a loop. The methods append nodes and return the names of their outputs.

    Args:
        outer: for the body of a loop, the surrounding graph, whose values the body may use.
    """

    def __init__(self, outer: OnnxGraph | None = None) -> None:
        self._count: itertools.count[int] = outer._count if outer else itertools.count()
        self._nodes: list[Message] = []
        self._initializers: list[Message] = []
        self._inputs: list[Message] = []
        self._outputs: list[Message] = []

    def input(self, name: str, dtype: str, shape: Sequence[str | int] | None = None) -> str:
        """Adds an input; None allows any shape."""
        self._inputs.append(_value(name, dtype, shape))
        return name

    def output(self, value: str, dtype: str, name: str = "", shape: Sequence[str | int] | None = None) -> None:
        """Makes a value an output, under this name; the outputs of a loop's body need none."""
        if name:
            self._nodes.append(_node("Identity", [value], [name], {}))
        self._outputs.append(_value(name or value, dtype, shape))

    def constant(self, value: np.ndarray | int | float | bool | Sequence[int], name: str = "") -> str:
        """Stores a constant: arrays keep their dtype, Python numbers become int64, float32 or bool."""
        if not isinstance(value, np.ndarray):
            value = np.asarray(value)
            value = value.astype(np.float32) if value.dtype == np.float64 else value
        name = name or self.new_name()
        self._initializers.append(_tensor(name, value))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Attribute) -> str:
        """Applies an operator with one output; "" omits an optional input."""
        (output,) = self.add_many(operator, 1, *inputs, **attributes)
        return output

    def add_many(self, operator: str, outputs: int, *inputs: str, **attributes: Attribute) -> list[str]:
        """Applies an operator with several outputs."""
        names = [self.new_name() for _ in range(outputs)]
        self._nodes.append(_node(operator, inputs, names, attributes))
        return names

    def new_name(self) -> str:
        """Returns a name that is unused in this graph and the surrounding ones."""
        return f"v{next(self._count)}"

    def message(self) -> Message:
        """Returns the serialised GraphProto."""
        parts = ((1, self._nodes), (5, self._initializers), (11, self._inputs), (12, self._outputs))
        fields = (of for field, all_of in parts for part in all_of for of in (_head(field, part), part))
        return b"".join([_text(2, "im2latex"), *fields])


def model(graph: OnnxGraph, metadata: Mapping[str, str]) -> Message:
    """Returns the serialised ModelProto, which is the content of an ONNX file."""
    head = _integer(1, FORMAT) + _text(2, "im2latex")
    entries = (_bytes(14, _text(1, name) + _text(2, text)) for name, text in metadata.items())
    message = graph.message()
    return b"".join([head, _head(7, message), message, _bytes(8, _integer(2, OPERATORS)), *entries])


def _node(operator: str, inputs: Iterable[str], outputs: Iterable[str], attributes: Mapping[str, Attribute]) -> Message:
    names = [*(_text(1, name) for name in inputs), *(_text(2, name) for name in outputs)]
    attribute_messages = (_bytes(5, _attribute(name, value)) for name, value in attributes.items())
    return b"".join([*names, _text(4, operator), *attribute_messages])


def _attribute(name: str, value: Attribute) -> Message:
    if isinstance(value, OnnxGraph):
        kind, content = 5, _bytes(6, value.message())
    elif isinstance(value, str):
        kind, content = 3, _text(4, value)
    elif isinstance(value, int):
        kind, content = 2, _integer(3, value)
    elif isinstance(value, float):
        kind, content = 1, _varint(2 << 3 | 5) + struct.pack("<f", value)
    else:
        kind, content = 7, b"".join(_integer(8, number) for number in value)
    return _text(1, name) + content + _integer(20, kind)


def _tensor(name: str, value: np.ndarray) -> Message:
    dims = b"".join(_integer(1, side) for side in value.shape)
    content = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
    return b"".join([dims, _integer(2, TYPES[value.dtype.name]), _text(8, name), _head(9, content), content])


def _value(name: str, dtype: str, shape: Sequence[str | int] | None) -> Message:
    kind = _integer(1, TYPES[dtype])
    if shape is not None:
        dims = (_text(2, side) if isinstance(side, str) else _integer(1, side) for side in shape)
        kind += _bytes(2, b"".join(_bytes(1, dim) for dim in dims))
    return _text(1, name) + _bytes(2, _bytes(1, kind))


def _integer(field: int, value: int) -> Message:
    return _varint(field << 3) + _varint(value & 0xFFFFFFFFFFFFFFFF)


def _text(field: int, value: str) -> Message:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> Message:
    return _head(field, value) + value


def _head(field: int, value: bytes) -> Message:
    """Returns the header of a field; joining both at once saves a copy of large ones."""
    return _varint(field << 3 | 2) + _varint(len(value))


def _varint(value: int) -> bytes:
    if value <= 0x7F:  # most are
        return bytes((value,))
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
