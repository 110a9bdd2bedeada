"""Compiles the pipeline to what Kubeflow Pipelines 2 runs: a PipelineSpec of schema 2.1.0 and a platform spec.

TFX's own compiler is for Vertex AI. The open-source backend does not run what that compiles resolvers and driver hooks
to, and leaves the types of artifacts out of what it hands to a container. So every container of this pipeline is told
by its own arguments what it is (`Node`), and starts `kubeflow.entrypoint`.

The cache: the backend keys it by the image, the arguments, the parameters and the ids of the input artifacts. Three
components look at the world outside (which records are there? which model serves?), which none of these describes.
TFX's local runner has drivers for that, which run before the cache is asked. Here each of the three gets a task of
its own before it, `resolve-…`, which is never cached, runs the driver, and hands what it found on as a parameter:
so that is part of the key, and nothing changed means nothing is done again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.executor_spec import BeamExecutorSpec
from tfx.version import __version__ as tfx_version

from data.errors import UserError
from data.repository import REPOSITORY
from kubeflow.entrypoint import DATA, FOUND, Node, is_address
from pipeline.config import Config, tensorflow_environment
from pipeline.config.sections import EVERY, Pod
from pipeline.pipeline import create_pipeline

SCHEMA_VERSION = "2.1.0"
COMMAND = ("python", "-m", "kubeflow.entrypoint")
# Their drivers look at the world outside. Reporter's reads the local runner's ML Metadata: not here.
RESOLVED = ("ImportExampleGen", "Baseline", "Pusher")
# The execution properties that are the run's parameter `data`.
READS_DATA = {"ImportExampleGen": "input_base", "Reporter": "data"}
IMPORTER = "import-data"
_DATASET = {"artifactType": {"schemaTitle": "system.Dataset", "schemaVersion": "0.0.1"}}
_SECONDS_BETWEEN_ATTEMPTS = 30
_TYPES = {str: "STRING", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE"}


class Task(NamedTuple):
    """A task with its component and its executor, as the JSON of PipelineSpec."""

    name: str
    task: dict[str, Any]
    component: dict[str, Any]
    executor: dict[str, Any]
    platform: dict[str, Any]


def compile_pipeline(config: Config) -> str:
    """The pipeline as YAML of two documents: PipelineSpec and, for what Kubernetes alone knows, PlatformSpec.

    The run's pipeline root is given when it is started. Its parameter `data` is where the TFRecords are.

    Raises:
        UserError: a knob of the section `kubeflow` is missing, or this version of kfp cannot say it.
    """
    _check(config)
    place = config.kubeflow
    pipeline = create_pipeline(
        config,
        data=place.data,
        pipeline_root="",
        serving=f"{place.mount}/serving/{config.name}",
        checkpoints=f"{place.mount}/checkpoints",
    )
    tasks = [_importer()] if is_address(place.data) else []
    for component in pipeline.components:
        tasks += _tasks(component, config)
    spec = {
        "pipelineInfo": {"name": config.name, "description": "Images of formulas to LaTeX"},
        "schemaVersion": SCHEMA_VERSION,
        "sdkVersion": f"tfx-{tfx_version}",
        "root": {
            "inputDefinitions": {
                "parameters": {DATA: {"parameterType": "STRING", "defaultValue": place.data, "isOptional": True}}
            },
            "dag": {"tasks": {task.name: task.task for task in tasks}},
        },
        "components": {f"comp-{task.name}": task.component for task in tasks},
        "deploymentSpec": {"executors": {f"exec-{task.name}": task.executor for task in tasks}},
    }
    platform = {f"exec-{task.name}": task.platform for task in tasks if task.platform}
    documents = [
        _valid(spec, pipeline_spec_pb2.PipelineSpec()),
        {"platforms": {"kubernetes": {"deploymentSpec": {"executors": platform}}}},
    ]
    return yaml.safe_dump_all(documents, sort_keys=True, width=120)


def task_name(component: str) -> str:
    """ImportExampleGen is import-example-gen: names of Kubernetes are lower case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", component).lower()


