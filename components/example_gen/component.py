"""ImportExampleGen: reads TFRecords, and stops the run at the first invalid record.

TFX's ImportExampleGen accepts whatever Beam reads. Beam accepts a gzipped file that is truncated between two records,
and for other damage it names neither the file nor the record. An invalid record would make a later component fail,
without naming the record: Transform or, if it is in the evaluated split, the Evaluator, after all the training.

This component also converts formulas to one spelling, before the vocabulary is computed and the model is trained, and
records which corrections of people are among the examples (components/example_gen/corrections.py).

TFX shuffles the records with Beam, which keeps all of them in memory if it runs in one process. This component instead
writes each record into one of `SHARDS` files, chosen by the checksum of the record. Memory does not grow with the
number of records, and each file holds a random part of its split. The Trainer shuffles all examples anyway.
"""

from __future__ import annotations

import dataclasses
import gzip
import logging
import os
import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.io import fileio as beam_files
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.value_provider import StaticValueProvider
from tfx.components.example_gen.import_example_gen import component
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor, executor_spec
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

from components.example_gen import corrections
from data.dataset.images import UNDECODABLE, check_size
from data.dataset.record import BadRecord, decode, encode
from data.dataset.tfrecords import frame, parse_tfrecords
from data.spelling import NORMAL, known_spelling, respell
from im2latex.errors import UserError

SPELLING = "spelling"
# Number of files per split that each process writes, so that as many processes can read a split in parallel. Beam keeps
# this many files open.
SHARDS = 16
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
    check_size(record.image)
    try:
        # The same decoder as in Transform and in the model. TensorFlow keeps every scalar of Python that it converts
        # in a cache, so the image is given as an array.
        tf.io.decode_image(np.array(record.image, object), expand_animations=False)
    except tf.errors.InvalidArgumentError:
        raise BadRecord(UNDECODABLE) from None


def respelled(content: bytes, spelling: str) -> bytes:
    """Respells the formula of a serialised example; `spelling` as in `data.spelling.respell`."""
    record = decode(content)
    latex = respell(record.latex, spelling)
    return content if latex == record.latex else encode(dataclasses.replace(record, latex=latex))


def _check_count(count: int, pattern: str) -> None:
    if not count:
        raise UserError(
            f"{pattern} contains no records; every split needs some: `im2latex data import` can take a share of "
            "another split"
        )


@beam.ptransform_fn
@beam.typehints.with_output_types(bytes)
def _Records(pipeline: beam.Pipeline, exec_properties: dict[str, Any], split_pattern: str) -> beam.PCollection:
    """Reads the serialised examples of a split."""
    pattern = os.path.join(exec_properties[standard_component_specs.INPUT_BASE_KEY], split_pattern)
    (matched,) = FileSystems.match([pattern])
    paths = sorted(file.path for file in matched.metadata_list)
    records = (
        pipeline
        | beam.Create(paths, reshuffle=True)
        | "Read" >> beam.FlatMap(read_usable)
        | "Respell" >> beam.Map(respelled, spelling=exec_properties[SPELLING])
    )
    _ = records | beam.combiners.Count.Globally() | "RefuseNone" >> beam.Map(_check_count, pattern=pattern)
    return records


class _TFRecordSink(beam_files.FileSink):
    """Writes serialised examples to a gzipped TFRecord file."""

    def create_metadata(self, destination: str, full_file_name: str) -> beam_files.FileMetadata:
        return beam_files.FileMetadata("application/octet-stream", CompressionTypes.UNCOMPRESSED)

    def open(self, fh: BinaryIO) -> None:
        # Without a name and time in the header, the same records give the same bytes.
        self._file = gzip.GzipFile("", "wb", compresslevel=6, fileobj=fh, mtime=0)

    def write(self, record: bytes) -> None:
        self._file.write(frame(record))

    def flush(self) -> None:  # Beam calls this once, before it closes the file
        self._file.close()


def _shard(content: bytes) -> str:
    return f"data_tfrecord-{zlib.crc32(content) % SHARDS:02d}"


