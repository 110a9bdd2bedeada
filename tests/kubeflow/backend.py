"""Runs a compiled pipeline as the Kubeflow backend, its launcher and its buckets do, without a cluster.

Each task is a process that has only what a container would have: the arguments with the ExecutorInput, the downloaded
input artifacts, the parent folders of the outputs, the container's environment and its secrets. Its outputs are
uploaded, and its folder is deleted. As in the real backend (2.17):

- The name of an input artifact is its id, and its type is generic. Its properties have passed through ML Metadata: all
  numbers and booleans are JSON numbers, lists and dicts have wrappers, and the launcher has added two properties.
- Each task has an output `executor-logs` that its component does not declare.
- Each pod has the id of its run as the label `pipeline/runid`, which an environment variable may show.
- A task is taken from the cache if its cache is enabled, and if its image, command, parameters and the ids of its
  inputs are those of an earlier task.
- A failed task is retried until the time limit of its retry policy, counted from its first start; without a limit it
  is never retried.
- The launcher's own credentials are valid for the bucket of the pipeline root only; other buckets need the pod's.
- Empty folders do not exist in a bucket, and a bucket without a path is not an artifact.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from data.repository import REPOSITORY

ROOT = "s3://bucket/runs"
# Variables of the pod that a launcher needs for a bucket without its own credentials; some stores need an endpoint too.
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")


@dataclasses.dataclass
class Result:
    """The outputs of a task: artifacts by output, whose name is their id, and parameters."""

    artifacts: dict[str, dict[str, Any]]
    parameters: dict[str, Any]
    state: str = "ran"


class TaskFailed(Exception):
    """A task's process failed, or its launcher did; the message has the output."""