def _check(config: Config) -> None:
    needed = {
        "image": "the image that kubeflow/Dockerfile makes, as the cluster pulls it",
        "volume": "the claim of a volume for the served models and the state of unfinished trainings",
        "data": "where the TFRecords are: a folder on the volume, or gs://, s3:// or minio://",
    }
    for knob, meaning in needed.items():
        if not getattr(config.kubeflow, knob):
            raise UserError(f"kubeflow.{knob} is not set: {meaning}; set it in the --config file or with --set")
    if ":" not in config.kubeflow.image.rpartition("/")[2]:
        raise UserError(
            f"kubeflow.image = {config.kubeflow.image!r} names no version, so that a run could not be repeated; "
            "add a tag (:1.0) or, surer, the digest (@sha256:…)"
        )
    inside = config.kubeflow.data.startswith(config.kubeflow.mount + "/")
    if not inside and not is_address(config.kubeflow.data):
        raise UserError(
            f"kubeflow.data = {config.kubeflow.data!r} is not on the volume; "
            f"give a folder under {config.kubeflow.mount}, or gs://, s3:// or minio://"
        )


def _tasks(component: BaseComponent, config: Config) -> Iterator[Task]:
    """A component's task; before it, where its driver looks at the world outside, the task that runs the driver."""
    name = task_name(component.id)
    properties = {key: _in_image(value) for key, value in component.exec_properties.items() if value is not None}
    given: dict[str, Any] = {key: {"runtimeValue": {"constant": value}} for key, value in properties.items()}
    if place := READS_DATA.get(component.id):
        given[place] = {"componentInputParameter": DATA}
    definitions = {key: {"parameterType": _TYPES[type(value)]} for key, value in properties.items()}
    artifacts = {
        key: _produced(task_name(c.producer_component_id), c.output_key) for key, c in component.inputs.items()
    }
    types = {key: _type(channel.type) for key, channel in component.inputs.items()}
    if component.id == "ImportExampleGen" and is_address(config.kubeflow.data):
        artifacts[DATA], types[DATA] = _produced(IMPORTER, "artifact"), _DATASET
    upstream = {task_name(other.id) for other in component.upstream_nodes}
    arguments = ["--node", Node.of(component).to_json(), "--executor-input", "{{$}}", *_beam(component)]

    if component.id in RESOLVED:
        resolver = f"resolve-{name}"
        yield _container_task(
            resolver,
            config,
            config.kubeflow.pod(EVERY),
            ["--resolve", *arguments],
            {"dependentTasks": sorted(upstream | _producers(artifacts)), "cachingOptions": {}},
            inputs={"parameters": given, "artifacts": artifacts},
            takes={"parameters": definitions, "artifacts": types},
            gives={"parameters": {FOUND: {"parameterType": "STRING"}}},
        )
        upstream.add(resolver)
        found = {"producerTask": resolver, "outputParameterKey": FOUND}
        given = given | {FOUND: {"taskOutputParameter": found}}
        definitions = definitions | {FOUND: {"parameterType": "STRING"}}
    yield _container_task(
        name,
        config,
        config.kubeflow.pod(component.id),
        arguments,
        {"dependentTasks": sorted(upstream | _producers(artifacts)), "cachingOptions": {"enableCache": True}},
        inputs={"parameters": given, "artifacts": artifacts},
        takes={"parameters": definitions, "artifacts": types},
        gives={"artifacts": {key: _type(channel.type) for key, channel in component.outputs.items()}},
    )


