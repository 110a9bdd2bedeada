"""A record of a data set: an image, its formula and its name, stored as a tf.train.Example.

This module does not need TensorFlow: it defines the message itself, and a test compares it with TensorFlow's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, message_factory

SPLITS = ("train", "eval", "test")


@dataclass(frozen=True)
class Record:
    """One example of a data set.

    Attributes:
      image: PNG or JPEG file.
      latex: the formula's tokens, separated by one space.
      name: unique within its split.
    """

    image: bytes
    latex: str
    name: str


class BadRecord(Exception):
    """A record is unusable. Importers reject it with `reason`, count it and continue."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _example_class() -> Any:
    """Builds the message class of tf.train.Example, from tensorflow/core/example/{example,feature}.proto."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="im2latex/example.proto", package="tensorflow", syntax="proto3")

    def message(name: str, parent: Any = None) -> Any:
        descriptor = (parent.nested_type if parent is not None else file.message_type).add()
        descriptor.name = name
        return descriptor

    def add(owner: Any, name: str, number: int, kind: int, **options: Any) -> None:
        owner.field.add(name=name, number=number, type=kind, **{"label": field.LABEL_OPTIONAL, **options})

    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        add(message(name), "value", 1, kind, label=field.LABEL_REPEATED)
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes", "float", "int64"), start=1):
        list_name = f".tensorflow.{name.capitalize()}List"
        add(feature, f"{name}_list", number, field.TYPE_MESSAGE, type_name=list_name, oneof_index=0)
    features = message("Features")
    entry = message("FeatureEntry", features)
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, type_name=".tensorflow.Feature")
    entry_name = ".tensorflow.Features.FeatureEntry"
    add(features, "feature", 1, field.TYPE_MESSAGE, type_name=entry_name, label=field.LABEL_REPEATED)
    add(message("Example"), "features", 1, field.TYPE_MESSAGE, type_name=".tensorflow.Features")
    # GetMessages uses a descriptor pool of its own; TensorFlow registers the same names in the default one.
    return message_factory.GetMessages([file])["tensorflow.Example"]


Example = _example_class()


def encode(record: Record) -> bytes:
    """Serialises a record as a tf.train.Example; the same record always gives the same bytes."""
    example = Example()
    for key, value in (("image", record.image), ("latex", record.latex.encode()), ("name", record.name.encode())):
        example.features.feature[key].bytes_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def decode(serialised: bytes) -> Record:
    """Parses a serialised tf.train.Example.

    Raises:
      BadRecord: this is not an Example, or a feature is missing, has another type, several values, or is not UTF-8.
    """
    example = Example()
    try:
        example.ParseFromString(serialised)
    except Exception as error:  # each implementation of protobuf has a DecodeError class of its own
        raise BadRecord("not a tf.train.Example") from error
    values = {}
    for key in ("image", "latex", "name"):
        feature = example.features.feature.get(key)
        if feature is None or feature.WhichOneof("kind") is None:
            raise BadRecord(f"feature {key} is missing")
        if (kind := feature.WhichOneof("kind")) != "bytes_list":
            raise BadRecord(f"feature {key} is of type {kind.removesuffix('_list')} instead of bytes")
        if len(feature.bytes_list.value) != 1:
            raise BadRecord(f"feature {key} has {len(feature.bytes_list.value):,} values instead of one")
        values[key] = feature.bytes_list.value[0]
    try:
        return Record(values["image"], values["latex"].decode(), values["name"].decode())
    except UnicodeDecodeError as error:
        raise BadRecord("bad UTF-8") from error
