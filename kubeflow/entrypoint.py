"""The command of every container: what lies between the backend's launcher and a TFX executor or driver.

    python -m kubeflow.entrypoint --node NODE --executor-input '{{$}}' [--metadata ADDRESS] [BEAM ARGUMENT…]

The launcher downloads the input artifacts before, replaces {{$}} by the task's ExecutorInput, and uploads the output
artifacts and reads ExecutorOutput after. What it does not do is done here: an artifact's class comes from NODE, since
the ExecutorInput names no type for an input; an address (gs://, s3://, minio://) becomes the local path that the
launcher uses for it, since TFX cannot open all of them, and is an address again in the ExecutorOutput and in sentences;
the numbers of JSON become whole again where they were, and lists and dicts leave the wrappers of ML Metadata.

With --resolve the driver is run instead, and its findings are written into the output parameter `found`; the
component's own task has them among its parameters, see `kubeflow.runner`. Records that the launcher did not download
are listed in their bucket.

With --metadata the task is recorded in a database of ML Metadata, see `kubeflow.recording`; with --record-lineage
nothing else is done.

Takes the executor's own arguments for Beam behind its own. Exits with 1 and one sentence when a person can put it
right, and with a traceback else.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.metadata import ADDRESS, values
from im2latex.errors import UserError
from kubeflow.addresses import local_path, with_addresses
from pipeline.buckets import is_address

if TYPE_CHECKING:
    from kubeflow.recording import Recorder

# The parameter and the artifact that say where the records are, and the parameter for what a driver found.
DATA = "data"
FOUND = "found"
# Where ImportExampleGen reads.
INPUT_BASE = "input_base"
# Environment variable with the id of the run, which the backend gives every pod as a label.
RUN = "IM2LATEX_RUN"
# The component whose driver reads from ML Metadata what ran, and what it sets.
REPORTER, STEPS = "Reporter", "steps"
# Properties of artifacts that are the launcher's and not TFX's.
_OF_THE_LAUNCHER = {"display_name", "store_session_info"}


@dataclasses.dataclass(frozen=True)
class Node:
    """What a container is told of the component it runs; classes by their dotted paths."""

    id: str
    inputs: Mapping[str, str]
    pipeline: str = ""
    executor: str = ""
    driver: str = ""
    outputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # Inputs that are recorded and nothing else: what no component takes.
    further: Mapping[str, str] = dataclasses.field(default_factory=dict)
    whole: Sequence[str] = ()  # parameters that are whole numbers, of which JSON has none
    # Of ML Metadata's type for its executions.
    type: str = ""
    base_type: int = 0

    @classmethod
    def of(cls, component: Any, pipeline: str) -> Node:
        """Of a TFX component in a pipeline of this name."""
        base = component.type_annotation
        return cls(
            id=component.id,
            pipeline=pipeline,
            type=component.type,
            base_type=base.MLMD_SYSTEM_BASE_TYPE if base else 0,
            executor=path_of(component.executor_spec.executor_class),
            driver=path_of(component.driver_class),
            inputs={key: path_of(channel.type) for key, channel in component.inputs.items()},
            outputs={key: path_of(channel.type) for key, channel in component.outputs.items()},
            whole=[name for name, value in component.exec_properties.items() if isinstance(value, int)],
        )

    def execution_type(self) -> Any:
        """ML Metadata's type of its executions, as TFX's compiler has it."""
        from ml_metadata.proto import metadata_store_pb2

        made = metadata_store_pb2.ExecutionType(name=self.type)
        if self.base_type:
            made.base_type = self.base_type
        return made

    def to_json(self) -> str:
        """For `--node`."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def run_executor(
    node: Node, given: dict[str, Any], beam_arguments: list[str], recorder: Recorder | None = None
) -> None:
    """Runs the executor on an ExecutorInput, records it, and writes the ExecutorOutput."""
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.orchestration.portable import outputs_utils
    from tfx.utils import import_utils

    inputs, outputs = _artifacts(node.inputs, given["inputs"]), _artifacts(node.outputs, given["outputs"])
    properties = _parameters(node, given)
    properties |= _found(properties.pop(FOUND, None), outputs)
    outputs_utils.make_output_dirs(outputs)
    executor_class = import_utils.import_class_by_path(node.executor)
    with tempfile.TemporaryDirectory(prefix=f"{node.id}-") as folder:
        about: dict[str, Any] = {"tmp_dir": folder, "unique_id": "0"}
        if issubclass(executor_class, BaseBeamExecutor):
            about["beam_pipeline_args"] = beam_arguments
        if recorder:
            about["pipeline_run_id"] = recorder.run
            recorder.record_cached(_artifacts(node.further, given["inputs"]))
            if node.id == REPORTER:
                recorder.record_cached(inputs)
                properties[STEPS] = recorder.steps()
        with recorder.recorded(inputs, outputs, properties) if recorder else contextlib.nullcontext():
            executor_class(executor_class.Context(**about)).Do(inputs, outputs, properties)
            outputs_utils.tag_output_artifacts_with_version(outputs)
    addresses = {key: told["artifacts"][0]["uri"] for key, told in given["outputs"].get("artifacts", {}).items()}
    made = {
        key: {"artifacts": [{"uri": addresses[key], "metadata": _metadata(artifact)}]}
        for key, (artifact,) in outputs.items()
    }
    _write(given["outputs"]["outputFile"], json.dumps({"artifacts": made}, sort_keys=True))


