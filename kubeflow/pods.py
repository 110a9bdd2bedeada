"""Parts of the pods in Kubernetes manifests: the volume, the resources, the permissions."""

from __future__ import annotations

from typing import Any

from pipeline.config import Config
from pipeline.config.sections import Pod

USER = 1000  # user id of the image
VOLUME = "models"


def labels(name: str) -> dict[str, str]:
    """Returns the labels of the objects of a service or a training."""
    return {"app.kubernetes.io/name": "im2latex", "app.kubernetes.io/instance": name}


def pod(config: Config, requested: Pod, container: dict[str, Any], *, read_only: bool) -> dict[str, Any]:
    """Returns the specification of a pod with one container.

    Args:
        config: the configuration; its section `kubeflow` names the volume.
        requested: the component's settings, of which the node selector and the tolerations count here.
        container: the container.
        read_only: whether the volume is mounted read-only.
    """
    claim = {"claimName": config.kubeflow.volume, "readOnly": read_only}
    specification: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": VOLUME, "persistentVolumeClaim": claim},
            {"name": "temporary", "emptyDir": {}},
        ],
    }
    if requested.node_selector:
        specification["nodeSelector"] = requested.node_selector
    if requested.tolerations:
        specification["tolerations"] = list(requested.tolerations)
    return specification


def container(config: Config, name: str, *, read_only: bool) -> dict[str, Any]:
    """Returns a container with the volume, a folder for temporary files, and minimal permissions."""
    return {
        "name": name,
        "image": config.kubeflow.image,
        "env": [{"name": "IM2LATEX_HOME", "value": config.kubeflow.mount}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": VOLUME, "mountPath": config.kubeflow.mount, "readOnly": read_only},
            {"name": "temporary", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def resources(requested: Pod) -> dict[str, Any]:
    """Returns the limits of a container; the requests are the same."""
    limits = {"cpu": f"{requested.cpu:g}"} if requested.cpu else {}
    limits |= {"memory": f"{requested.memory:g}G"} if requested.memory else {}
    limits |= {requested.gpu_type: str(requested.gpus)} if requested.gpus else {}
    return {"limits": limits} if limits else {}


def from_secret(variable: str, source: str) -> dict[str, Any]:
    """Returns an environment variable that has its value from `source`, secret/key."""
    secret, key = source.split("/")
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
