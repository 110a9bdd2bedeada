"""TFX's ImportExampleGen takes whatever Beam reads; this one stops the run at the first record that cannot be used.

Beam takes a gzipped file that was cut off between two records for a whole one, and says of other damage neither in
which file nor at which record it is. What is wrong with a record itself would end some later component without a word
of which record it was: Transform or, of the split that is kept for the end, the Evaluator, when all training is done.

Formulas are brought into one spelling here, before anything is counted or learned.
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
    """The serialised examples of a TFRecord file, wherever Beam can open it.

    Raises:
        UserError: the file is damaged, or a record cannot be used; names the file and the record's number.
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
    """Raises BadRecord for what Transform, Trainer or Evaluator would fail on."""
    record = decode(content)
    if not record.latex.split():
        raise BadRecord("empty formula")
    try:
        # Decoded by what decodes it in Transform and in the model.
        tf.io.decode_image(record.image, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        raise BadRecord("undecodable image") from None


def respelled(content: bytes, spelling: str) -> bytes:
    """A serialised example with its formula in a spelling, as `data.spelling.respell` takes it."""
    record = decode(content)
    latex = respell(record.latex, spelling)
    return content if latex == record.latex else encode(dataclasses.replace(record, latex=latex))


def _refuse_none(count: int, pattern: str) -> None:
    if not count:
        raise UserError(f"{pattern} holds no records; every split needs some: `im2latex data import` can hold some out")


@beam.ptransform_fn
@beam.typehints.with_output_types(bytes)
def _Records(pipeline: beam.Pipeline, exec_properties: dict[str, Any], split_pattern: str) -> beam.PCollection:
    """The serialised examples of a split."""
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
    """Reads TFRecords as `read_usable` does."""

    def GetInputSourceToExamplePTransform(self) -> beam.PTransform:
        """What reads the files of a split, for `Do`."""
        return _Records

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> None:
        """Writes the examples of each split to `examples`.

        Raises:
            UserError: a file is damaged, a record cannot be used, or a split has none.
        """
        try:
            super().Do(input_dict, output_dict, exec_properties)
        except Exception as error:
            if sentence := _said_by_worker(error):
                raise UserError(sentence) from error
            raise


def _said_by_worker(error: Exception) -> str:
    """The sentence of a worker's UserError: Beam puts the step behind it and, from other processes, brings its text."""
    found = [str(error)] if isinstance(error, UserError) else _RAISED.findall(str(error))
    return _STEP.sub("", found[-1]) if found else ""


class ImportExampleGen(component.ImportExampleGen):
    """TFX's ImportExampleGen with the executor above."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(self, *, spelling: str = NORMAL, **given: Any) -> None:
        """
        Args:
            spelling: of the formulas, as `data.spelling.respell` takes it.
            given: what TFX's ImportExampleGen takes.

        Raises:
            UserError: there is no such spelling.
        """
        super().__init__(**given)
        self.exec_properties[SPELLING] = known_spelling(spelling)
