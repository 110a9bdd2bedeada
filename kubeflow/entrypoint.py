"""The command of every container: runs a TFX executor or driver on the input of the backend's launcher.

    python -m kubeflow.entrypoint --node NODE --executor-input '{{$}}' [BEAM ARGUMENT…]

Before this command, the launcher downloads the input artifacts and replaces {{$}} by the task's ExecutorInput. After
it, the launcher uploads the output artifacts and reads the ExecutorOutput. This module does the rest:

- It takes the class of each artifact from NODE, because the ExecutorInput has no types for inputs.
- It converts addresses (gs://, s3://, minio://) to the launcher's local paths, because TFX cannot open all of them. In
  the ExecutorOutput and in messages it converts them back.
- It restores integers, which JSON does not have, and unwraps the lists and dicts of ML Metadata.

With --resolve it runs the driver instead, and writes the driver's output to the output parameter `found`. The
component's own task gets that as a parameter, see `kubeflow.runner`. If the launcher did not download the records, the
driver lists them in their bucket.

Arguments after its own are passed to Beam. For errors that a person can fix, it prints one sentence and exits with 1;
other errors end in a traceback.
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
from typing import Any

from components.metadata import ADDRESS, values
from im2latex.errors import UserError
from kubeflow.addresses import is_address, local_path, with_addresses

# DATA: name of the parameter and of the artifact for the records. FOUND: name of the parameter for a driver's output.
DATA = "data"
FOUND = "found"
# ImportExampleGen's execution property for the folder of the records.
INPUT_BASE = "input_base"
# Properties of artifacts that the launcher sets; TFX does not know them.
_OF_THE_LAUNCHER = {"display_name", "store_session_info"}


@dataclasses.dataclass(frozen=True)
class Node:
    """The component that a container runs; classes are dotted paths."""

    id: str
    executor: str
    driver: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    whole: Sequence[str]  # names of integer parameters, which arrive as floats

    @classmethod
    def of(cls, component: Any) -> Node:
        """Describes a TFX component."""
        return cls(
            id=component.id,
            executor=_path(component.executor_spec.executor_class),
            driver=_path(component.driver_class),
            inputs={key: _path(channel.type) for key, channel in component.inputs.items()},
            outputs={key: _path(channel.type) for key, channel in component.outputs.items()},
            whole=[name for name, value in component.exec_properties.items() if isinstance(value, int)],
        )

    def to_json(self) -> str:
        """Returns the argument for `--node`."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def run_executor(node: Node, given: dict[str, Any], beam_arguments: list[str]) -> None:
    """Runs the executor on an ExecutorInput and writes the ExecutorOutput."""
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
        executor_class(executor_class.Context(**about)).Do(inputs, outputs, properties)
    outputs_utils.tag_output_artifacts_with_version(outputs)
    addresses = {key: told["artifacts"][0]["uri"] for key, told in given["outputs"].get("artifacts", {}).items()}
    made = {
        key: {"artifacts": [{"uri": addresses[key], "metadata": _metadata(artifact)}]}
        for key, (artifact,) in outputs.items()
    }
    _write(given["outputs"]["outputFile"], json.dumps({"artifacts": made}, sort_keys=True))


def run_driver(node: Node, given: dict[str, Any]) -> None:
    """Runs the driver on an ExecutorInput and writes its DriverOutput, as JSON, to the output parameter `found`."""
    from google.protobuf import json_format
    from tfx.orchestration.portable.data_types import ExecutionInfo
    from tfx.utils import import_utils

    outputs = {key: [import_utils.import_class_by_path(path)()] for key, path in node.outputs.items()}
    inputs = _artifacts(node.inputs, given["inputs"])
    with _records(_parameters(node, given), given) as properties:
        execution = ExecutionInfo(input_dict=inputs, output_dict=outputs, exec_properties=dict(properties))
        found = import_utils.import_class_by_path(node.driver)(None).run(execution)
    for name, value in values(found.exec_properties).items():  # a driver may repeat its input
        if properties.get(name) == value:
            del found.exec_properties[name]
    text = json.dumps(json_format.MessageToDict(found), sort_keys=True)
    _write(given["outputs"]["parameters"][FOUND]["outputFile"], text)