def _write_lines(lines: list[str], path: str) -> None:
    """Writes lines to a file, sorted; no file if there are none."""
    if lines:
        with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write("".join(f"{line}\n" for line in sorted(lines)).encode())


def _check_written(written: beam_files.FileResult, folder: str) -> None:
    """Raises an error if a file is missing: Beam ignores a failed rename, as if an earlier attempt had done it."""
    path = FileSystems.join(folder, written.file_name)
    if not FileSystems.exists(path):
        raise OSError(f"{path} could not be written")


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads TFRecords with `read_usable`, and writes them into shards."""

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> None:
        """Writes the examples of each split to `examples`.

        Raises:
            UserError: a file is damaged, a record cannot be used, or a split has no records.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        config = example_gen_pb2.Input()
        proto_utils.json_to_proto(exec_properties[standard_component_specs.INPUT_CONFIG_KEY], config)
        examples = artifact_utils.get_single_instance(output_dict[standard_component_specs.EXAMPLES_KEY])
        examples.split_names = artifact_utils.encode_split_names([split.name for split in config.splits])
        # Beam first writes temporary files; those of a failed worker remain.
        unfinished = os.path.join(examples.uri, ".unfinished")
        corrected = os.path.join(examples.uri, corrections.FILE)
        lines = []
        try:
            with self._make_beam_pipeline() as pipeline:
                for split in config.splits:
                    folder = artifact_utils.get_split_uri([examples], split.name)
                    write = beam_files.WriteToFiles(
                        folder,
                        file_naming=beam_files.destination_prefix_naming(".gz"),
                        destination=_shard,
                        temp_directory=StaticValueProvider(str, unfinished),
                        sink=_TFRecordSink,
                        max_writers_per_bundle=SHARDS,
                    )
                    records = pipeline | f"Read[{split.name}]" >> _Records(exec_properties, split.pattern)
                    written = records | f"Write[{split.name}]" >> write
                    _ = written | f"RefuseMissing[{split.name}]" >> beam.Map(_check_written, folder=folder)
                    lines.append(
                        records | f"Corrections[{split.name}]" >> beam.FlatMap(corrections.line_of, split.name)
                    )
                _ = (
                    lines
                    | beam.Flatten()
                    | beam.Distinct()
                    | beam.combiners.ToList()
                    | "WriteCorrections" >> beam.Map(_write_lines, path=corrected)
                )
        except Exception as error:
            if sentence := _worker_message(error):
                raise UserError(sentence) from error
            raise
        fileio.rmtree(unfinished)
        if fileio.exists(corrected):
            with fileio.open(corrected, "rb") as file:
                properties = corrections.properties_of(file.read().decode())
            for name, value in properties.items():
                if isinstance(value, int):
                    examples.set_int_custom_property(name, value)
                else:
                    examples.set_string_custom_property(name, value)
        examples_utils.set_payload_format(examples, exec_properties[standard_component_specs.OUTPUT_DATA_FORMAT_KEY])
        examples_utils.set_file_format(examples, "tfrecords_gzip")
        logging.info("Examples generated.")


def _worker_message(error: Exception) -> str:
    """Extracts the message of a worker's UserError; "" if the error is another one.

    Beam appends the name of the step. From another process it passes only the text of the traceback.
    """
    messages = [str(error)] if isinstance(error, UserError) else _RAISED.findall(str(error))
    return _STEP.sub("", messages[-1]) if messages else ""


class ImportExampleGen(component.ImportExampleGen):
    """TFX's ImportExampleGen with the executor above."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(self, *, spelling: str = NORMAL, **arguments: Any) -> None:
        """
        Args:
            spelling: spelling of the formulas, as in `data.spelling.respell`.
            given: arguments of TFX's ImportExampleGen.

        Raises:
            UserError: the spelling is unknown.
        """
        super().__init__(**arguments)
        self.exec_properties[SPELLING] = known_spelling(spelling)
