from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from components.metadata import Output, values
from data.repository import REPOSITORY
from kubeflow import entrypoint
from kubeflow.addresses import LAUNCHER_ROOT
from kubeflow.entrypoint import NodeSpec
from pipeline.config import load_config
from pipeline.pipeline import create_pipeline
from pipeline.running.notify import COMMAND
from tests.kubeflow.object_store import ObjectStore

PAGE = "components.report.component"


def node(component: str) -> NodeSpec:
    pipeline = create_pipeline(load_config(), data="/data", pipeline_root="/root", serving="/serving")
    return next(NodeSpec.of(built, "im2latex") for built in pipeline.components if built.id == component)


def task_input(folder: Path, parameters: dict[str, Any], **artifacts: dict[str, Any]) -> dict[str, Any]:
    return {
        "inputs": {
            "parameterValues": parameters,
            "artifacts": {key: {"artifacts": [artifact]} for key, artifact in artifacts.items()},
        },
        "outputs": {
            "artifacts": {"schema": {"artifacts": [{"uri": "minio://store/run/schema"}]}},
            "outputFile": str(folder / "out" / "output_metadata.json"),
        },
    }


def test_a_node_describes_its_component() -> None:
    trainer = node("Trainer")
    assert trainer.executor == "tfx.components.trainer.executor.GenericExecutor"
    assert trainer.inputs["transform_graph"] == "tfx.types.standard_artifacts.TransformGraph"
    assert node("Reporter").outputs == {"report": f"{PAGE}.Report"}
    assert node("ServingCheck").whole == ["images"]
    assert NodeSpec(**json.loads(trainer.to_json())) == trainer


def test_artifacts_keep_their_properties_through_the_backend() -> None:
    path = "tfx.types.standard_artifacts.Examples"
    properties = {
        "split_names": '["train"]',
        "span": 3,
        "payload_format": "FORMAT_TF_EXAMPLE",
        "count": 5,
        "seconds": 0.25,
        "listed": ["a", "b"],
        "described": {"a": "b"},
    }
    stored = properties | {
        "span": 3.0,
        "count": 5.0,
        "listed": {"list": ["a", "b"]},
        "described": {"struct": {"a": "b"}},
        "yes": 1.0,
        "display_name": "examples",
        "store_session_info": '{"Provider": "s3"}',
    }
    artifact = entrypoint._artifact(
        path, {"artifacts": [{"name": "17", "uri": "s3://bucket/examples", "metadata": stored}]}
    )
    assert (artifact.id, artifact.uri) == (17, "/s3/bucket/examples")
    assert (artifact.split_names, artifact.span) == ('["train"]', 3)
    assert artifact.get_int_custom_property("count") == 5
    assert artifact.get_float_custom_property("seconds") == 0.25
    assert artifact.get_json_value_custom_property("listed") == ["a", "b"]
    assert artifact.get_json_value_custom_property("described") == {"a": "b"}
    again = entrypoint._metadata(artifact)
    assert {name: again[name] for name in properties} == properties
    assert again["yes"] == 1 and not {"display_name", "store_session_info"} & set(again)


def test_local_paths_of_the_launcher_become_addresses() -> None:
    artifact = entrypoint._artifact(
        "tfx.types.standard_artifacts.ModelBlessing", {"artifacts": [{"uri": "minio://store/run/blessing"}]}
    )
    artifact.set_string_custom_property("current_model", "/minio/store/run/model")
    artifact.set_string_custom_property("pushed_destination", "/mnt/im2latex/serving/im2latex/1")
    metadata = entrypoint._metadata(artifact)
    assert metadata["current_model"] == "minio://store/run/model"
    assert metadata["pushed_destination"] == "/mnt/im2latex/serving/im2latex/1"
    assert "/minio/" not in json.dumps(metadata)
    assert Output("/minio/store/run/blessing", 1, values(artifact.mlmd_artifact.custom_properties)).address == (
        "minio://store/run/blessing"
    )


def test_an_executor_runs_and_its_outputs_are_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCHER_ROOT, str(tmp_path))
    schema = REPOSITORY / "pipeline" / "schema" / "schema.pbtxt"
    task = task_input(tmp_path, {"schema_file": str(schema), "code": "abc"})
    entrypoint.run_executor(node("ImportSchemaGen"), task, [])
    output = pipeline_spec_pb2.ExecutorOutput()
    json_format.Parse(Path(task["outputs"]["outputFile"]).read_text(encoding="utf-8"), output)
    (artifact,) = output.artifacts["schema"].artifacts
    assert artifact.uri == "minio://store/run/schema"
    assert artifact.metadata["tfx_version"]
    assert (tmp_path / "minio/store/run/schema/schema.pbtxt").read_bytes() == schema.read_bytes()


def examples(folder: Path, record: bytes) -> None:
    for split in ("train", "eval", "test"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / "part-0").write_bytes(record)


def resolve(folder: Path, executor_input: dict[str, Any]) -> dict[str, Any]:
    output = folder / "found.json"
    folder.mkdir(parents=True, exist_ok=True)
    executor_input["outputs"] = {"parameters": {"found": {"outputFile": str(output)}}}
    entrypoint.run_driver(node("ImportExampleGen"), executor_input)
    return json.loads(output.read_text(encoding="utf-8"))


def parameters(data: str) -> dict[str, Any]:
    pipeline = create_pipeline(load_config(), data=data, pipeline_root="/root", serving="/serving")
    properties = next(c for c in pipeline.components if c.id == "ImportExampleGen").exec_properties
    return {name: value for name, value in properties.items() if value is not None}


