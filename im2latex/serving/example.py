"""Reads the image from a serialised tf.Example, without TensorFlow or protobuf.

The messages are those of tensorflow/core/example/{example,feature}.proto, in the wire format of protocol buffers:
Example.features = 1, Features.feature = 1 (a map: key = 1, value = 2), Feature.bytes_list = 1, BytesList.value = 1.
"""

from __future__ import annotations

from collections.abc import Iterator

FEATURE = b"image"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Field numbers of a Feature's value. If several members of a `oneof` are set, the last one counts.
_KINDS = (1, 2, 3)


def images_of_example(serialised: bytes) -> list[bytes]:
    """Returns the values of the feature "image"; an empty list if the feature is missing or holds numbers.

    Raises:
        ValueError: the bytes are not a tf.Example.
    """
    images: list[bytes] = []
    for features in _messages(serialised, 1):
        for entry in _messages(features, 1):
            key, value = b"", b""
            for field, content in _fields(entry):
                if field == 1:
                    key = content
                elif field == 2:
                    value = content
            kinds = [(field, content) for field, content in _fields(value) if field in _KINDS]
            if key == FEATURE:
                field, content = kinds[-1] if kinds else (0, b"")
                images = list(_messages(content, 1)) if field == 1 else []
    return images


def _messages(message: bytes, wanted: int) -> Iterator[bytes]:
    return (content for field, content in _fields(message) if field == wanted)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the number and content of each length-delimited field."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, at = _varint(message, at)
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if not field or at + size > len(message):
            raise ValueError("cut off")
        if kind == _BYTES:
            yield field, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise ValueError("no whole number")