def main(arguments: list[str]) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m kubeflow.entrypoint", allow_abbrev=False)
    parser.add_argument("--node", required=True, type=lambda text: Node(**json.loads(text)))
    parser.add_argument("--executor-input", required=True, type=json.loads)
    parser.add_argument("--resolve", action="store_true", help="run the driver instead of the executor")
    own, beam_arguments = parser.parse_known_args(arguments)
    given = {"inputs": {}, "outputs": {}, **own.executor_input}
    try:
        if own.resolve:
            run_driver(own.node, given)
        else:
            run_executor(own.node, given, beam_arguments)
    except UserError as error:
        print(f"im2latex: {own.node.id}: {with_addresses(str(error))}", file=sys.stderr)
        sys.exit(1)


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _artifacts(classes: Mapping[str, str], given: dict[str, Any]) -> dict[str, list[Any]]:
    """Creates the TFX artifacts of an ExecutorInput's inputs or outputs; an optional input may be missing."""
    told = given.get("artifacts", {})
    return {key: [_artifact(path, told[key])] for key, path in classes.items() if key in told}


def _parameters(node: Node, given: dict[str, Any]) -> dict[str, Any]:
    told = given["inputs"].get("parameterValues", {})
    read: dict[str, Any] = {name: int(value) if name in node.whole else value for name, value in told.items()}
    if DATA in given["inputs"].get("artifacts", {}):  # the launcher has downloaded the records
        read[INPUT_BASE] = local_path(read[INPUT_BASE])
    return read


@contextlib.contextmanager
def _records(properties: dict[str, Any], given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields a driver's properties. If it reads records, their folder is replaced by a local one.

    Raises:
        UserError: there are no records, or their bucket cannot be listed.
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
    """Creates a TFX artifact of a class from an ArtifactList with one RuntimeArtifact."""
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
    """Returns an artifact's properties and custom properties as JSON."""
    known = {name: getattr(artifact, name) for name in artifact.mlmd_artifact.properties}
    custom = artifact.mlmd_artifact.custom_properties
    structured = {
        n: artifact.get_json_value_custom_property(n) for n, v in custom.items() if v.HasField("struct_value")
    }
    told = known | values(custom) | structured
    told.pop(ADDRESS, None)
    return {name: with_addresses(value) if isinstance(value, str) else value for name, value in told.items()}


def _found(text: str | None, outputs: dict[str, list[Any]]) -> dict[str, Any]:
    """Applies a driver's output: sets its properties of artifacts on `outputs`, returns its execution properties."""
    from google.protobuf import json_format
    from tfx.proto.orchestration import driver_output_pb2

    found = json_format.Parse(text or "{}", driver_output_pb2.DriverOutput())
    for key, artifacts in found.output_artifacts.items():
        (made,), (seen,) = outputs[key], artifacts.artifacts
        for name, value in seen.custom_properties.items():
            made.mlmd_artifact.custom_properties[name].CopyFrom(value)
    return values(found.exec_properties)


def _date_by_content(folder: Path) -> None:
    """Sets the modification time of each file to the checksum of its content.

    ExampleGen detects changed files by name, size and time, and the launcher downloads them anew for each task.
    """
    import google_crc32c

    for path in folder.rglob("*"):
        if path.is_file():
            checksum = int.from_bytes(google_crc32c.Checksum(path.read_bytes()).digest(), "big")
            os.utime(path, (checksum, checksum))


def _plain(value: Any) -> Any:
    """Restores a property from the backend's form: whole floats become int, and lists and dicts lose their wrapper."""
    if isinstance(value, dict) and set(value) in ({"list"}, {"struct"}):
        (value,) = value.values()
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _write(path: str, text: str) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
    # Exit without cleanup: gRPC sometimes aborts at Python's exit while its threads run, and would fail the task.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
