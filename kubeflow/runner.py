"""Compiles the pipeline for Kubeflow Pipelines 2: to a PipelineSpec of schema 2.1.0 and a platform spec.

TFX's own compiler is for Vertex AI. The open-source backend does not run the resolvers and driver hooks that it
compiles, and does not pass the types of artifacts to containers. So every container of this pipeline runs
`kubeflow.entrypoint`, with a description of its component (`NodeSpec`) in the arguments.

Caching: the backend's cache key consists of the image, the arguments, the parameters and the ids of the input
artifacts. Three components also depend on external state (the records, the model that serves), which is not in the key.
TFX's local runner has drivers for that, which run before the cache lookup. Here each of the three has a task before it,
`resolve-…`, which is never cached. It runs the driver and passes the output on as a parameter. So the external state is
part of the key, and the component runs again only if that state changed.

Lineage: with metadata.connection, each container records its task there; see `kubeflow.recording`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.executor_spec import BeamExecutorSpec
from tfx.version import __version__ as tfx_version

from data.repository import REPOSITORY
from im2latex.errors import UserError
from kubeflow.checks import check_metadata, check_records, check_settings, lists_records
from kubeflow.entrypoint import DATA, FOUND, INPUT_BASE, RUN, NodeSpec, path_of
from pipeline.buckets import is_address
from pipeline.config import Config, tensorflow_environment
from pipeline.config.sections import EVERY, KubeflowConfig, Pod
from pipeline.pipeline import create_pipeline
from pipeline.running.record import code, knobs_of

SCHEMA_VERSION = "2.1.0"
COMMAND = ("python", "-m", "kubeflow.entrypoint")
# Components whose drivers read external state. The Reporter is not one of them, although its driver reads ML Metadata.
RESOLVED = ("ImportExampleGen", "Baseline", "Pusher")
# The pod label with the id of the run, which the backend sets.
RUN_LABEL = "metadata.labels['pipeline/runid']"
# The execution properties that take the value of the run's parameter `data`.
READS_DATA = {"ImportExampleGen": INPUT_BASE, "Reporter": "data"}
IMPORTER = "import-data"
RECORD = "record-lineage"
_DATASET = {"artifactType": {"schemaTitle": "system.Dataset", "schemaVersion": "0.0.1"}}
_PAUSE = 30  # seconds before the second attempt; doubles before each further attempt
_WAIT = 3600  # seconds that an attempt may wait for a node and the image
_DAYS = 30  # time limit for all attempts of a task without a timeout
_TYPES = {str: "STRING", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE"}


class TaskSpec(NamedTuple):
    """A task with its component, executor and platform settings, as JSON of PipelineSpec and PlatformSpec."""

    name: str
    task: dict[str, Any]
    component: dict[str, Any]
    executor: dict[str, Any]
    platform: dict[str, Any]


def compile_pipeline(config: Config) -> str:
    """Compiles the pipeline to YAML with two documents: a PipelineSpec and, for Kubernetes settings, a PlatformSpec.

    The pipeline has one parameter, `data`: the folder of the TFRecords.

    Raises:
        UserError: a knob of the section `kubeflow` is not set, or the installed kfp does not support one.
    """
    check_settings(config.kubeflow, "data")
    check_records(config.kubeflow, config.kubeflow.data)
    check_metadata(config)
    settings = config.kubeflow
    pipeline = create_pipeline(
        config,
        data=settings.data,
        pipeline_root="",
        serving=f"{settings.mount}/serving/{config.name}",
        checkpoints=f"{settings.mount}/checkpoints",
    )
    tasks = [_importer()] if is_address(settings.data) else []
    leaves = _leaves(pipeline.components) if config.metadata.connection else {}
    for component in pipeline.components:
        tasks += _tasks(component, config)
    if leaves:
        tasks.append(_record_lineage(config, leaves))
    root = {"defaultPipelineRoot": settings.pipeline_root} if settings.pipeline_root else {}
    spec = {
        "pipelineInfo": {"name": config.name, "description": "Images of formulas to LaTeX"},
        "schemaVersion": SCHEMA_VERSION,
        **root,
        "sdkVersion": f"tfx-{tfx_version}",
        "root": {
            "inputDefinitions": {
                "parameters": {DATA: {"parameterType": "STRING", "defaultValue": settings.data, "isOptional": True}}
            },
            "dag": {"tasks": {task.name: task.task for task in tasks}},
        },
        "components": {f"comp-{task.name}": task.component for task in tasks},
        "deploymentSpec": {"executors": {f"exec-{task.name}": task.executor for task in tasks}},
    }
    platform = {f"exec-{task.name}": task.platform for task in tasks if task.platform}
    kubernetes = {"deploymentSpec": {"executors": platform}} | _whole_run(settings)
    documents = [
        _valid(spec, pipeline_spec_pb2.PipelineSpec()),
        {"platforms": {"kubernetes": kubernetes}},
    ]
    return yaml.safe_dump_all(documents, sort_keys=True, width=120)


def task_name(component: str) -> str:
    """Converts a component's name to a task's: ImportExampleGen to import-example-gen, since tasks are lower case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", component).lower()


