"""The command of every container: runs a TFX executor or driver on the input of the backend's launcher.

    python -m kubeflow.entrypoint --node NODE --executor-input '{{$}}' [--metadata ADDRESS] [BEAM ARGUMENT…]

Before this command, the launcher downloads the input artifacts and replaces {{$}} by the task's ExecutorInput. After
it, the launcher uploads the output artifacts and reads the ExecutorOutput. This module does the rest:

- It takes the class of each artifact from NODE, because the ExecutorInput has no types for inputs.
- It converts addresses (gs://, s3://, minio://) to the launcher's local paths, because TFX cannot open all of them. In
  the ExecutorOutput and in messages it converts them back.
- It restores integers, which JSON does not have, and unwraps the lists and dicts of ML Metadata.

With --resolve it runs the driver instead, and writes the driver's output to the output parameter `found`. The
component's own task gets that as a parameter, see `kubeflow.runner`. If the launcher did not download the records, the
driver lists them in their bucket.

With --metadata it records the task in a database of ML Metadata, see `kubeflow.recording`; with --record-lineage it
does nothing else.

Arguments after its own are passed to Beam. For errors that a person can fix, it prints one sentence and exits with 1;
other errors end in a traceback. If a task fails, or a model is not blessed, the command or webhook in the pod's
environment is notified, see `pipeline.running.notify`.
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
from pipeline.running.notify import FAILED, REJECTED, notify

if TYPE_CHECKING:
    from kubeflow.recording import Recorder

# DATA: name of the parameter and of the artifact for the records. FOUND: name of the parameter for a driver's output.
DATA = "data"
FOUND = "found"
# ImportExampleGen's execution property for the folder of the records.
INPUT_BASE = "input_base"
# Environment variable with the id of the run, which the backend gives every pod as a label.
RUN = "IM2LATEX_RUN"
# The component whose driver reads the steps of a run from ML Metadata, and the property that it sets.
REPORTER, STEPS = "Reporter", "steps"
# Properties of artifacts that the launcher sets; TFX does not know them.
_OF_THE_LAUNCHER = {"display_name", "store_session_info"}


@dataclasses.dataclass(frozen=True)
class NodeSpec:
    """The component that a container runs; classes are dotted paths."""

    id: str
    inputs: Mapping[str, str]
    pipeline: str = ""
    executor: str = ""
    driver: str = ""
    outputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    whole: Sequence[str] = ()  # names of integer parameters, which arrive as floats
    # Type of its executions in ML Metadata.
    type: str = ""
    base_type: int = 0

    @classmethod
    def of(cls, component: Any, pipeline: str) -> NodeSpec:
        """Describes a TFX component in the pipeline of this name."""
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
        """Returns the type of its executions in ML Metadata, as in TFX's compiler."""
        from ml_metadata.proto import metadata_store_pb2

        execution_type = metadata_store_pb2.ExecutionType(name=self.type)
        if self.base_type:
            execution_type.base_type = self.base_type
        return execution_type

    def to_json(self) -> str:
        """Returns the argument for `--node`."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def run_executor(
    node: NodeSpec, task_input: dict[str, Any], beam_arguments: list[str], recorder: Recorder | None = None
) -> None:
    """Runs the executor on an ExecutorInput, records it, and writes the ExecutorOutput."""
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.orchestration.portable import outputs_utils
    from tfx.utils import import_utils

    inputs, outputs = _artifacts(node.inputs, task_input["inputs"]), _artifacts(node.outputs, task_input["outputs"])
    properties = _parameters(node, task_input)
    properties |= _apply_driver_output(properties.pop(FOUND, None), outputs)
    outputs_utils.make_output_dirs(outputs)
    executor_class = import_utils.import_class_by_path(node.executor)
    with tempfile.TemporaryDirectory(prefix=f"{node.id}-") as folder:
        context: dict[str, Any] = {"tmp_dir": folder, "unique_id": "0"}
        if issubclass(executor_class, BaseBeamExecutor):
            context["beam_pipeline_args"] = beam_arguments
        if recorder:
            context["pipeline_run_id"] = recorder.run
            if node.id == REPORTER:
                recorder.record_cached(inputs)
                properties[STEPS] = recorder.steps()
        with recorder.recorded(inputs, outputs, properties) if recorder else contextlib.nullcontext():
            executor_class(executor_class.Context(**context)).Do(inputs, outputs, properties)
            outputs_utils.tag_output_artifacts_with_version(outputs)
    for blessing in outputs.get("blessing", ()):
        if blessing.get_int_custom_property("blessed") != 1:
            _notify(node, REJECTED, blessing.get_string_custom_property("reason") or "the model was not blessed")
    addresses = {
        key: listed["artifacts"][0]["uri"] for key, listed in task_input["outputs"].get("artifacts", {}).items()
    }
    results = {
        key: {"artifacts": [{"uri": addresses[key], "metadata": _metadata(artifact)}]}
        for key, (artifact,) in outputs.items()
    }
    _write(task_input["outputs"]["outputFile"], json.dumps({"artifacts": results}, sort_keys=True))


def run_driver(
    node: NodeSpec, task_input: dict[str, Any], recorder: Recorder | None = None, run: dict[str, Any] | None = None
) -> None:
    """Runs the driver on an ExecutorInput and writes its DriverOutput, as JSON, to the output parameter `found`.

    Args:
        node: the component.
        task_input: ExecutorInput.
        recorder: gives the driver access to ML Metadata, and records which inputs come from the cache, and a failure.
        run: configuration and code of the run, to be recorded.
    """
    from google.protobuf import json_format
    from tfx.orchestration.portable.data_types import ExecutionInfo
    from tfx.utils import import_utils

    outputs = {key: [import_utils.import_class_by_path(path)()] for key, path in node.outputs.items()}
    inputs = _artifacts(node.inputs, task_input["inputs"])
    if recorder:
        recorder.record_cached(inputs)
        if run:
            recorder.describe_run(run, task_input["inputs"]["parameterValues"][INPUT_BASE])
    parameters = _parameters(node, task_input)
    with (
        recorder.failure_recorded(inputs, parameters) if recorder else contextlib.nullcontext(),
        _records(parameters, task_input) as properties,
    ):
        execution = ExecutionInfo(input_dict=inputs, output_dict=outputs, exec_properties=dict(properties))
        database = recorder.metadata() if recorder else None
        output = import_utils.import_class_by_path(node.driver)(database).run(execution)
    for name, value in values(output.exec_properties).items():  # a driver may repeat its input
        if properties.get(name) == value:
            del output.exec_properties[name]
    text = json.dumps(json_format.MessageToDict(output), sort_keys=True)
    _write(task_input["outputs"]["parameters"][FOUND]["outputFile"], text)


def main(arguments: list[str]) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m kubeflow.entrypoint", allow_abbrev=False)
    parser.add_argument("--node", required=True, type=lambda text: NodeSpec(**json.loads(text)))
    parser.add_argument("--executor-input", required=True, type=json.loads)
    parser.add_argument("--resolve", action="store_true", help="run the driver instead of the executor")
    parser.add_argument("--metadata", default="", help="record the task in this database of ML Metadata")
    parser.add_argument("--run", type=json.loads, help="record what the run is run with")
    parser.add_argument("--record-lineage", action="store_true", help="record what the inputs are made from, and end")
    own, beam_arguments = parser.parse_known_args(arguments)
    task_input = {"inputs": {}, "outputs": {}, **own.executor_input}
    try:
        recorder = _recorder(own.metadata, own.node) if own.metadata else None
        if own.record_lineage:
            assert recorder
            recorder.record_cached(_artifacts(own.node.inputs, task_input["inputs"]))
        elif own.resolve:
            run_driver(own.node, task_input, recorder, own.run)
        else:
            run_executor(own.node, task_input, beam_arguments, recorder)
    except UserError as error:
        sentence = with_addresses(str(error))
        print(f"im2latex: {own.node.id}: {sentence}", file=sys.stderr)
        _notify(own.node, FAILED, sentence)
        sys.exit(1)
    except Exception as error:
        _notify(own.node, FAILED, f"{type(error).__name__}: {error}")
        raise


def _notify(node: NodeSpec, outcome: str, sentence: str) -> None:
    for problem in notify(node.id, outcome, sentence):
        print(f"im2latex: {problem}", file=sys.stderr)


def _recorder(address: str, node: NodeSpec) -> Recorder:
    from kubeflow.recording import Recorder

    return Recorder(address, node)


def path_of(kind: type) -> str:
    """Returns the dotted path of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _artifacts(classes: Mapping[str, str], side: dict[str, Any]) -> dict[str, list[Any]]:
    """Creates the TFX artifacts of an ExecutorInput's inputs or outputs; an optional input may be missing."""
    lists = side.get("artifacts", {})
    return {key: [_artifact(path, lists[key])] for key, path in classes.items() if key in lists}


