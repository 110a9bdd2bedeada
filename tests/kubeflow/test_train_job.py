"""Checks the manifests of a training on several hosts against the schemas of Kubeflow Trainer and Kubernetes."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from im2latex.errors import UserError
from kubeflow.train_job import training_manifests
from pipeline import cli
from pipeline.config import load_config
from pipeline.standalone.command import _parser
from pipeline.standalone.hosts import Hosts, chosen_hosts
from tests.kubeflow.test_manifests import check
from tests.kubeflow.test_runner import CLUSTER

SCHEMA = json.loads((Path(__file__).parent / "trainer-2.3.0.json").read_text())
SETTINGS = (*CLUSTER[:2], "kubeflow.data=/mnt/im2latex/records")
EVERYTHING = (
    "kubeflow.pods={all = {retries = 2}, Trainer = {cpu = 8, memory = 32, gpus = 4, timeout = 3600, "
    "node_selector = {pool = 'gpu'}, tolerations = [{key = 'gpu', operator = 'Exists'}]}}",
    "kubeflow.secrets={HF_TOKEN = 'hub/token'}",
    "kubeflow.environment={NCCL_DEBUG = 'INFO'}",
    "training.batch_size=64",
)


def kubernetes(_: Any, kind: str, value: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    """The keyword x-kubernetes of the schema: the value has a type of Kubernetes' API."""
    try:
        check(value, kind, kind)
    except (AssertionError, ValueError) as error:
        yield jsonschema.ValidationError(str(error))


def validate(document: dict[str, Any]) -> None:
    validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"x-kubernetes": kubernetes})
    validator({**SCHEMA, "$ref": f"#/$defs/{document['kind']}"}).validate(document)


def manifests(*settings: str, hosts: int = 2, namespace: str | None = "formulas") -> dict[str, dict[str, Any]]:
    text = training_manifests(load_config(settings=[*SETTINGS, *settings]), hosts, namespace)
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.mark.parametrize("settings", [(), EVERYTHING])
@pytest.mark.parametrize("namespace", [None, "formulas"])
def test_kubeflow_trainer_and_kubernetes_know_every_field(settings: tuple[str, ...], namespace: str | None) -> None:
    documents = manifests(*settings, namespace=namespace)
    assert list(documents) == ["ConfigMap", "TrainingRuntime", "TrainJob"]
    check(documents["ConfigMap"], "V1ConfigMap", "ConfigMap")
    for kind in ("TrainingRuntime", "TrainJob"):
        assert documents[kind]["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
        validate(documents[kind])
    for document in documents.values():
        # The rule of the TrainJob's own schema, which is not in the models.
        assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
        assert document["metadata"].get("namespace") == namespace


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("TrainJob", "spec.trainer.numNodes", "2"),
        ("TrainJob", "spec.trainer.nodes", 2),
        ("TrainJob", "spec.runtimeRef", {}),
        ("TrainingRuntime", "spec.mlPolicy.jax", None),
        ("TrainingRuntime", "spec.template.spec.replicatedJobs.0.template.spec.backoff", 1),
    ],
)
def test_the_validation_of_these_tests_is_strict(kind: str, path: str, value: Any) -> None:
    document = copy.deepcopy(manifests()[kind])
    *parents, last = path.split(".")
    inner: Any = document
    for part in parents:
        inner = inner[int(part) if part.isdigit() else part]
    inner[last] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(document)


