"""Writes the Kubernetes manifests that serve the pushed models: `im2latex serve` on the volume with the serving folder.

The pods use the image and the resources of ServingCheck, which has tested each pushed model with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from im2latex.errors import UserError
from kubeflow import pods
from kubeflow.checks import check_settings
from pipeline.config import Config
from pipeline.lineage.address import PASSWORD

PORT = 8501
CHECK = "ServingCheck"
# The name of a CronJob may have 52 characters.
_LONGEST_NAME = 52 - len("-rollback")
# Before a pod stops, it waits until no node sends it requests any more. Requests in progress may take half a minute.
_SECONDS_TO_BE_FORGOTTEN, _SECONDS_TO_END = 5, 45


def serving_manifests(config: Config, replicas: int, namespace: str | None, names: Iterable[str]) -> str:
    """Returns the manifests as YAML: Deployment, Service, PodDisruptionBudget, and a suspended CronJob for rollbacks.

    Args:
        config: the configuration; its section `kubeflow` names the image, the volume and ServingCheck's resources.
        replicas: number of pods that serve.
        namespace: namespace of the objects; None leaves it to kubectl.
        names: more host names of the service, such as that of an ingress.

    Raises:
        UserError: a knob of the section `kubeflow` is not set, or the pipeline's name is too long.
    """
    check_settings(config.kubeflow)
    if len(config.name) > _LONGEST_NAME:
        raise UserError(f"name = {config.name!r} is too long for Kubernetes: {_LONGEST_NAME} characters at most")
    name = f"{config.name}-serve"
    hosts = [name, *(f"{name}.{namespace}{domain}" for domain in ("", ".svc", ".svc.cluster.local") if namespace)]
    documents = [
        _deployment(config, name, replicas, [*hosts, *names]),
        _service(name),
        _disruption_budget(name),
        _rollback(config),
    ]
    for document in documents:
        document["metadata"] |= {"labels": pods.labels(name)} | ({"namespace": namespace} if namespace else {})
    return yaml.safe_dump_all(documents, sort_keys=False, width=120)


def _deployment(config: Config, name: str, replicas: int, names: Iterable[str]) -> dict[str, Any]:
    arguments = ["serve", "--host", "0.0.0.0", "--port", str(PORT), "--log-format", "json"]  # noqa: S104
    arguments += ["--drain-delay", str(_SECONDS_TO_BE_FORGOTTEN)]
    arguments += [part for host in names for part in ("--allow-host", host)]
    container = _container(config, "serve", arguments, read_only=True) | {
        "ports": [{"name": "http", "containerPort": PORT}],
        # Loading a model takes seconds; on a busy node it takes a minute.
        "startupProbe": _probe("/readyz", period=2, failures=150),
        "readinessProbe": _probe("/readyz", period=5, failures=2),
        "livenessProbe": _probe("/healthz", period=10, failures=6),
    }
    pod = _pod(config, container, read_only=True)
    # Spread replicas over nodes, if possible.
    pod["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": pods.labels(name)},
        }
    ]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": pods.labels(name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": pods.labels(name)}, "spec": pod},
        },
    }


def _service(name: str) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    spec = {"selector": pods.labels(name), "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _disruption_budget(name: str) -> dict[str, Any]:
    # Not minAvailable: with one replica, a minimum of one would block every drain of its node.
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": pods.labels(name)}}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec}


def _rollback(config: Config) -> dict[str, Any]:
    """Returns the CronJob for rollbacks; `kubectl create job --from=cronjob/NAME-rollback` starts one."""
    database = ["--connection", config.metadata.connection] if config.metadata.connection else []
    container = _container(config, "rollback", ["rollback", "--name", config.name, *database], read_only=False)
    if database and (source := config.kubeflow.secrets.get(PASSWORD)):
        container["env"] += [pods.from_secret(PASSWORD, source)]
    pod = _pod(config, container, read_only=False) | {"restartPolicy": "Never"}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": f"{config.name}-rollback"},
        "spec": {
            "suspend": True,
            "schedule": "0 0 1 1 *",
            "jobTemplate": {"spec": {"backoffLimit": 0, "template": {"spec": pod}}},
        },
    }


def _pod(config: Config, container: dict[str, Any], *, read_only: bool) -> dict[str, Any]:
    specification = pods.pod(config, config.kubeflow.pod(CHECK), container, read_only=read_only)
    return specification | {"terminationGracePeriodSeconds": _SECONDS_TO_END}


def _container(config: Config, name: str, arguments: list[str], *, read_only: bool) -> dict[str, Any]:
    resources = pods.resources(config.kubeflow.pod(CHECK))
    return pods.container(config, name, read_only=read_only) | {"args": arguments, "resources": resources}


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    address = {"path": path, "port": "http"}
    return {"httpGet": address, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}
