"""Import format: the TFRecords of Image2Latex-TF2, {train,val,test}_100K_00of20.tfrecord with latex_vocab.txt."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from data.dataset.record import BadRecord, Example
from data.dataset.tfrecords import read_tfrecords
from data.importers.source import SPLIT_NAMES, Candidate, Files, Format, read_text
from im2latex.errors import UserError

FILES = "*.tfrecord"


def _detect(files: Files) -> bool:
    return bool(files.matching(FILES))


def _read(files: Files, vocabulary: Path | None) -> Iterator[Candidate]:
    """Yields the records, with ids replaced by tokens. An id is a line number of the vocabulary, from 1."""
    if vocabulary is not None:
        text = read_text(vocabulary)
    elif "latex_vocab.txt" in files.names:
        text = files.read("latex_vocab.txt")
    else:
        raise UserError(f"{files.source} has no latex_vocab.txt; name the vocabulary with --vocabulary FILE")
    tokens = [line.rstrip("\r") for line in text.decode("utf-8", "replace").removesuffix("\n").split("\n")]
    for file in files.matching(FILES):
        split = SPLIT_NAMES.get(file.split("_")[0])
        path = files.path(file)
        if split is None or path is None:
            raise UserError(f"{file} is not a file named train_*, val_* or test_* in a folder; rename or unpack it")
        for number, content in enumerate(read_tfrecords(path)):
            name = f"{file}:{number}"
            try:
                image, formula = _decode_ids(content, tokens)
            except BadRecord as error:
                yield Candidate(split, name, b"", b"", error.reason)
            else:
                yield Candidate(split, name, image, formula.encode())


def _decode_ids(content: bytes, tokens: list[str]) -> tuple[bytes, str]:
    """Returns the image and formula of a record.

    The ids of the start and end tokens differ between files; they are taken from the record itself.

    Raises:
      BadRecord: the record does not follow the format.
    """
    example = Example()
    try:
        example.ParseFromString(content)
    except Exception as error:  # each implementation of protobuf has a DecodeError class of its own
        raise BadRecord("not a tf.train.Example") from error
    features = example.features.feature
    if any(key not in features for key in ("image", "latex_seq_in", "latex_seq_out")):
        raise BadRecord("image, latex_seq_in or latex_seq_out is missing")
    image = features["image"].bytes_list.value
    sequences = [
        list(itertools.dropwhile(lambda token: token == 0, reversed(features[key].int64_list.value)))[::-1]
        for key in ("latex_seq_in", "latex_seq_out")
    ]
    inputs, outputs = sequences
    if len(image) != 1 or not inputs or not outputs or inputs[1:] != outputs[:-1]:
        raise BadRecord("latex_seq_in and latex_seq_out do not fit together")
    start, end = inputs[0], outputs[-1]
    if end != start + 1 or start <= len(tokens):
        raise BadRecord("start and end are not ids after the vocabulary")
    ids = inputs[1:]
    if start - 1 in ids:
        raise BadRecord("a token outside the vocabulary")
    if any(not 1 <= i <= len(tokens) for i in ids):
        raise BadRecord("an id out of range")
    return image[0], " ".join(tokens[i - 1] for i in ids)


def _splits(files: Files) -> set[str]:
    return {name.split("_")[0] for name in files.matching(FILES)}


FORMAT = Format("tfrecords", "the TFRecords of Image2Latex-TF2", FILES, _detect, _read, _splits)
