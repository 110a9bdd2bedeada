"""Writes the Kubernetes manifests of a training on several hosts, for the JAX runtime of Kubeflow Trainer 2.2 or later.

The pods use the image with JAX and the resources of Trainer; Kubeflow Trainer tells each of them who the others are.
"""

from __future__ import annotations

from typing import Any

import yaml

from im2latex.errors import UserError
from kubeflow import pods
from kubeflow.checks import check_settings
from pipeline.buckets import is_address
from pipeline.config import Config, to_toml
from pipeline.config.sections import Pod

TRAINER = "Trainer"
GROUP = "trainer.kubeflow.org"
VERSION = f"{GROUP}/v1alpha1"
# Kubeflow Trainer starts the training in the container and the replicated job of this name.
NODE = "node"
CONFIGURATION = "/etc/im2latex"
# The name of a pod's host, NAME-train-node-0-NUMBER, may have 63 characters.
_LONGEST_NAME = 63 - len("-train-node-0-9999")


def training_manifests(config: Config, hosts: int, namespace: str | None) -> str:
    """Returns the manifests as YAML: a ConfigMap with the configuration, a TrainingRuntime, and a TrainJob.

    The TrainingRuntime says what a TrainJob cannot say in every version of Kubeflow Trainer: the volumes, the
    permissions, and that all hosts start again if one fails.

    Args:
        config: the configuration; its section `kubeflow` names the image, the volume, the data and Trainer's resources.
        hosts: number of pods that train together.
        namespace: namespace of the objects; None leaves it to kubectl.

    Raises:
        UserError: a knob of the section `kubeflow` is not set or does not fit, or the pipeline's name is too long.
    """
    check_settings(config.kubeflow, "data")
    if is_address(config.kubeflow.data) or not config.kubeflow.data.startswith(f"{config.kubeflow.mount}/"):
        raise UserError(
            f"kubeflow.data = {config.kubeflow.data!r} is not on the volume, where all hosts can read it; "
            f"copy the TFRecords to a folder under {config.kubeflow.mount}, and name that"
        )
    if len(config.name) > _LONGEST_NAME:
        raise UserError(f"name = {config.name!r} is too long for Kubernetes: {_LONGEST_NAME} characters at most")
    name = f"{config.name}-train"
    requested = config.kubeflow.pod(TRAINER)
    documents = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": {"config.toml": to_toml(config)}},
        _runtime(config, name, requested, hosts),
        _job(config, name, requested, hosts),
    ]
    for document in documents:
        document["metadata"] |= {"name": name, "labels": pods.labels(name)}
        document["metadata"] |= {"namespace": namespace} if namespace else {}
    return yaml.safe_dump_all(documents, sort_keys=False, width=120)


def _runtime(config: Config, name: str, requested: Pod, hosts: int) -> dict[str, Any]:
    container = pods.container(config, NODE, read_only=False)
    container["env"] += [{"name": key, "value": value} for key, value in config.kubeflow.environment.items()]
    container["env"] += [pods.from_secret(key, source) for key, source in config.kubeflow.secrets.items()]
    container["volumeMounts"] += [
        {"name": "configuration", "mountPath": CONFIGURATION, "readOnly": True},
        {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
    ]
    pod = pods.pod(config, requested, container, read_only=False) | {"restartPolicy": "Never"}
    pod["volumes"] += [
        {"name": "configuration", "configMap": {"name": name}},
        # The GPUs of a pod exchange gradients here; the usual 64 MB do not suffice.
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
    ]
    job = {
        "metadata": {"labels": {f"{GROUP}/trainjob-ancestor-step": "trainer"}},
        # A pod cannot join the others again by itself: all of them start again.
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": pods.labels(name)}, "spec": pod}},
    }
    return {
        "apiVersion": VERSION,
        "kind": "TrainingRuntime",
        "metadata": {},
        "spec": {
            "mlPolicy": {"numNodes": hosts, "jax": {}},
            "template": {
                "spec": {
                    "failurePolicy": {"maxRestarts": requested.retries},
                    "replicatedJobs": [{"name": NODE, "template": job}],
                }
            },
        },
    }


def _job(config: Config, name: str, requested: Pod, hosts: int) -> dict[str, Any]:
    out = f"{config.kubeflow.mount}/trained/{config.name}"
    trainer: dict[str, Any] = {
        "image": config.kubeflow.image,
        "command": ["python", "-m", "pipeline.standalone"],
        "args": [config.kubeflow.data, "--out", out, "--config", f"{CONFIGURATION}/config.toml"],
        "numNodes": hosts,
    }
    if limits := pods.resources(requested):
        trainer["resourcesPerNode"] = limits
    runtime = {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": name}
    specification: dict[str, Any] = {"runtimeRef": runtime, "trainer": trainer}
    if requested.timeout:
        # For all attempts together.
        specification["activeDeadlineSeconds"] = requested.timeout * (requested.retries + 1)
    return {"apiVersion": VERSION, "kind": "TrainJob", "metadata": {}, "spec": specification}