def run_driver(
    node: Node, given: dict[str, Any], recorder: Recorder | None = None, run: dict[str, Any] | None = None
) -> None:
    """Runs the driver on an ExecutorInput and writes its DriverOutput, as JSON, into the parameter `found`.

    Args:
        node: the component.
        given: ExecutorInput.
        recorder: gives the driver the database of ML Metadata, and records what the inputs are made from.
        run: what the run is run with, to be recorded.
    """
    from google.protobuf import json_format
    from tfx.orchestration.portable.data_types import ExecutionInfo
    from tfx.utils import import_utils

    outputs = {key: [import_utils.import_class_by_path(path)()] for key, path in node.outputs.items()}
    inputs = _artifacts(node.inputs, given["inputs"])
    if recorder:
        recorder.record_cached(inputs)
        if run:
            recorder.describe_run(run, given["inputs"]["parameterValues"][INPUT_BASE])
    with _records(_parameters(node, given), given) as properties:
        execution = ExecutionInfo(input_dict=inputs, output_dict=outputs, exec_properties=dict(properties))
        database = recorder.metadata() if recorder else None
        found = import_utils.import_class_by_path(node.driver)(database).run(execution)
    for name, value in values(found.exec_properties).items():  # a driver may repeat what it was told
        if properties.get(name) == value:
            del found.exec_properties[name]
    text = json.dumps(json_format.MessageToDict(found), sort_keys=True)
    _write(given["outputs"]["parameters"][FOUND]["outputFile"], text)


def main(arguments: list[str]) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m kubeflow.entrypoint", allow_abbrev=False)
    parser.add_argument("--node", required=True, type=lambda text: Node(**json.loads(text)))
    parser.add_argument("--executor-input", required=True, type=json.loads)
    parser.add_argument("--resolve", action="store_true", help="run the driver instead of the executor")
    parser.add_argument("--metadata", default="", help="record the task in this database of ML Metadata")
    parser.add_argument("--run", type=json.loads, help="record what the run is run with")
    parser.add_argument("--record-lineage", action="store_true", help="record what the inputs are made from, and end")
    own, beam_arguments = parser.parse_known_args(arguments)
    given = {"inputs": {}, "outputs": {}, **own.executor_input}
    try:
        recorder = _recorder(own.metadata, own.node) if own.metadata else None
        if own.record_lineage:
            assert recorder
            recorder.record_cached(_artifacts(own.node.inputs, given["inputs"]))
        elif own.resolve:
            run_driver(own.node, given, recorder, own.run)
        else:
            run_executor(own.node, given, beam_arguments, recorder)
    except UserError as error:
        print(f"im2latex: {own.node.id}: {with_addresses(str(error))}", file=sys.stderr)
        sys.exit(1)


def _recorder(address: str, node: Node) -> Recorder:
    from kubeflow.recording import Recorder

    return Recorder(address, node)


def path_of(kind: type) -> str:
    """The dotted path of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _artifacts(classes: Mapping[str, str], given: dict[str, Any]) -> dict[str, list[Any]]:
    """The TFX artifacts of an ExecutorInput's inputs or outputs; an optional input may be missing."""
    told = given.get("artifacts", {})
    return {key: [_artifact(path, told[key])] for key, path in classes.items() if key in told}