def _leaves(components: Iterable[BaseComponent]) -> dict[str, tuple[str, Any]]:
    """Returns the outputs of components that no other component reads, by name, with their tasks and channels."""
    producers = {channel.producer_component_id for component in components for channel in component.inputs.values()}
    return {
        key: (task_name(component.id), channel)
        for component in components
        if component.id not in producers
        for key, channel in component.outputs.items()
    }


def _tasks(component: BaseComponent, config: Config) -> Iterator[TaskSpec]:
    """Yields a component's task and, before it, the task of its driver, if the driver reads external state."""
    name = task_name(component.id)
    properties = {key: _in_image(value) for key, value in component.exec_properties.items() if value is not None}
    parameter_values: dict[str, Any] = {key: {"runtimeValue": {"constant": value}} for key, value in properties.items()}
    if parameter := READS_DATA.get(component.id):
        parameter_values[parameter] = {"componentInputParameter": DATA}
    definitions = {key: {"parameterType": _TYPES[type(value)]} for key, value in properties.items()}
    artifacts = {
        key: _produced(task_name(c.producer_component_id), c.output_key) for key, c in component.inputs.items()
    }
    types = {key: _type(channel.type) for key, channel in component.inputs.items()}
    if component.id == "ImportExampleGen" and is_address(config.kubeflow.data):
        artifacts[DATA], types[DATA] = _produced(IMPORTER, "artifact"), _DATASET
    upstream = {task_name(other.id) for other in component.upstream_nodes}
    node = NodeSpec.of(component, config.name)
    arguments = ["--node", node.to_json(), "--executor-input", "{{$}}", *_metadata(config), *_beam(component)]

    if component.id in RESOLVED:
        resolver = f"resolve-{name}"
        driver_artifacts = {
            key: source for key, source in artifacts.items() if key != DATA or not lists_records(config.kubeflow)
        }
        yield _container_task(
            resolver,
            config,
            config.kubeflow.pod(EVERY),
            ["--resolve", *arguments, *_run(component, config)],
            {"dependentTasks": sorted(upstream | _producers(driver_artifacts)), "cachingOptions": {}},
            inputs={"parameters": parameter_values, "artifacts": driver_artifacts},
            takes={"parameters": definitions, "artifacts": {key: types[key] for key in driver_artifacts}},
            gives={"parameters": {FOUND: {"parameterType": "STRING"}}},
        )
        upstream.add(resolver)
        driver_output = {"producerTask": resolver, "outputParameterKey": FOUND}
        parameter_values = parameter_values | {FOUND: {"taskOutputParameter": driver_output}}
        definitions = definitions | {FOUND: {"parameterType": "STRING"}}
    yield _container_task(
        name,
        config,
        config.kubeflow.pod(component.id),
        arguments,
        {"dependentTasks": sorted(upstream | _producers(artifacts)), "cachingOptions": {"enableCache": True}},
        inputs={"parameters": parameter_values, "artifacts": artifacts},
        takes={"parameters": definitions, "artifacts": types},
        gives={"artifacts": {key: _type(channel.type) for key, channel in component.outputs.items()}},
    )


def _record_lineage(config: Config, leaves: dict[str, tuple[str, Any]]) -> TaskSpec:
    """Returns the task that records cached tasks; its inputs are the small outputs that no other task uses."""
    node = NodeSpec(RECORD, {key: path_of(channel.type) for key, (_, channel) in leaves.items()}, config.name)
    artifacts = {key: _produced(task, key) for key, (task, _) in leaves.items()}
    return _container_task(
        RECORD,
        config,
        config.kubeflow.pod(EVERY),
        ["--record-lineage", "--node", node.to_json(), "--executor-input", "{{$}}", *_metadata(config)],
        {"dependentTasks": sorted(_producers(artifacts)), "cachingOptions": {}},
        inputs={"artifacts": artifacts},
        takes={"artifacts": {key: _type(channel.type) for key, (_, channel) in leaves.items()}},
        gives={},
    )


def _metadata(config: Config) -> list[str]:
    return ["--metadata", config.metadata.connection] if config.metadata.connection else []