def test_changed_files_are_detected_and_repeated_downloads_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = []
    for pod, record in enumerate((b"one", b"one", b"two")):
        root = tmp_path / str(pod)
        monkeypatch.setenv(LAUNCHER_ROOT, str(root))
        examples(root / "s3" / "bucket" / "data", record)
        data = {"name": "1", "uri": "s3://bucket/data", "metadata": {}}
        outputs.append(resolve(root, task_input(root, parameters("s3://bucket/data"), data=data)))
    assert outputs[0] == outputs[1] != outputs[2]
    assert str(tmp_path) not in json.dumps(outputs)  # a path in the pod would prevent cache hits
    fingerprint = outputs[0]["execProperties"]["input_fingerprint"]["stringValue"]
    assert "split:train,num_files:1,total_bytes:3" in fingerprint
    properties = outputs[0]["outputArtifacts"]["examples"]["artifacts"][0]["customProperties"]
    assert properties["input_fingerprint"]["stringValue"] == fingerprint


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """An object store with a bucket `formulas`, and the environment of a pod that has access to it."""
    with ObjectStore(tmp_path / "buckets", "key-id", "secret") as running:
        examples(tmp_path / "buckets" / "formulas" / "records", b"one")
        (tmp_path / "buckets" / "formulas" / "records-elsewhere").mkdir()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_REGION", "eu-central-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        login = {"type": "authorized_user", "client_id": "id", "client_secret": "id", "refresh_token": "secret"}
        (tmp_path / "google.json").write_text(json.dumps(login | {"token_uri": f"{running.url}/token"}), "utf-8")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "google.json"))
        monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", running.url)
        yield running


@pytest.mark.parametrize("scheme", ["s3", "minio", "gs"])
def test_records_that_were_not_downloaded_are_listed(scheme: str, tmp_path: Path, store: ObjectStore) -> None:
    records = tmp_path / "buckets" / "formulas" / "records"
    address = f"{scheme}://formulas/records"
    outputs = [resolve(tmp_path / str(pod), task_input(tmp_path, parameters(address))) for pod in range(2)]
    (records / "train" / "part-0").write_bytes(b"three")
    outputs.append(resolve(tmp_path / "2", task_input(tmp_path, parameters(address))))
    (records / "eval" / "part-1").write_bytes(b"added")
    outputs.append(resolve(tmp_path / "3", task_input(tmp_path, parameters(address))))
    assert outputs[0] == outputs[1]
    fingerprints = [one["execProperties"]["input_fingerprint"]["stringValue"] for one in outputs]
    assert "split:train,num_files:1,total_bytes:3," in fingerprints[0]
    assert "split:train,num_files:1,total_bytes:5," in fingerprints[2]
    assert "split:eval,num_files:2,total_bytes:8," in fingerprints[3]
    assert set(outputs[0]["execProperties"]) == {"input_fingerprint", "span"}  # no path in the pod
    assert store.read == []


def refused(component: str, task: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a driver that fails; returns the last line of its stderr."""
    task["outputs"] = {"parameters": {"found": {"outputFile": "/nowhere"}}}
    with pytest.raises(SystemExit) as end:
        entrypoint.main(["--resolve", "--node", node(component).to_json(), "--executor-input", json.dumps(task)])
    assert end.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_a_folder_without_records_fails_with_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LAUNCHER_ROOT, str(tmp_path / "pod"))
    downloaded = {"name": "1", "uri": "minio://formulas/record", "metadata": {}}
    for task, address in (
        (task_input(tmp_path, parameters("minio://formulas/record"), data=downloaded), "minio://formulas/record"),
        (task_input(tmp_path, parameters("s3://formulas/record")), "s3://formulas/record"),
        (task_input(tmp_path, parameters("s3://another/records")), "s3://another/records"),
        (task_input(tmp_path, parameters(str(tmp_path / "volume" / "none"))), str(tmp_path / "volume" / "none")),
    ):
        sentence = refused("ImportExampleGen", task, capsys)
        assert sentence.startswith(f"im2latex: ImportExampleGen: there is no file in {address}; kubeflow.data")


def test_a_bucket_that_cannot_be_listed_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    sentence = refused("ImportExampleGen", task_input(tmp_path, parameters("s3://formulas/records")), capsys)
    assert sentence.startswith("im2latex: ImportExampleGen: cannot list s3://formulas/records: ")
    assert "kubeflow.secrets" in sentence


def test_a_user_error_is_one_sentence_and_notifies_the_operator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMMAND, f"sh -c 'cat > {tmp_path / 'reported'}'")
    task = task_input(tmp_path, {"split": "test", "images": 2.0, "max_seconds": 1.0})
    task["inputs"]["artifacts"] = {
        key: {"artifacts": [{"name": "1", "uri": str(tmp_path), "metadata": metadata}]}
        for key, metadata in (("model", {}), ("examples", {"split_names": '["test"]'}))
    }
    task["outputs"]["artifacts"] = {"blessing": {"artifacts": [{"uri": str(tmp_path / "blessing")}]}}
    (tmp_path / "Split-test").mkdir()
    with pytest.raises(SystemExit) as end:
        entrypoint.main(["--node", node("ServingCheck").to_json(), "--executor-input", json.dumps(task)])
    assert end.value.code == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith("im2latex: ServingCheck: the split test has no example")
    reported = json.loads((tmp_path / "reported").read_text())
    assert (reported["source"], reported["outcome"]) == ("ServingCheck", "failed")
    assert f"im2latex: ServingCheck: {reported['text']}" == sentence
