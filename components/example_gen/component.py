"""ImportExampleGen: reads TFRecords, and stops the run at the first record that cannot be used.

TFX's ImportExampleGen accepts whatever Beam reads. Beam accepts a gzipped file that is truncated between two records,
and for other damage it names neither the file nor the record. An invalid record would fail a later component, without a
hint at the record: Transform or, if it is in the evaluated split, the Evaluator, after all the training.

This component also brings formulas into one spelling, before anything is counted or learned.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from tfx.components.example_gen.import_example_gen import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.types import standard_component_specs

from data.dataset.record import BadRecord, decode, encode
from data.dataset.tfrecords import parse_tfrecords
from data.spelling import NORMAL, known_spelling, respell
from im2latex.errors import UserError

SPELLING = "spelling"
_RAISED = re.compile(rf"^{UserError.__module__}\.{UserError.__name__}: (.*)$", re.MULTILINE)
_STEP = re.compile(r" \[while running '.*?'\]$")


def read_usable(path: str) -> Iterator[bytes]:
    """Reads the serialised examples of a TFRecord file, on any file system of Beam.

    Raises:
        UserError: the file is damaged, or a record cannot be used; the message names the file and the record's number.
    """
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as raw:
        for number, content in enumerate(parse_tfrecords(raw, path)):
            try:
                _check(content)
            except BadRecord as error:
                raise UserError(
                    f"{path}, record {number}: {error.reason}; `im2latex data check` finds all such records, and "
                    "`im2latex data import` makes a data set without them"
                ) from None
            yield content


def _check(content: bytes) -> None:
    """Raises BadRecord for a record that Transform, Trainer or Evaluator would fail on."""
    record = decode(content)
    if not record.latex.split():
        raise BadRecord("empty formula")
    try:
        # The same decoder as in Transform and in the model.
        tf.io.decode_image(record.image, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        raise BadRecord("undecodable image") from None


def respelled(content: bytes, spelling: str) -> bytes:
    """Respells the formula of a serialised example; `spelling` as in `data.spelling.respell`."""
    record = decode(content)
    latex = respell(record.latex, spelling)
    return content if latex == record.latex else encode(dataclasses.replace(record, latex=latex))


def _refuse_none(count: int, pattern: str) -> None:
    if not count:
        raise UserError(f"{pattern} holds no records; every split needs some: `im2latex data import` can hold some out")


@beam.ptransform_fn
@beam.typehints.with_output_types(bytes)
def _Records(pipeline: beam.Pipeline, exec_properties: dict[str, Any], split_pattern: str) -> beam.PCollection:
    """Reads the serialised examples of a split."""
    pattern = os.path.join(exec_properties[standard_component_specs.INPUT_BASE_KEY], split_pattern)
    (found,) = FileSystems.match([pattern])
    paths = sorted(file.path for file in found.metadata_list)
    records = (
        pipeline
        | beam.Create(paths, reshuffle=True)
        | "Read" >> beam.FlatMap(read_usable)
        | "Respell" >> beam.Map(respelled, spelling=exec_properties[SPELLING])
    )
    _ = records | beam.combiners.Count.Globally() | "RefuseNone" >> beam.Map(_refuse_none, pattern=pattern)
    return records


class Executor(executor.Executor):
    """Reads TFRecords with `read_usable`."""

    def GetInputSourceToExamplePTransform(self) -> beam.PTransform:
        """Returns the transform that reads the files of a split; called by `Do`."""
        return _Records

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> None:
        """Writes the examples of each split to `examples`.

        Raises:
            UserError: a file is damaged, a record cannot be used, or a split has no records.
        """
        try:
            super().Do(input_dict, output_dict, exec_properties)
        except Exception as error:
            if sentence := _said_by_worker(error):
                raise UserError(sentence) from error
            raise


def _said_by_worker(error: Exception) -> str:
    """Extracts the message of a worker's UserError; "" if the error is another one.

    Beam appends the name of the step. From another process it passes only the text of the traceback.
    """
    found = [str(error)] if isinstance(error, UserError) else _RAISED.findall(str(error))
    return _STEP.sub("", found[-1]) if found else ""


class ImportExampleGen(component.ImportExampleGen):
    """TFX's ImportExampleGen with the executor above."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(self, *, spelling: str = NORMAL, **given: Any) -> None:
        """
        Args:
            spelling: spelling of the formulas, as in `data.spelling.respell`.
            given: arguments of TFX's ImportExampleGen.

        Raises:
            UserError: the spelling is unknown.
        """
        super().__init__(**given)
        self.exec_properties[SPELLING] = known_spelling(spelling)