class Backend:
    """A cluster in a folder."""

    def __init__(self, folder: Path, root: str = ROOT, secrets: Mapping[str, str] | None = None) -> None:
        """
        Args:
            folder: folder for all files of the cluster.
            root: address of the pipeline root; the launcher has credentials for its bucket.
            secrets: secrets of the namespace: values by secret/key.
        """
        self.root = root
        self.downloaded: dict[str, list[str]] = {}  # addresses by task
        # Tasks (RUN/TASK) whose first attempt is killed, each as soon as its condition holds.
        self.killed: dict[str, Callable[[], bool]] = {}
        self.seconds_of_an_attempt = 0.0
        self.buckets = folder / "buckets"
        self.pods = folder / "pods"
        self.pods.mkdir(parents=True)
        self._secrets = secrets or {}
        self._cache: dict[str, Result] = {}
        self._artifacts = itertools.count(1)

    def run(self, text: str, parameters: dict[str, Any] | None = None, run_id: str = "") -> dict[str, Result]:
        """Runs a compiled pipeline; two tasks at a time."""
        run_id = run_id or str(uuid.uuid4())
        pipeline, platform = yaml.safe_load_all(text)
        spec = json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
        assert spec.schema_version == "2.1.0"
        pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        values = {name: p.default_value for name, p in spec.root.input_definitions.parameters.items()}
        values = {name: json_format.MessageToDict(value) for name, value in values.items()} | (parameters or {})
        run = f"{self.root}/{spec.pipeline_info.name}/{run_id}"
        done: dict[str, Result] = {}
        waiting = dict(spec.root.dag.tasks)
        running: dict[Future[Result], str] = {}
        with ThreadPoolExecutor(max_workers=2) as pool:
            while waiting or running:
                for name in [n for n, task in waiting.items() if set(task.dependent_tasks) <= set(done)]:
                    task = waiting.pop(name)
                    running[pool.submit(self._task, spec, pods, task, values, dict(done), f"{run}/{name}")] = name
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    done[running.pop(future)] = future.result()
        return done

    def _task(
        self, spec: Any, pods: Any, task: Any, values: dict[str, Any], done: dict[str, Result], task_root: str
    ) -> Result:
        component = spec.components[task.component_ref.name]
        executor = json_format.MessageToDict(spec.deployment_spec)["executors"][component.executor_label]
        parameters = {name: _parameter(source, values, done) for name, source in task.inputs.parameters.items()}
        if importer := executor.get("importer"):
            address = parameters[importer["artifactUri"]["runtimeParameter"]]
            key = f"import {address}"
            if key not in self._cache:
                self._cache[key] = Result({"artifact": self._artifact("artifact", address, {})}, {})
            return self._cache[key]
        sources = {name: source.task_output_artifact for name, source in task.inputs.artifacts.items()}
        artifacts = {name: done[s.producer_task].artifacts[s.output_artifact_key] for name, s in sources.items()}
        container = executor["container"]
        command = [*container["command"], *container["args"]]
        names = {name: artifact["name"] for name, artifact in artifacts.items()}
        key = hashlib.sha256(json.dumps([container["image"], command, parameters, names]).encode()).hexdigest()
        if task.caching_options.enable_cache and key in self._cache:
            return dataclasses.replace(self._cache[key], state="cached")
        labels = {"pipeline/runid": task_root.split("/")[-2]}
        environment = self._environment(container, pods.get(component.executor_label, {}), labels)
        result = self._attempts(
            task.retry_policy,
            lambda: self._launch(component, command, environment, parameters, artifacts, task_root),
        )
        self._cache[key] = result
        return result

    def _environment(self, container: dict[str, Any], pod: dict[str, Any], labels: dict[str, str]) -> dict[str, str]:
        config = json_format.ParseDict(pod, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        environment = {variable["name"]: variable["value"] for variable in container.get("env", [])}
        for secret in config.secret_as_env:
            for entry in secret.key_to_env:
                environment[entry.env_var] = self._secrets[f"{secret.secret_name}/{entry.secret_key}"]
        for field in config.field_path_as_env:
            environment[field.name] = labels[field.field_path.removeprefix("metadata.labels['").removesuffix("']")]
        return environment

    def _attempts(self, policy: Any, launch: Callable[[], Result]) -> Result:
        """Returns the result of the first successful attempt. Pauses between attempts are only counted."""
        pause = policy.backoff_duration.ToTimedelta().total_seconds()
        passed = 0.0
        for left in range(policy.max_retry_count, -1, -1):
            try:
                return launch()
            except TaskFailed as failure:
                passed += self.seconds_of_an_attempt + pause
                pause *= policy.backoff_factor
                if not left:
                    raise
                # Unset it is "0", and that deadline is past.
                if passed > policy.backoff_max_duration.ToTimedelta().total_seconds():
                    raise TaskFailed(f"{failure}\nMax duration limit exceeded") from None
        raise AssertionError

    def _launch(
        self,
        component: Any,
        command: list[str],
        environment: dict[str, str],
        parameters: dict[str, Any],
        artifacts: dict[str, dict[str, Any]],
        task_root: str,
    ) -> Result:
        with tempfile.TemporaryDirectory(dir=self.pods) as folder:
            pod = Path(folder)
            outputs = component.output_definitions
            executor_input = {
                "inputs": {
                    "parameterValues": parameters,
                    "artifacts": {key: {"artifacts": [artifact]} for key, artifact in artifacts.items()},
                },
                "outputs": {
                    "parameters": {key: {"outputFile": str(pod / "outputs" / key)} for key in outputs.parameters},
                    "artifacts": {
                        key: {"artifacts": [{"uri": f"{task_root}/{key}", "metadata": {}}]}
                        for key in (*outputs.artifacts, "executor-logs")
                    },
                    "outputFile": str(pod / "kfp_outputs" / "output_metadata.json"),
                },
            }
            checked = json_format.ParseDict(executor_input, pipeline_spec_pb2.ExecutorInput())
            text = json_format.MessageToJson(checked, indent=None)
            for artifact in artifacts.values():
                self._download(artifact["uri"], pod, environment)
            self.downloaded[task_root.rpartition("/")[2]] = [artifact["uri"] for artifact in artifacts.values()]
            for key in outputs.artifacts:
                _local(f"{task_root}/{key}", pod).parent.mkdir(parents=True, exist_ok=True)
            (pod / "outputs").mkdir()
            name = task_root.rpartition("/")[2]
            process = subprocess.Popen(
                [argument.replace("{{$}}", text) for argument in command],
                cwd=REPOSITORY,
                env={
                    "PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/bin:/bin",
                    "HOME": str(pod),
                    "TMPDIR": str(pod),
                    "IM2LATEX_LAUNCHER_ROOT": str(pod),
                    **environment,
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            if condition := self.killed.pop("/".join(task_root.split("/")[-2:]), None):
                while process.poll() is None and not condition():
                    time.sleep(0.05)
                process.kill()
            try:
                log, _ = process.communicate(timeout=600)
            finally:
                process.kill()
            if process.returncode:
                raise TaskFailed(f"{name}: status {process.returncode}\n{log[-8000:]}")
            return self._collect(executor_input["outputs"], outputs.artifacts, pod)

    def _collect(self, outputs: dict[str, Any], declared: Any, pod: Path) -> Result:
        written = pipeline_spec_pb2.ExecutorOutput()
        if (file := Path(outputs["outputFile"])).exists():
            json_format.Parse(file.read_text(encoding="utf-8"), written)  # refuses fields that are not in the schema
        artifacts = {}
        for key in declared:
            (artifact,) = outputs["artifacts"][key]["artifacts"]
            metadata = {}
            if key in written.artifacts:
                assert written.artifacts[key].artifacts[0].uri == artifact["uri"]
                metadata = json_format.MessageToDict(written.artifacts[key].artifacts[0].metadata)
            self._upload(artifact["uri"], pod)
            artifacts[key] = self._artifact(key, artifact["uri"], metadata)
        parameters = {
            key: Path(value["outputFile"]).read_text(encoding="utf-8") for key, value in outputs["parameters"].items()
        }
        return Result(artifacts, parameters)

    def _artifact(self, key: str, address: str, metadata: dict[str, Any]) -> dict[str, Any]:
        session = {"Provider": "s3", "Params": {"fromEnv": "false", "secretName": "mlpipeline-minio-artifact"}}
        added = {"display_name": key, "store_session_info": json.dumps(session)}
        stored = {name: _stored(value) for name, value in metadata.items()} | added
        return {"name": str(next(self._artifacts)), "uri": address, "type": {}, "metadata": stored}

    def object(self, address: str) -> Path:
        """Returns the path of an object by its address."""
        return self.buckets / address.replace("://", "/")

    def _download(self, address: str, pod: Path, environment: Mapping[str, str]) -> None:
        if not address.partition("://")[2].partition("/")[2]:
            raise TaskFailed(f"failed to download {address}: object storage has empty key")
        if _bucket(address) != _bucket(self.root) and not set(CREDENTIALS) <= set(environment):
            raise TaskFailed(f"failed to download {address}: no EC2 IMDS role found")
        if self.object(address).exists():
            shutil.copytree(self.object(address), _local(address, pod), dirs_exist_ok=True, copy_function=shutil.copy)

    def _upload(self, address: str, pod: Path) -> None:
        for path in _local(address, pod).rglob("*"):
            if path.is_file():
                target = self.object(address) / path.relative_to(_local(address, pod))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)


def _stored(value: Any) -> Any:
    """Converts a property to the form in which the backend's ML Metadata returns it."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, list):
        return {"list": value}
    return {"struct": value} if isinstance(value, dict) else value


def _bucket(address: str) -> str:
    scheme, _, path = address.partition("://")
    return f"{scheme}://{path.partition('/')[0]}"


def _local(address: str, pod: Path) -> Path:
    return pod / address.replace("://", "/")


def _parameter(source: Any, values: dict[str, Any], done: dict[str, Result]) -> Any:
    if source.WhichOneof("kind") == "component_input_parameter":
        return values[source.component_input_parameter]
    if source.WhichOneof("kind") == "task_output_parameter":
        return done[source.task_output_parameter.producer_task].parameters[
            source.task_output_parameter.output_parameter_key
        ]
    return json_format.MessageToDict(source.runtime_value.constant)