def _parameters(node: Node, given: dict[str, Any]) -> dict[str, Any]:
    told = given["inputs"].get("parameterValues", {})
    read: dict[str, Any] = {name: int(value) if name in node.whole else value for name, value in told.items()}
    if DATA in given["inputs"].get("artifacts", {}):  # the launcher has downloaded it
        read[INPUT_BASE] = local_path(read[INPUT_BASE])
    return read


@contextlib.contextmanager
def _records(properties: dict[str, Any], given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The properties of a driver with a local folder for the records, if it looks at any.

    Raises:
        UserError: there are none, or their bucket cannot be listed.
    """
    if INPUT_BASE not in properties:
        yield properties
        return
    told = given["inputs"]["parameterValues"][INPUT_BASE]
    with tempfile.TemporaryDirectory(prefix="listing-") as listing:
        folder = Path(properties[INPUT_BASE])
        if is_address(str(properties[INPUT_BASE])):
            from kubeflow.listing import mirror

            folder = Path(listing)
            mirror(told, folder)
        elif is_address(told):
            _date_by_content(folder)
        if not any(path.is_file() for path in folder.rglob("*")):
            raise UserError(
                f"there is no file in {told}; kubeflow.data and --param data=ADDRESS take the folder of the records"
            )
        yield properties | {INPUT_BASE: str(folder)}


def _artifact(path: str, told: dict[str, Any]) -> Any:
    """A TFX artifact of a class, from an ArtifactList with one RuntimeArtifact."""
    from tfx.utils import import_utils

    (told,) = told["artifacts"]
    made = import_utils.import_class_by_path(path)()
    made.uri = local_path(told["uri"])
    if made.uri != told["uri"]:
        made.set_string_custom_property(ADDRESS, told["uri"])
    if told.get("name", "").isdecimal():  # its id in the backend's ML Metadata
        made.id = int(told["name"])
    properties = {name: _plain(value) for name, value in told.get("metadata", {}).items()}
    for name, value in properties.items():
        if name in (made.PROPERTIES or {}):
            setattr(made, name, value)
        elif isinstance(value, str) and name not in _OF_THE_LAUNCHER:
            made.set_string_custom_property(name, value)
        elif isinstance(value, bool | dict | list):
            made.set_json_value_custom_property(name, value)
        elif isinstance(value, int):
            made.set_int_custom_property(name, value)
        elif isinstance(value, float):
            made.set_float_custom_property(name, value)
    return made


def _metadata(artifact: Any) -> dict[str, Any]:
    """Its properties and custom properties, as JSON."""
    known = {name: getattr(artifact, name) for name in artifact.mlmd_artifact.properties}
    custom = artifact.mlmd_artifact.custom_properties
    structured = {
        n: artifact.get_json_value_custom_property(n) for n, v in custom.items() if v.HasField("struct_value")
    }
    told = known | values(custom) | structured
    told.pop(ADDRESS, None)
    return {name: with_addresses(value) if isinstance(value, str) else value for name, value in told.items()}


def _found(text: str | None, outputs: dict[str, list[Any]]) -> dict[str, Any]:
    """The properties that a driver set for the executor; those it set on output artifacts are put there."""
    from google.protobuf import json_format
    from tfx.proto.orchestration import driver_output_pb2

    found = json_format.Parse(text or "{}", driver_output_pb2.DriverOutput())
    for key, artifacts in found.output_artifacts.items():
        (made,), (seen,) = outputs[key], artifacts.artifacts
        for name, value in seen.custom_properties.items():
            made.mlmd_artifact.custom_properties[name].CopyFrom(value)
    return values(found.exec_properties)


def _date_by_content(folder: Path) -> None:
    """Dates downloaded files by the checksum of their bytes.

    ExampleGen tells changed files by name, size and time, and the launcher writes them anew for each task.
    """
    import google_crc32c

    for path in folder.rglob("*"):
        if path.is_file():
            checksum = int.from_bytes(google_crc32c.Checksum(path.read_bytes()).digest(), "big")
            os.utime(path, (checksum, checksum))


def _plain(value: Any) -> Any:
    """A property as it was before the backend stored it: whole numbers whole, lists and dicts without a wrapper."""
    if isinstance(value, dict) and set(value) in ({"list"}, {"struct"}):
        (value,) = value.values()
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _write(path: str, text: str) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
    # All is written. gRPC aborts at times when Python ends below its threads, and the task would have failed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
