from __future__ import annotations

import dataclasses
import gzip
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_data_validation.statistics.stats_impl import generate_statistics_in_memory
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import artifact_utils, standard_artifacts

from components.example_validator import drift
from components.example_validator.component import Executor
from data.dataset.record import Record, encode
from data.dataset.tfrecords import frame
from data.pictures.synthetic import draw_png, formulas
from im2latex.errors import UserError
from im2latex.statistics import OF_EXAMPLES, OF_REQUESTS, to_document
from pipeline.config.sections import DriftConfig
from pipeline.pipeline import SCHEMA
from tests.components.artifacts import artifact
from trainer_module.config.image import ImageConfig
from trainer_module.features import DESCRIPTION, SPECIAL_TEXTS
from trainer_module.statistics import of_records

IMAGE = ImageConfig(max_height=64, max_width=320, border=2)


def validate(folder: Path, *examples: dict[str, list[bytes]], action: str = "off", serving: str = "") -> Any:
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
    (folder / "schema").mkdir()
    (folder / "schema" / "schema.pbtxt").write_bytes(SCHEMA.read_bytes())
    examples_artifact = artifact(standard_artifacts.Examples, folder / "examples")
    for one in (statistics, examples_artifact):
        one.split_names = artifact_utils.encode_split_names(["train"])
    anomalies = artifact(standard_artifacts.ExampleAnomalies, folder / "anomalies")
    inputs = {
        "statistics": [statistics],
        "schema": [artifact(standard_artifacts.Schema, folder / "schema")],
        "examples": [examples_artifact],
    }
    properties = {"exclude_splits": "[]", "action": action, "serving": serving}
    properties["thresholds"] = json.dumps(DriftConfig().thresholds)
    result = Executor().Do(inputs, {"anomalies": [anomalies]}, properties)
    (recorded,) = result.output_artifacts["anomalies"].artifacts
    assert recorded.custom_properties == anomalies.mlmd_artifact.custom_properties
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


# --- Drift ----------------------------------------------------------------------------------------------------------


def records(seed: int, count: int = 400, max_tokens: int = 12, dpi: int = 80) -> list[Record]:
    return [
        Record(draw_png(formula, em=dpi // 8), formula, f"{seed}-{number}")
        for number, formula in enumerate(formulas(count, seed, level="simple", max_tokens=max_tokens))
    ]


@pytest.fixture(scope="module")
def learned() -> list[Record]:
    return records(1)


def write_examples(folder: Path, content: Sequence[Record]) -> None:
    """Writes an Examples artifact as ImportExampleGen does."""
    split = folder / "examples" / "Split-train"
    split.mkdir(parents=True)
    with gzip.open(split / "data_tfrecord-00.gz", "wb", compresslevel=1) as stream:
        stream.write(b"".join(frame(encode(record)) for record in content))


def push(serving: Path, version: int, learned: Sequence[Record], **changed: Any) -> None:
    """Pushes what a comparison needs of a model that learned from these examples."""
    vocabulary = sorted({token for record in learned for token in record.latex.split()})
    described = {"image": dataclasses.asdict(IMAGE), "vocabulary": [*SPECIAL_TEXTS, *vocabulary], "max_tokens": 60}
    statistics = of_records(learned, len(learned), IMAGE, vocabulary, 60)
    described |= {"statistics": to_document(statistics)} | changed
    file = serving / str(version) / DESCRIPTION
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(described), "utf-8")


def compared(folder: Path, serving: Path, new: Sequence[Record], action: str = "warn") -> Any:
    write_examples(folder, new)
    rows = [{"image": [r.image], "latex": [r.latex.encode()], "name": [r.name.encode()]} for r in new]
    return validate(folder, *rows, action=action, serving=str(serving))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_examples_and_others_of_the_same_kind_pass(seed: int, learned: list[Record], tmp_path: Path) -> None:
    push(tmp_path / "serving", 7, learned)
    anomalies = compared(tmp_path / "new", tmp_path / "serving", records(seed), action="stop")
    comparison = drift.read(tmp_path / "new" / "anomalies")
    assert (comparison.version, comparison.examples) == ("7", 400)
    assert [one.feature for one in comparison.comparisons] == list(OF_EXAMPLES)
    assert anomalies.get_string_custom_property("drift") == comparison.sentence
    assert comparison.sentence.startswith("no drift from version 7, most in ")
    for one in comparison.comparisons:
        assert one.distance <= (0 if seed == 1 else 0.05), one


def test_examples_that_have_drifted_warn_or_stop_and_each_feature_is_named(
    learned: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)  # commands that ran in this process before leave only errors
    push(tmp_path / "serving", 6, records(3))
    push(tmp_path / "serving", 7, learned)
    new = [Record(r.image, f"\\alpha \\beta {r.latex}", r.name) for r in records(4, max_tokens=40, dpi=240)]
    anomalies = compared(tmp_path / "warned", tmp_path / "serving", new)
    sentence = anomalies.get_string_custom_property("drift")
    assert sentence.startswith("drift from version 7: width 0.") and sentence in caplog.text
    above = {
        one.feature: one for one in drift.read(tmp_path / "warned" / "anomalies").comparisons if one.status != "ok"
    }
    assert {"width", "height", "length", "unknown"} <= set(above)
    assert all(f"{name} {one.distance:.3f} (threshold {one.threshold:g})" in sentence for name, one in above.items())
    tokens = [token for record in new for token in record.latex.split()]
    known = {token for record in learned for token in record.latex.split()}
    assert above["unknown"].distance == pytest.approx(sum(token not in known for token in tokens) / len(tokens))
    with pytest.raises(
        UserError, match="^drift from version 7: .*; to continue anyway, set drift.action=warn"
    ) as stopped:
        compared(tmp_path / "stopped", tmp_path / "serving", new, action="stop")
    assert "\n" not in str(stopped.value)
    compared(tmp_path / "off", tmp_path / "serving", new, action="off")
    assert not (tmp_path / "off" / "anomalies" / drift.FILE).exists()


@pytest.mark.parametrize(
    ("changed", "count", "reason"),
    [
        (None, 3, "nothing serves to compare with"),
        ({"statistics": {}}, 3, "version 7 has no histograms of its training data"),
        ({}, 60, "60 examples and the 400 of version 7 are too few to compare"),
    ],
)
def test_a_failed_comparison_passes_with_the_reason(
    changed: dict | None, count: int, reason: str, learned: list[Record], tmp_path: Path
) -> None:
    if changed is not None:
        push(tmp_path / "serving", 7, learned, **changed)
    anomalies = compared(tmp_path / "new", tmp_path / "serving", records(9, count), action="stop")
    assert anomalies.get_string_custom_property("drift") == drift.read(tmp_path / "new" / "anomalies").reason == reason


def test_the_knobs_have_the_default_thresholds_of_the_monitor() -> None:
    from im2latex.drift import thresholds

    assert DriftConfig().thresholds == thresholds(OF_EXAMPLES)
    assert set(OF_REQUESTS) - set(OF_EXAMPLES) == {"confidence"}
