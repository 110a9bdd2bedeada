from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pytest
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_data_validation.statistics.stats_impl import generate_statistics_in_memory
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import artifact_utils, standard_artifacts

from components.example_validator.component import Executor
from im2latex.errors import UserError
from pipeline.pipeline import SCHEMA
from tests.components.artifacts import artifact


def validate(folder: Path, *examples: dict[str, list[bytes]]) -> Any:
    """Runs the executor on a split with these examples. Returns the anomalies artifact."""
    split = folder / "statistics" / "Split-train"
    split.mkdir(parents=True)
    names = sorted({name for example in examples for name in example})
    columns = [
        pyarrow.array([example.get(name) for example in examples], pyarrow.list_(pyarrow.binary())) for name in names
    ]
    schema = text_format.Parse(SCHEMA.read_text(encoding="utf-8"), schema_pb2.Schema())
    computed = generate_statistics_in_memory(
        pyarrow.RecordBatch.from_arrays(columns, names), tfdv.StatsOptions(schema=schema)
    )
    (split / "FeatureStats.pb").write_bytes(computed.SerializeToString())
    statistics = artifact(standard_artifacts.ExampleStatistics, folder / "statistics")
    statistics.split_names = artifact_utils.encode_split_names(["train"])
    (folder / "schema").mkdir()
    (folder / "schema" / "schema.pbtxt").write_bytes(SCHEMA.read_bytes())
    anomalies = artifact(standard_artifacts.ExampleAnomalies, folder / "anomalies")
    inputs = {"statistics": [statistics], "schema": [artifact(standard_artifacts.Schema, folder / "schema")]}
    Executor().Do(inputs, {"anomalies": [anomalies]}, {"exclude_splits": "[]"})
    return anomalies


GOOD = {"image": [b"png"], "latex": [b"x ^ 2"], "name": [b"one"]}


def test_examples_that_match_the_schema_pass(tmp_path: Path) -> None:
    anomalies = validate(tmp_path, GOOD, {**GOOD, "latex": [b"y"]})
    assert anomalies.get_json_value_custom_property("blessed") == {"train": 1}


@pytest.mark.parametrize(
    ("bad", "feature"),
    [
        ({"image": [b"png"], "name": [b"two"]}, "latex"),
        ({"latex": [b"x"], "name": [b"two"]}, "image"),
        ({**GOOD, "latex": [b"x", b"y"]}, "latex"),
        ({**GOOD, "label": [b"z"]}, "label"),
    ],
)
def test_an_anomaly_stops_the_run_and_is_named(bad: dict[str, list[bytes]], feature: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"train: {feature}: ") as refusal:
        validate(tmp_path, GOOD, bad)
    assert "\n" not in str(refusal.value)