def _container_task(
    name: str,
    config: Config,
    pod: Pod,
    arguments: list[str],
    order: dict[str, Any],
    *,
    inputs: dict[str, Any],
    takes: dict[str, Any],
    gives: dict[str, Any],
) -> Task:
    task: dict[str, Any] = {
        "taskInfo": {"name": name},
        "componentRef": {"name": f"comp-{name}"},
        "inputs": inputs,
        **order,
    }
    if pod.retries:
        backoff = {"backoffDuration": f"{_SECONDS_BETWEEN_ATTEMPTS}s", "backoffFactor": 2.0}
        task["retryPolicy"] = {"maxRetryCount": pod.retries, **backoff}
    component = {"executorLabel": f"exec-{name}", "inputDefinitions": takes, "outputDefinitions": gives}
    container = {
        "image": config.kubeflow.image,
        "command": list(COMMAND),
        "args": arguments,
        "env": [{"name": key, "value": value} for key, value in tensorflow_environment(config).items()],
        "resources": _resources(pod),
    }
    platform = _valid(_platform(config, pod), kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    return Task(name, task, component, {"container": container}, platform)


def _importer() -> Task:
    """The task that makes an artifact of a folder in a bucket, which the launcher then downloads."""
    task = {
        "taskInfo": {"name": IMPORTER},
        "componentRef": {"name": f"comp-{IMPORTER}"},
        "cachingOptions": {"enableCache": True},
        "inputs": {"parameters": {"uri": {"componentInputParameter": DATA}}},
    }
    component = {
        "executorLabel": f"exec-{IMPORTER}",
        "inputDefinitions": {"parameters": {"uri": {"parameterType": "STRING"}}},
        "outputDefinitions": {"artifacts": {"artifact": _DATASET}},
    }
    executor = {"importer": {"artifactUri": {"runtimeParameter": "uri"}, "typeSchema": _DATASET["artifactType"]}}
    return Task(IMPORTER, task, component, executor, {})


def _produced(task: str, output: str) -> dict[str, Any]:
    return {"taskOutputArtifact": {"producerTask": task, "outputArtifactKey": output}}


def _producers(artifacts: dict[str, Any]) -> set[str]:
    return {source["taskOutputArtifact"]["producerTask"] for source in artifacts.values()}


def _type(artifact_type: Any) -> dict[str, Any]:
    # What ML Metadata files the artifact under; the classes themselves are named in the arguments.
    return {"artifactType": {"schemaTitle": f"tfx.{artifact_type.TYPE_NAME}", "schemaVersion": "0.0.1"}}


def _beam(component: BaseComponent) -> list[str]:
    spec = component.executor_spec
    arguments = spec.beam_pipeline_args if isinstance(spec, BeamExecutorSpec) else []
    return [_in_image(argument) for argument in arguments]


def _in_image(value: Any) -> Any:
    """What names a file of this checkout names that of the image's working directory; other values stay as they are."""
    return value.replace(f"{REPOSITORY}/", "") if isinstance(value, str) else value


def _resources(pod: Pod) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    if pod.cpu:
        resources["cpuLimit"] = pod.cpu
    if pod.memory:
        resources["memoryLimit"] = pod.memory
    if pod.gpus:
        resources["accelerator"] = {"type": pod.gpu_type, "count": str(pod.gpus)}
    return resources


def _platform(config: Config, pod: Pod) -> dict[str, Any]:
    # The fields that backends of all versions read; newer ones have others beside them for what is only known later.
    platform: dict[str, Any] = {
        "pvcMount": [{"constant": config.kubeflow.volume, "mountPath": config.kubeflow.mount}],
        "secretAsEnv": [
            {"secretName": place.split("/")[0], "keyToEnv": [{"secretKey": place.split("/")[1], "envVar": variable}]}
            for variable, place in sorted(config.kubeflow.secrets.items())
        ],
    }
    if pod.node_selector:
        platform["nodeSelector"] = {"labels": pod.node_selector}
    if pod.tolerations:
        platform["tolerations"] = list(pod.tolerations)
    if pod.timeout:
        platform["activeDeadlineSeconds"] = str(pod.timeout)
    return platform


def _valid(document: dict[str, Any], message: Any) -> dict[str, Any]:
    """The document as its schema writes it.

    Raises:
        UserError: the schema of the installed kfp lacks a field.
    """
    try:
        return json_format.MessageToDict(json_format.ParseDict(document, message))
    except json_format.ParseError as error:
        said = str(error).splitlines()[0]
        raise UserError(f"the installed kfp cannot say this ({said}); compile with Python 3.11 or newer") from None
