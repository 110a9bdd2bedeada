from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.dsl.compiler.compiler import Compiler
from tfx.orchestration.pipeline import Pipeline

from im2latex.errors import UserError
from pipeline.config import load_config
from pipeline.config.sections import COMPONENTS, TUNER, WITH_TUNER
from pipeline.pipeline import SCHEMA, create_pipeline
from trainer_module import reader
from trainer_module.trained import save_weights


def pipeline(*settings: str, schema: Path = SCHEMA, preset: str | None = None) -> Pipeline:
    config = load_config(preset, settings=settings)
    return create_pipeline(config, data="/data", pipeline_root="/root", serving="/serving", schema=str(schema))


def properties(built: Pipeline) -> dict[str, dict]:
    return {component.id: component.exec_properties for component in built.components}


def test_the_compiled_pipeline_has_the_components_in_order() -> None:
    nodes = [node.pipeline_node.node_info.id for node in Compiler().compile(pipeline()).nodes]
    assert sorted(nodes) == sorted(COMPONENTS)
    after = {node: nodes[:index] for index, node in enumerate(nodes)}
    assert "ExampleValidator" in after["Transform"]  # no training on examples with anomalies
    assert "Evaluator" in after["Pusher"] and "Baseline" in after["Evaluator"]


def test_components_get_only_the_sections_that_they_use() -> None:
    before, after = properties(pipeline()), properties(pipeline("training.epochs=3"))
    # The report shows every knob.
    assert {name for name in before if before[name] != after[name]} == {"Trainer", "Reporter"}
    custom = json.loads(after["Trainer"]["custom_config"])
    assert json.loads(custom["config"])["training"]["epochs"] == 3
    before, after = properties(pipeline()), properties(pipeline("image.border=6"))
    assert {name for name in before if before[name] != after[name]} == {"Transform", "Trainer", "Reporter"}
    before, after = properties(pipeline()), properties(pipeline("data.spelling=im2markup"))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"ImportExampleGen", "Trainer", "Evaluator", "Reporter"}  # Trainer compares formulas to calibrate
    assert json.loads(after["Trainer"]["custom_config"])["spelling"] == "im2markup"
    assert [after[name]["spelling"] for name in ("ImportExampleGen", "Evaluator")] == 2 * ["im2markup"]
    before, after = properties(pipeline()), properties(pipeline("evaluation.gate=['bleu >= 0.5']"))
    assert {name for name in before if before[name] != after[name]} == {"Evaluator", "Reporter"}


def test_a_search_is_a_component_whose_result_the_trainer_takes() -> None:
    assert all(one.id != TUNER and "hyperparameters" not in one.inputs for one in pipeline().components)
    tuned = pipeline("tuning.trials=8")
    assert sorted(node.pipeline_node.node_info.id for node in Compiler().compile(tuned).nodes) == sorted(WITH_TUNER)
    taken = {
        one.id: {key: channel.producer_component_id for key, channel in one.inputs.items()} for one in tuned.components
    }
    assert taken["Trainer"]["hyperparameters"] == taken["Reporter"]["tuner_results"] == TUNER
    before, after = properties(tuned), properties(pipeline("tuning.trials=9"))
    assert {name for name in before if before[name] != after[name]} == {TUNER, "Reporter"}
    after = properties(pipeline("tuning.trials=8", "training.epochs=3"))
    assert {name for name in before if before[name] != after[name]} == {TUNER, "Trainer", "Reporter"}
    after = properties(pipeline("tuning.trials=8", "decoding.beam_width=3"))
    assert {name for name in before if before[name] != after[name]} == {"Trainer", "Reporter"}


def test_another_reader_changes_the_cache_key_of_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trainers() -> list[dict]:
        built = [pipeline(f"training.start_from={name}", preset="reader") for name in ("reader", "/models/7")]
        return [properties(one)["Trainer"] for one in built]

    before = trainers()
    own = reader.load()
    monkeypatch.setattr(reader, "weights_file", lambda: tmp_path / "weights.npz")
    save_weights(tmp_path / "weights.npz", own._replace(max_tokens=7))
    assert [one == other for one, other in zip(before, trainers(), strict=True)] == [False, True]


def test_the_content_of_the_model_to_start_from_is_in_the_cache_key(tmp_path: Path) -> None:
    weights = tmp_path / "weights.npz"
    keys = []
    for content in (b"some", b"others"):
        weights.write_bytes(content)
        keys += [properties(pipeline(f"training.start_from={start}")) for start in (weights, tmp_path)]
    assert len({json.dumps(key["Trainer"], sort_keys=True) for key in keys}) == 4
    assert len({json.dumps(key["Transform"], sort_keys=True) for key in keys}) == 1


def test_the_content_of_the_schema_is_in_the_cache_key(tmp_path: Path) -> None:
    schema = tmp_path / "schema.pbtxt"
    schema.write_bytes(SCHEMA.read_bytes())
    first = properties(pipeline(schema=schema))["ImportSchemaGen"]
    schema.write_bytes(SCHEMA.read_bytes() + b"# changed\n")
    assert properties(pipeline(schema=schema))["ImportSchemaGen"] != first


def test_the_gate_has_the_configured_rules() -> None:
    rules = ["bleu >= 0.6", "bleu >= baseline - 0.02 where structure=fraction"]
    assert json.loads(properties(pipeline(f"evaluation.gate={rules}"))["Evaluator"]["gate"]) == rules


def test_the_schema_requires_one_image_one_formula_and_one_name() -> None:
    schema = text_format.Parse(SCHEMA.read_text(encoding="utf-8"), schema_pb2.Schema())
    assert [feature.name for feature in schema.feature] == ["image", "latex", "name"]
    for feature in schema.feature:
        assert feature.type == schema_pb2.BYTES
        assert feature.presence.min_fraction == 1.0
        assert feature.HasField("shape") and not feature.shape.dim


LATEX = SCHEMA.read_text(encoding="utf-8").split("feature {")[2]


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        (lambda text: text.replace(LATEX, LATEX.replace("BYTES", "INT")), "it needs a feature latex"),
        (lambda text: text.replace(LATEX, LATEX.replace("shape {}", "")), "it needs a feature latex"),
        (lambda text: text.replace(LATEX, LATEX.replace("{}", "{ dim { size: 2 } }")), "it needs a feature latex"),
        (lambda text: text.replace('"name"', '"title"'), "it needs a feature name with type: BYTES"),
        (lambda text: text + "feature {", "cannot be read"),
        (lambda text: "feature: image", "cannot be read"),
        (lambda text: "", "it needs a feature image"),
    ],
)
def test_a_schema_that_does_not_fit_the_records_is_refused(change, reported: str, tmp_path: Path) -> None:
    schema = tmp_path / "schema.pbtxt"
    schema.write_text(change(SCHEMA.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(UserError, match=f"^the schema {schema} .*{reported}") as refusal:
        pipeline(schema=schema)
    assert "\n" not in str(refusal.value) and str(SCHEMA) in str(refusal.value)


def test_a_missing_or_binary_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read .No such file"):
        pipeline(schema=tmp_path / "schema.pbtxt")
    (tmp_path / "schema.pbtxt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        pipeline(schema=tmp_path / "schema.pbtxt")
