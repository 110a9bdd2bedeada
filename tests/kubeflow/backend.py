"""What the Kubeflow backend, its launcher and its bucket do with a compiled pipeline, without a cluster.

A task is a process of its own that finds no more than a container would: the arguments with the ExecutorInput in
them, the input artifacts downloaded, the parents of the outputs, the container's environment. What it leaves is
uploaded, and gone with its folder. As the real backend does it:

- an input artifact has an id for a name, its properties as metadata, and a type that says nothing;
- all numbers are JSON's;
- a task is taken from the cache when its image, its command, its parameters and the ids of its inputs were there
  before, and it allows that;
- empty folders do not exist in a bucket.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from data.repository import REPOSITORY

ROOT = "s3://bucket/runs"


@dataclasses.dataclass
class Result:
    """What a task gave: artifacts by output (name is the id) and parameters."""

    artifacts: dict[str, dict[str, Any]]
    parameters: dict[str, Any]
    state: str = "ran"


class TaskFailed(Exception):
    """A task's process did not exit with 0; the message has its output."""


class Backend:
    """A cluster in a folder."""

    def __init__(self, folder: Path) -> None:
        self.bucket = folder / "bucket"
        self.bucket.mkdir(parents=True)
        self._pods = folder / "pods"
        self._pods.mkdir()
        self._cache: dict[str, Result] = {}
        self._artifacts = 0

    def run(self, text: str, parameters: dict[str, Any] | None = None) -> dict[str, Result]:
        """Runs a compiled pipeline; two tasks at a time."""
        spec = json_format.ParseDict(next(yaml.safe_load_all(text)), pipeline_spec_pb2.PipelineSpec())
        assert spec.schema_version == "2.1.0"
        given = {name: p.default_value for name, p in spec.root.input_definitions.parameters.items()}
        given = {name: json_format.MessageToDict(value) for name, value in given.items()} | (parameters or {})
        run = f"{ROOT}/{spec.pipeline_info.name}/{uuid.uuid4()}"
        done: dict[str, Result] = {}
        waiting = dict(spec.root.dag.tasks)
        running: dict[Future[Result], str] = {}
        with ThreadPoolExecutor(max_workers=2) as pool:
            while waiting or running:
                for name in [n for n, task in waiting.items() if set(task.dependent_tasks) <= set(done)]:
                    task = waiting.pop(name)
                    running[pool.submit(self._task, spec, task, given, dict(done), f"{run}/{name}")] = name
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    done[running.pop(future)] = future.result()
        return done

    def _task(self, spec: Any, task: Any, given: dict[str, Any], done: dict[str, Result], place: str) -> Result:
        component = spec.components[task.component_ref.name]
        executor = json_format.MessageToDict(spec.deployment_spec)["executors"][component.executor_label]
        parameters = {name: _parameter(source, given, done) for name, source in task.inputs.parameters.items()}
        if importer := executor.get("importer"):
            address = parameters[importer["artifactUri"]["runtimeParameter"]]
            key = f"import {address}"
            if key not in self._cache:
                self._cache[key] = Result({"artifact": self._artifact(address, {})}, {})
            return self._cache[key]
        sources = {name: source.task_output_artifact for name, source in task.inputs.artifacts.items()}
        artifacts = {name: done[s.producer_task].artifacts[s.output_artifact_key] for name, s in sources.items()}
        container = executor["container"]
        command = [*container["command"], *container["args"]]
        names = {name: artifact["name"] for name, artifact in artifacts.items()}
        key = hashlib.sha256(json.dumps([container["image"], command, parameters, names]).encode()).hexdigest()
        if task.caching_options.enable_cache and key in self._cache:
            return dataclasses.replace(self._cache[key], state="cached")
        result = self._launch(component, command, container.get("env", []), parameters, artifacts, place)
        self._cache[key] = result
        return result

    def _launch(
        self,
        component: Any,
        command: list[str],
        environment: list[dict[str, str]],
        parameters: dict[str, Any],
        artifacts: dict[str, dict[str, Any]],
        place: str,
    ) -> Result:
        with tempfile.TemporaryDirectory(dir=self._pods) as name:
            pod = Path(name)
            outputs = component.output_definitions
            executor_input = {
                "inputs": {
                    "parameterValues": parameters,
                    "artifacts": {key: {"artifacts": [artifact]} for key, artifact in artifacts.items()},
                },
                "outputs": {
                    "parameters": {key: {"outputFile": str(pod / "outputs" / key)} for key in outputs.parameters},
                    "artifacts": {
                        key: {"artifacts": [{"uri": f"{place}/{key}", "metadata": {}}]} for key in outputs.artifacts
                    },
                    "outputFile": str(pod / "kfp_outputs" / "output_metadata.json"),
                },
            }
            checked = json_format.ParseDict(executor_input, pipeline_spec_pb2.ExecutorInput())
            text = json_format.MessageToJson(checked, indent=None)
            for artifact in artifacts.values():
                self._download(artifact["uri"], pod)
            for key in outputs.artifacts:
                _local(f"{place}/{key}", pod).parent.mkdir(parents=True, exist_ok=True)
            (pod / "outputs").mkdir()
            ended = subprocess.run(
                [argument.replace("{{$}}", text) for argument in command],
                cwd=REPOSITORY,
                env={
                    "PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/bin:/bin",
                    "HOME": str(pod),
                    "TMPDIR": str(pod),
                    "IM2LATEX_LAUNCHER_ROOT": str(pod),
                    **{variable["name"]: variable["value"] for variable in environment},
                },
                capture_output=True,
                text=True,
                timeout=600,
            )
            if ended.returncode:
                raise TaskFailed(f"{place.rpartition('/')[2]}: {ended.stdout[-2000:]}\n{ended.stderr[-6000:]}")
            return self._collect(executor_input["outputs"], pod)

    def _collect(self, outputs: dict[str, Any], pod: Path) -> Result:
        told = pipeline_spec_pb2.ExecutorOutput()
        if (file := Path(outputs["outputFile"])).exists():
            json_format.Parse(file.read_text(encoding="utf-8"), told)  # refuses what the schema does not have
        made = {}
        for key, listed in outputs["artifacts"].items():
            (artifact,) = listed["artifacts"]
            metadata = {}
            if key in told.artifacts:
                assert told.artifacts[key].artifacts[0].uri == artifact["uri"]
                metadata = json_format.MessageToDict(told.artifacts[key].artifacts[0].metadata)
            self._upload(artifact["uri"], pod)
            made[key] = self._artifact(artifact["uri"], metadata)
        parameters = {
            key: Path(value["outputFile"]).read_text(encoding="utf-8") for key, value in outputs["parameters"].items()
        }
        return Result(made, parameters)

    def _artifact(self, address: str, metadata: dict[str, Any]) -> dict[str, Any]:
        self._artifacts += 1
        return {"name": str(self._artifacts), "uri": address, "type": {}, "metadata": metadata}

    def object(self, address: str) -> Path:
        """What is at an address in the bucket."""
        return self.bucket / address.removeprefix("s3://bucket/")

    def _download(self, address: str, pod: Path) -> None:
        if self.object(address).exists():
            shutil.copytree(self.object(address), _local(address, pod), dirs_exist_ok=True, copy_function=shutil.copy)

    def _upload(self, address: str, pod: Path) -> None:
        for path in _local(address, pod).rglob("*"):
            if path.is_file():
                target = self.object(address) / path.relative_to(_local(address, pod))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)


def _local(address: str, pod: Path) -> Path:
    return pod / "s3" / address.removeprefix("s3://")


def _parameter(source: Any, given: dict[str, Any], done: dict[str, Result]) -> Any:
    if source.WhichOneof("kind") == "component_input_parameter":
        return given[source.component_input_parameter]
    if source.WhichOneof("kind") == "task_output_parameter":
        return done[source.task_output_parameter.producer_task].parameters[
            source.task_output_parameter.output_parameter_key
        ]
    return json_format.MessageToDict(source.runtime_value.constant)