def parts(documents: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Returns the job template, its pod, and the container."""
    (job,) = documents["TrainingRuntime"]["spec"]["template"]["spec"]["replicatedJobs"]
    # The names that Kubeflow Trainer uses to find the parts that it changes.
    assert job["name"] == "node"
    assert job["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "node"
    return job["template"], pod, container


def test_the_command_trains_with_the_configuration_of_this_machine(tmp_path: Path) -> None:
    settings = (*EVERYTHING, "model.filters=[4,4,8,8,16,16]", "data.spelling=im2markup")
    documents = manifests(*settings)
    _, pod, container = parts(documents)
    trainer = documents["TrainJob"]["spec"]["trainer"]
    assert trainer["command"] == ["python", "-m", "pipeline.standalone"]
    arguments = _parser().parse_args(trainer["args"])
    assert (str(arguments.data), str(arguments.out)) == ("/mnt/im2latex/records", "/mnt/im2latex/trained/im2latex")
    # The file in the pod is the key of the ConfigMap.
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounts) == set(volumes)
    assert volumes["configuration"]["configMap"]["name"] == documents["ConfigMap"]["metadata"]["name"]
    file = tmp_path / arguments.config.name
    assert str(arguments.config.parent) == mounts["configuration"]
    file.write_text(documents["ConfigMap"]["data"][file.name])
    assert load_config(path=file) == load_config(settings=[*SETTINGS, *settings])


def test_all_hosts_start_again_together_if_one_fails() -> None:
    documents = manifests(*EVERYTHING, hosts=3)
    template, pod, _ = parts(documents)
    assert template["spec"]["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    assert documents["TrainingRuntime"]["spec"]["template"]["spec"]["failurePolicy"] == {"maxRestarts": 2}
    assert documents["TrainingRuntime"]["spec"]["mlPolicy"] == {"numNodes": 3, "jax": {}}
    assert documents["TrainJob"]["spec"]["trainer"]["numNodes"] == 3
    assert documents["TrainJob"]["spec"]["activeDeadlineSeconds"] == 3 * 3600
    reference = documents["TrainJob"]["spec"]["runtimeRef"]
    assert (reference["kind"], reference["name"]) == ("TrainingRuntime", "im2latex-train")
    assert documents["TrainingRuntime"]["metadata"]["name"] == "im2latex-train"


def test_pods_have_the_resources_of_the_trainer_and_minimal_permissions() -> None:
    documents = manifests(*EVERYTHING)
    _, pod, container = parts(documents)
    limits = {"cpu": "8", "memory": "32G", "nvidia.com/gpu": "4"}
    assert documents["TrainJob"]["spec"]["trainer"]["resourcesPerNode"] == {"limits": limits}
    assert pod["nodeSelector"] == {"pool": "gpu"} and pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert {"name": "NCCL_DEBUG", "value": "INFO"} in container["env"]
    token = {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert {"name": "HF_TOKEN", "valueFrom": token} in container["env"]


def test_the_command_reads_the_variables_of_kubeflow_trainer() -> None:
    arguments = _parser().parse_args(manifests()["TrainJob"]["spec"]["trainer"]["args"])
    # As its plugin for JAX sets them in the pod with the completion index 1.
    address = "im2latex-train-node-0-0.im2latex-train:6666"
    variables = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1", "JAX_COORDINATOR_ADDRESS": address}
    assert chosen_hosts(arguments, variables) == Hosts(2, 1, address)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (SETTINGS[1:], "kubeflow.image is not set"),
        (SETTINGS[:2], "kubeflow.data is not set"),
        (CLUSTER, "kubeflow.data = 's3://bucket/data' is not on the volume"),
        ((*SETTINGS[:2], "kubeflow.data=/records"), "'/records' is not on the volume"),
        ((*SETTINGS, f"name={46 * 'a'}"), "is too long for Kubernetes: 45 characters at most"),
    ],
)
def test_a_wrong_knob_is_one_sentence(settings: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        training_manifests(load_config(settings=settings), 2, None)


def test_the_command_writes_the_manifests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "train.yaml"
    options = [part for setting in SETTINGS for part in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["im2latex", "kubeflow", "train", "--out", str(file), "--hosts", "4", *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert capsys.readouterr().out.startswith(f"{file}: im2latex-train, 4 hosts, image registry.example.org/im2latex@")
    assert [document["kind"] for document in yaml.safe_load_all(file.read_text())][-1] == "TrainJob"