def _parameters(node: NodeSpec, task_input: dict[str, Any]) -> dict[str, Any]:
    values_by_name = task_input["inputs"].get("parameterValues", {})
    properties: dict[str, Any] = {
        name: int(value) if name in node.whole else value for name, value in values_by_name.items()
    }
    if DATA in task_input["inputs"].get("artifacts", {}):  # the launcher has downloaded the records
        properties[INPUT_BASE] = local_path(properties[INPUT_BASE])
    return properties


@contextlib.contextmanager
def _records(properties: dict[str, Any], task_input: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields a driver's properties. If it reads records, their folder is replaced by a local one.

    Raises:
        UserError: there are no records, or their bucket cannot be listed.
    """
    if INPUT_BASE not in properties:
        yield properties
        return
    address = task_input["inputs"]["parameterValues"][INPUT_BASE]
    with tempfile.TemporaryDirectory(prefix="listing-") as listing:
        folder = Path(properties[INPUT_BASE])
        if is_address(str(properties[INPUT_BASE])):
            from kubeflow.listing import mirror

            folder = Path(listing)
            mirror(address, folder)
        elif is_address(address):
            _set_times_by_content(folder)
        if not any(path.is_file() for path in folder.rglob("*")):
            raise UserError(
                f"there is no file in {address}; kubeflow.data and --param data=ADDRESS take the folder of the records"
            )
        yield properties | {INPUT_BASE: str(folder)}


def _artifact(path: str, described: dict[str, Any]) -> Any:
    """Creates a TFX artifact of a class from an ArtifactList with one RuntimeArtifact."""
    from tfx.utils import import_utils

    (described,) = described["artifacts"]
    artifact = import_utils.import_class_by_path(path)()
    artifact.uri = local_path(described["uri"])
    if artifact.uri != described["uri"]:
        artifact.set_string_custom_property(ADDRESS, described["uri"])
    if described.get("name", "").isdecimal():  # its id in the backend's ML Metadata
        artifact.id = int(described["name"])
    properties = {name: _plain(value) for name, value in described.get("metadata", {}).items()}
    for name, value in properties.items():
        if name in (artifact.PROPERTIES or {}):
            setattr(artifact, name, value)
        elif isinstance(value, str) and name not in _OF_THE_LAUNCHER:
            artifact.set_string_custom_property(name, value)
        elif isinstance(value, bool | dict | list):
            artifact.set_json_value_custom_property(name, value)
        elif isinstance(value, int):
            artifact.set_int_custom_property(name, value)
        elif isinstance(value, float):
            artifact.set_float_custom_property(name, value)
    return artifact


def _metadata(artifact: Any) -> dict[str, Any]:
    """Returns an artifact's properties and custom properties as JSON."""
    known = {name: getattr(artifact, name) for name in artifact.mlmd_artifact.properties}
    custom = artifact.mlmd_artifact.custom_properties
    structured = {
        n: artifact.get_json_value_custom_property(n) for n, v in custom.items() if v.HasField("struct_value")
    }
    merged = known | values(custom) | structured
    merged.pop(ADDRESS, None)
    return {name: with_addresses(value) if isinstance(value, str) else value for name, value in merged.items()}


def _apply_driver_output(text: str | None, outputs: dict[str, list[Any]]) -> dict[str, Any]:
    """Applies a driver's output: sets its properties of artifacts on `outputs`, returns its execution properties."""
    from google.protobuf import json_format
    from tfx.proto.orchestration import driver_output_pb2

    output = json_format.Parse(text or "{}", driver_output_pb2.DriverOutput())
    for key, artifacts in output.output_artifacts.items():
        (artifact,), (described,) = outputs[key], artifacts.artifacts
        for name, value in described.custom_properties.items():
            artifact.mlmd_artifact.custom_properties[name].CopyFrom(value)
    return values(output.exec_properties)


def _set_times_by_content(folder: Path) -> None:
    """Sets the modification time of each file to the checksum of its content.

    ExampleGen detects changed files by name, size and time, and the launcher downloads them again for each task.
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
