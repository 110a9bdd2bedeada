from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from data.repository import REPOSITORY
from kubeflow import entrypoint
from kubeflow.entrypoint import LAUNCHER_ROOT, Node, is_address, local_path
from pipeline.config import load_config
from pipeline.pipeline import create_pipeline

PAGE = "components.report.component"


def node(component: str) -> Node:
    pipeline = create_pipeline(load_config(), data="/data", pipeline_root="/root", serving="/serving")
    return next(Node.of(built) for built in pipeline.components if built.id == component)


def given(folder: Path, parameters: dict[str, Any], **artifacts: dict[str, Any]) -> dict[str, Any]:
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


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("gs://bucket/a/b", "gcs/bucket/a/b"),
        ("s3://bucket/a", "s3/bucket/a"),
        ("minio://bucket/a", "minio/bucket/a"),
    ],
)
def test_an_address_is_where_the_launcher_keeps_it(
    address: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_address(address)
    assert local_path(address) == f"/{path}"
    monkeypatch.setenv(LAUNCHER_ROOT, str(tmp_path))
    assert local_path(address) == str(tmp_path / path)


def test_a_path_stays_a_path() -> None:
    assert not is_address("/mnt/data") and local_path("/mnt/data") == "/mnt/data"
    assert not is_address("https://elsewhere/gs://a")


def test_a_node_says_what_its_component_is() -> None:
    trainer = node("Trainer")
    assert trainer.executor == "tfx.components.trainer.executor.GenericExecutor"
    assert trainer.inputs["transform_graph"] == "tfx.types.standard_artifacts.TransformGraph"
    assert node("Reporter").outputs == {"report": f"{PAGE}.Report"}
    assert node("ServingCheck").whole == ["images"]
    assert Node(**json.loads(trainer.to_json())) == trainer


def test_artifacts_keep_their_properties_through_the_backends_numbers(tmp_path: Path) -> None:
    path = "tfx.types.standard_artifacts.Examples"
    told = {
        "name": "17",
        "uri": "s3://bucket/examples",
        "metadata": {
            "split_names": '["train"]',
            "span": 3.0,
            "payload_format": "FORMAT_TF_EXAMPLE",
            "count": 5.0,
            "seconds": 0.25,
            "listed": ["a", "b"],
            "yes": True,
        },
    }
    made = entrypoint._artifact(path, {"artifacts": [told]})
    assert (made.id, made.uri) == (17, "/s3/bucket/examples")
    assert (made.split_names, made.span) == ('["train"]', 3)
    assert made.get_int_custom_property("count") == 5
    assert made.get_float_custom_property("seconds") == 0.25
    assert made.get_json_value_custom_property("listed") == ["a", "b"]
    again = entrypoint._metadata(made)
    assert {name: again[name] for name in told["metadata"]} == told["metadata"]


def test_an_executor_runs_and_its_output_is_an_address_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCHER_ROOT, str(tmp_path))
    schema = REPOSITORY / "pipeline" / "schema" / "schema.pbtxt"
    task = given(tmp_path, {"schema_file": str(schema), "code": "abc"})
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
    found = folder / "found.json"
    executor_input["outputs"] = {"parameters": {"found": {"outputFile": str(found)}}}
    entrypoint.run_driver(node("ImportExampleGen"), executor_input)
    return json.loads(found.read_text(encoding="utf-8"))


def test_changed_files_are_noticed_and_downloading_them_again_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = create_pipeline(load_config(), data="s3://bucket/data", pipeline_root="/root", serving="/serving")
    properties = next(c for c in pipeline.components if c.id == "ImportExampleGen").exec_properties
    parameters = {name: value for name, value in properties.items() if value is not None}
    seen = []
    for pod, record in enumerate((b"one", b"one", b"two")):
        root = tmp_path / str(pod)
        monkeypatch.setenv(LAUNCHER_ROOT, str(root))
        examples(root / "s3" / "bucket" / "data", record)
        task = given(root, parameters, data={"name": "1", "uri": "s3://bucket/data", "metadata": {}})
        seen.append(resolve(root, task))
    assert seen[0] == seen[1] != seen[2]
    assert str(tmp_path) not in json.dumps(seen)  # paths of a pod would keep the next one from the cache
    fingerprint = seen[0]["execProperties"]["input_fingerprint"]["stringValue"]
    assert "split:train,num_files:1,total_bytes:3" in fingerprint
    told = seen[0]["outputArtifacts"]["examples"]["artifacts"][0]["customProperties"]
    assert told["input_fingerprint"]["stringValue"] == fingerprint


def test_what_a_person_can_put_right_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = given(tmp_path, {"split": "test", "images": 2.0, "max_seconds": 1.0})
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
