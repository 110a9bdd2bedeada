"""Checks the manifests of the service against the models in Kubernetes' generated client."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from im2latex.errors import UserError
from kubeflow.manifests import serving_manifests
from kubeflow.runner import compile_pipeline
from pipeline import cli
from pipeline.config import load_config
from tests.kubeflow.test_runner import CLUSTER

MODELS = {
    "Deployment": "V1Deployment",
    "Service": "V1Service",
    "PodDisruptionBudget": "V1PodDisruptionBudget",
    "CronJob": "V1CronJob",
}


def check(value: Any, kind: str, path: str) -> None:
    """Checks a JSON value against a type of Kubernetes' API: no field is unknown, missing, or of another type.

    Raises:
        ValueError: it does not fit; the message says where.
    """
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        assert isinstance(value, list), path
        for number, entry in enumerate(value):
            check(entry, match[1], f"{path}[{number}]")
    elif match := re.fullmatch(r"dict\(str, (.*)\)", kind):
        assert isinstance(value, dict), path
        for name, entry in value.items():
            check(entry, match[1], f"{path}.{name}")
    elif kind in ("str", "int", "bool"):
        if type(value) is not {"str": str, "int": int, "bool": bool}[kind]:
            raise ValueError(f"{path} = {value!r} is no {kind}")
    elif kind == "object":  # a number or a name, as ports are
        assert isinstance(value, int | str), path
    else:
        model = getattr(client, kind)
        fields = {model.attribute_map[name]: (name, kind) for name, kind in model.openapi_types.items()}
        if unknown := set(value) - set(fields):
            raise ValueError(f"{path} has no {', '.join(sorted(unknown))}")
        for name, entry in value.items():
            check(entry, fields[name][1], f"{path}.{name}")
        model(**{fields[name][0]: entry for name, entry in value.items()})  # refuses missing fields


def manifests(
    *settings: str, replicas: int = 2, namespace: str | None = "formulas", names: tuple[str, ...] = ()
) -> dict:
    text = serving_manifests(load_config(settings=[*CLUSTER, *settings]), replicas, namespace, names)
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


EVERYTHING = (
    "kubeflow.pods={ServingCheck = {cpu = 1.5, memory = 4, gpus = 1, node_selector = {pool = 'gpu'}, "
    "tolerations = [{key = 'gpu', operator = 'Exists'}]}}",
    "kubeflow.secrets={IM2LATEX_METADATA_PASSWORD = 'database/password', AWS_SECRET_ACCESS_KEY = 'store/key'}",
    "metadata.connection=mysql://runs@database.formulas/runs",
)


@pytest.mark.parametrize("settings", [(), EVERYTHING])
@pytest.mark.parametrize("namespace", [None, "formulas"])
def test_every_field_is_valid_in_kubernetes(settings: tuple[str, ...], namespace: str | None) -> None:
    documents = manifests(*settings, namespace=namespace)
    assert set(documents) == set(MODELS)
    for kind, document in documents.items():
        check(document, MODELS[kind], kind)


@pytest.mark.parametrize(
    ("kind", "document"),
    [("Service", {"spec": {"port": []}}), ("Deployment", {"spec": {}}), ("CronJob", {"spec": {"suspend": "yes"}})],
)
def test_the_check_of_these_tests_is_strict(kind: str, document: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        check(document, MODELS[kind], kind)


def containers(documents: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Returns the pods of the service and of the rollback, each with its container."""
    pods = [
        documents["Deployment"]["spec"]["template"]["spec"],
        documents["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"],
    ]
    return [(pod, pod["containers"][0]) for pod in pods]


def test_serving_uses_the_image_of_the_serving_check() -> None:
    pipeline = next(yaml.safe_load_all(compile_pipeline(load_config(settings=CLUSTER))))
    checked = pipeline["deploymentSpec"]["executors"]["exec-serving-check"]["container"]["image"]
    assert {container["image"] for _, container in containers(manifests())} == {checked}


def test_pods_have_minimal_permissions() -> None:
    for pod, container in containers(manifests(*EVERYTHING)):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    (serving, container), (rollback, tool) = containers(manifests(*EVERYTHING))
    assert [volume["mountPath"] for volume in container["volumeMounts"]] == ["/mnt/im2latex", "/tmp"]
    assert container["volumeMounts"][0]["readOnly"] and not tool["volumeMounts"][0]["readOnly"]
    assert serving["volumes"][0]["persistentVolumeClaim"]["claimName"] == "models"
    assert "store" not in str(serving) + str(rollback) and "password" not in str(serving)


def test_the_service_selects_its_pods_and_accepts_its_names() -> None:
    documents = manifests(names=("formulas.example.org",))
    template = documents["Deployment"]["spec"]["template"]
    arguments = template["spec"]["containers"][0]["args"]
    # On SIGTERM it reports that it is not ready, and continues until it gets no more requests.
    assert arguments[arguments.index("--drain-delay") + 1] == "5" and arguments[0] == "serve"
    allowed = [value for option, value in zip(arguments, arguments[1:], strict=False) if option == "--allow-host"]
    inside = "im2latex-serve.formulas"
    assert allowed == ["im2latex-serve", inside, f"{inside}.svc", f"{inside}.svc.cluster.local", "formulas.example.org"]
    for selector in (
        documents["Service"]["spec"]["selector"],
        documents["Deployment"]["spec"]["selector"]["matchLabels"],
        documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= template["metadata"]["labels"].items()
    assert documents["Service"]["spec"]["ports"][0]["targetPort"] == "http"
    assert template["spec"]["containers"][0]["ports"] == [{"name": "http", "containerPort": 8501}]


def test_a_replica_has_the_resources_of_the_serving_check() -> None:
    (pod, container), _ = containers(manifests(*EVERYTHING))
    assert container["resources"] == {"limits": {"cpu": "1.5", "memory": "4G", "nvidia.com/gpu": "1"}}
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]


def test_a_rollback_is_recorded_in_the_database_of_the_runs() -> None:
    documents = manifests(*EVERYTHING)
    _, (_, container) = containers(documents)
    assert container["args"] == [
        "rollback", "--name", "im2latex", "--connection", "mysql://runs@database.formulas/runs",
    ]  # fmt: skip
    password = {"secretKeyRef": {"name": "database", "key": "password"}}
    assert {"name": "IM2LATEX_METADATA_PASSWORD", "valueFrom": password} in container["env"]
    assert documents["CronJob"]["spec"]["suspend"] is True


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (CLUSTER[1:], "kubeflow.image is not set"),
        (CLUSTER[:1], "kubeflow.volume is not set"),
        ((*CLUSTER, f"name={44 * 'a'}"), "is too long for Kubernetes: 43 characters at most"),
    ],
)
def test_a_missing_knob_is_one_sentence(settings: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        serving_manifests(load_config(settings=settings), 1, None, ())


def test_the_command_writes_the_manifests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "serve.yaml"
    options = [part for setting in CLUSTER[:2] for part in ("--set", setting)]
    monkeypatch.setattr(
        sys,
        "argv",
        ["im2latex", "kubeflow", "serve", "--out", str(file), "--replicas", "3", "--namespace", "ns", *options],
    )
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert capsys.readouterr().out.startswith(
        f"{file}: im2latex-serve, 3 replicas, image registry.example.org/im2latex@"
    )
    documents = list(yaml.safe_load_all(file.read_text()))
    assert documents[0]["spec"]["replicas"] == 3 and documents[0]["metadata"]["namespace"] == "ns"