def _run(component: BaseComponent, config: Config) -> list[str]:
    """Returns the arguments with the run's configuration and code, for the first task that runs in every run."""
    if not config.metadata.connection or component.id != "ImportExampleGen":
        return []
    return ["--run", json.dumps({"knobs": knobs_of(config), "code": code()}, sort_keys=True)]


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
) -> TaskSpec:
    task: dict[str, Any] = {
        "taskInfo": {"name": name},
        "componentRef": {"name": f"comp-{name}"},
        "inputs": inputs,
        **order,
    }
    if pod.retries:
        task["retryPolicy"] = _retry_policy(pod)
    component = {"executorLabel": f"exec-{name}", "inputDefinitions": takes, "outputDefinitions": gives}
    environment = tensorflow_environment(config) | config.kubeflow.environment
    container = {
        "image": config.kubeflow.image,
        "command": list(COMMAND),
        "args": arguments,
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "resources": _resources(pod),
    }
    platform = _valid(_platform(config, pod), kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    return TaskSpec(name, task, component, {"container": container}, platform)


def _retry_policy(pod: Pod) -> dict[str, Any]:
    """Returns a task's retry policy, with a time limit for all attempts: without one, the backend never retries."""
    pauses = sum(_PAUSE * 2**attempt for attempt in range(pod.retries))
    longest = (pod.retries + 1) * (pod.timeout + _WAIT) + pauses if pod.timeout else _DAYS * 24 * 3600
    return {
        "maxRetryCount": pod.retries,
        "backoffDuration": f"{_PAUSE}s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": f"{longest}s",
    }


def _importer() -> TaskSpec:
    """Returns the task that imports a folder in a bucket as an artifact, so that the launcher downloads it."""
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
    return TaskSpec(IMPORTER, task, component, executor, {})


def _produced(task: str, output: str) -> dict[str, Any]:
    return {"taskOutputArtifact": {"producerTask": task, "outputArtifactKey": output}}


def _producers(artifacts: dict[str, Any]) -> set[str]:
    return {source["taskOutputArtifact"]["producerTask"] for source in artifacts.values()}


def _type(artifact_type: Any) -> dict[str, Any]:
    # The type's name in ML Metadata; the containers get the classes through their arguments.
    return {"artifactType": {"schemaTitle": f"tfx.{artifact_type.TYPE_NAME}", "schemaVersion": "0.0.1"}}


def _beam(component: BaseComponent) -> list[str]:
    spec = component.executor_spec
    arguments = spec.beam_pipeline_args if isinstance(spec, BeamExecutorSpec) else []
    return [_in_image(argument) for argument in arguments]


def _in_image(value: Any) -> Any:
    """Makes paths in this checkout relative to the image's working directory; returns other values unchanged."""
    # Not within another path: a checkout at /im2latex is no part of /mnt/im2latex.
    return re.sub(rf"(?<![\w./-]){re.escape(str(REPOSITORY))}/", "", value) if isinstance(value, str) else value


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
    # Only fields that all versions of the backend read; newer versions have others, for values known at run time.
    platform: dict[str, Any] = {
        "pvcMount": [{"constant": config.kubeflow.volume, "mountPath": config.kubeflow.mount}],
        "secretAsEnv": [
            {"secretName": secret.split("/")[0], "keyToEnv": [{"secretKey": secret.split("/")[1], "envVar": variable}]}
            for variable, secret in sorted(config.kubeflow.secrets.items())
        ],
    }
    if pod.node_selector:
        platform["nodeSelector"] = {"labels": pod.node_selector}
    if pod.tolerations:
        platform["tolerations"] = list(pod.tolerations)
    if pod.timeout:
        platform["activeDeadlineSeconds"] = str(pod.timeout)
    if config.metadata.connection:
        platform["fieldPathAsEnv"] = [{"name": RUN, "fieldPath": RUN_LABEL}]
    return platform


def _whole_run(config: KubeflowConfig) -> dict[str, Any]:
    """Returns the settings that apply to a whole run."""
    settings = {"activeDeadlineSeconds": config.timeout, "resourceTtlOnCompletion": config.keep}
    settings = {field: seconds for field, seconds in settings.items() if seconds}
    if not settings:
        return {}
    return _valid({"pipelineConfig": settings}, pipeline_spec_pb2.SinglePlatformSpec(), python="3.12")


def _valid(document: dict[str, Any], message: Any, python: str = "3.11") -> dict[str, Any]:
    """Validates a document against its schema, and returns it in the schema's normal form.

    Raises:
        UserError: the schema of the installed kfp lacks a field; the kfp for Python `python` has it.
    """
    try:
        return json_format.MessageToDict(json_format.ParseDict(document, message))
    except json_format.ParseError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the installed kfp does not support this setting ({reason}); compile with Python {python} or newer"
        ) from None
