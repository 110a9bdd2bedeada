from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pyarrow.parquet
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma

from components.evaluator.evaluation import evaluate
from components.evaluator.gate import parse_all
from components.evaluator.pictures import PICTURES, UNSEEN_FONT, RobustnessTest
from components.evaluator.reading import ImageReader, read_images
from components.evaluator.summary import (
    BASELINE,
    CANDIDATE,
    PICTURE_PREDICTIONS,
    PREDICTIONS,
    Evaluation,
    read_evaluation,
)
from components.formula_metrics import scores
from data.dataset.record import Record
from data.pictures.synthetic import draw_png
from im2latex.errors import UserError

# Targets, the predictions of a good model, and those of a worse one.
READ = {
    "x ^ { 2 } + 1": ("x ^ { 2 } + 1", "x ^ { 2 } + 1"),
    "\\frac { a } { b } + c": ("\\frac { a } { b } + c", "\\frac { a } { b } - c"),
    "\\sqrt { x + y } = z": ("\\sqrt { x + y } = 2", "x"),
    "\\sum _ { i } x _ { i } + \\sqrt { y }": ("\\sum _ { i } x _ { i } + \\sqrt { y }", ""),
}
RECORDS = [Record(draw_png(latex, 60), latex, f"{number}.png") for number, latex in enumerate(READ)]


class Answers(tf.Module):
    """A model that knows every image, and counts how often it reads each."""

    def __init__(self, answers: dict[bytes, str]) -> None:
        super().__init__()
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(list(answers), list(answers.values())), "unknown"
        )
        self.asked = tf.Variable(0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="images")])
    def predict_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        self.asked.assign_add(tf.size(images))
        return {"latex": self.table[images], "log_probability": -tf.ones(tf.shape(images))}


def save(folder: Path, which: int) -> Path:
    module = Answers({record.image: READ[record.latex][which] for record in RECORDS})
    tf.saved_model.save(module, str(folder), signatures={"predict_images": module.predict_images})
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {CANDIDATE: save(folder / "good", 0), BASELINE: save(folder / "worse", 1)}


RULES = ["exact_match >= 0.75", "bleu >= baseline", "exact_match >= 0.9 where structure=root"]


@pytest.fixture(scope="module")
def evaluated(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    folder = tmp_path_factory.mktemp("evaluation")
    evaluation = evaluate(
        RECORDS, models, parse_all(RULES), folder, about={BASELINE: {"version": "7"}}, renderer="builtin"
    )
    return evaluation, folder


def test_every_slice_has_its_count_and_the_scores_of_its_examples(evaluated: tuple[Evaluation, Path]) -> None:
    evaluation, _ = evaluated
    of = {
        "": [0, 1, 2, 3],
        "structure=fraction": [1],
        "structure=root": [2, 3],
        "structure=big operator": [3],
        "structure=none of these": [0],
    }
    targets = list(READ)
    for name, members in of.items():
        slice_scores = evaluation.slices[name]
        assert slice_scores["examples"] == len(members)
        for index, model in enumerate((CANDIDATE, BASELINE)):
            pairs = [(targets[i], READ[targets[i]][index]) for i in members]
            sure = [math.exp(-1)] * len(pairs)
            statistics = scores.statistics(*zip(*pairs, strict=True), renderer="builtin", probabilities=sure)
            expected = scores.values(statistics)
            assert slice_scores[model] == pytest.approx(expected), (name, model)
    assert evaluation.slices[""][CANDIDATE]["exact_match"] == 0.75
    assert evaluation.slices[""][BASELINE]["exact_match"] == 0.25
    # For each key, every example is in at least one slice.
    for key in ("length", "area"):
        assert sum(values["examples"] for name, values in evaluation.slices.items() if name.startswith(f"{key}=")) == 4


def test_examples_that_are_read_in_parts_have_the_same_scores(
    evaluated: tuple[Evaluation, Path], models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.evaluator.evaluation.EXAMPLES_AT_ONCE", 3)
    done: dict[str, list[int]] = {}
    evaluation = evaluate(
        RECORDS, models, [], tmp_path, renderer="builtin",
        progress=lambda what, count, total: done.setdefault(f"{what} {total}", []).append(count),
    )  # fmt: skip
    whole, folder = evaluated
    assert evaluation.slices == whole.slices and evaluation.examples == 4
    file = pyarrow.parquet.ParquetFile(tmp_path / PREDICTIONS)
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [3, 1]
    assert file.read().equals(pyarrow.parquet.read_table(folder / PREDICTIONS))
    assert {what: sum(counts) for what, counts in done.items()} == {
        "reading, candidate 4": 4, "reading, baseline 4": 4, "drawing and comparing 8": 8
    }  # fmt: skip


def test_the_gate_reports_failed_rules_with_their_values(evaluated: tuple[Evaluation, Path]) -> None:
    evaluation, _ = evaluated
    assert [verdict.passed for verdict in evaluation.gate] == [True, True, False]
    assert not evaluation.blessed
    assert evaluation.reasons == ["exact match where structure=root 0.5 is below 0.9"]


def test_an_evaluation_round_trips_through_its_file(evaluated: tuple[Evaluation, Path]) -> None:
    evaluation, folder = evaluated
    assert read_evaluation(folder) == evaluation
    assert json.loads((folder / "summary.json").read_text())["blessed"] is False
    assert evaluation.renderer == "builtin"
    assert evaluation.models[BASELINE]["version"] == "7" and evaluation.models[CANDIDATE]["seconds"] > 0
    # TFMA's own reader finds the same.
    result = tfma.load_eval_result(str(folder), model_name=CANDIDATE)
    metrics = {key: value for key, value in result.slicing_metrics}
    assert metrics[()][""][""]["exact_match"]["doubleValue"] == 0.75


def test_predictions_are_stored_with_their_targets(evaluated: tuple[Evaluation, Path]) -> None:
    _, folder = evaluated
    rows = pyarrow.parquet.read_table(folder / PREDICTIONS).to_pylist()
    assert [row["name"] for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    for row in rows:
        assert (row[CANDIDATE], row[BASELINE]) == READ[row["target"]]
        assert row[f"{CANDIDATE}_log_probability"] == -1
        assert len(row[f"{CANDIDATE}_statistics"]) == scores.WIDTH
        assert row["width"] > row["height"] > 0
    assert rows[3]["structure"] == ["root", "big operator"]


def test_without_a_baseline_a_baseline_rule_passes(models: dict[str, Path], tmp_path: Path) -> None:
    evaluation = evaluate(
        RECORDS[:1], {CANDIDATE: models[BASELINE]}, parse_all(["bleu >= baseline"]), tmp_path, renderer="builtin"
    )
    assert evaluation.blessed and BASELINE not in evaluation.slices[""]
    assert read_evaluation(tmp_path) == evaluation


def test_a_rule_on_an_empty_slice_fails(models: dict[str, Path], tmp_path: Path) -> None:
    rules = parse_all(["bleu >= 0 where structure=matrix"])
    evaluation = evaluate(RECORDS, {CANDIDATE: models[CANDIDATE]}, rules, tmp_path, renderer="builtin")
    assert evaluation.reasons == ["BLEU where structure=matrix: there are no such examples"]


@pytest.mark.parametrize("examples_at_once", [2048, 1])
def test_corrections_have_a_slice_for_the_gate(
    examples_at_once: int, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.evaluator.evaluation.EXAMPLES_AT_ONCE", examples_at_once)
    mixed = [
        dataclasses.replace(record, name=f"correction-{i}") if i in (0, 2) else record
        for i, record in enumerate(RECORDS)
    ]
    rules = parse_all(["exact_match >= 0.1 where source=corrections"])
    evaluation = evaluate(mixed, models, rules, tmp_path, renderer="builtin")
    corrections = evaluation.slices["source=corrections"]
    right = [READ[RECORDS[i].latex][0] == RECORDS[i].latex for i in (0, 2)]
    assert corrections["examples"] == 2 and corrections[CANDIDATE]["exact_match"] == sum(right) / 2
    assert evaluation.slices["source=others"]["examples"] == 2
    assert [verdict.rule for verdict in evaluation.gate] == ["exact_match >= 0.1 where source=corrections"]
    assert not any(name.startswith("source") for name in evaluate(RECORDS, models, [], tmp_path / "none").slices)


def test_different_vocabularies_are_reported(evaluated: tuple[Evaluation, Path]) -> None:
    evaluation, _ = evaluated
    assert evaluation.other_vocabulary == ""  # both vocabularies are unknown
    about = {"vocabulary": 94, "vocabulary_digest": "a"}
    same = dataclasses.replace(evaluation, models={CANDIDATE: about, BASELINE: about})
    assert same.other_vocabulary == ""
    other = dataclasses.replace(
        evaluation, models={CANDIDATE: about, BASELINE: {"vocabulary": 101, "vocabulary_digest": "b"}}
    )
    assert other.other_vocabulary == "this model knows 94 tokens, the one serving now 101, not the same"


def test_a_model_is_evaluated_on_other_kinds_of_pictures(models: dict[str, Path], tmp_path: Path) -> None:
    # The models know the exact bytes of the examples, so they cannot read changed pictures.
    rules = parse_all(["exact_match >= 0.75 where picture=native", "exact_match >= 0.1 where picture=photo"])
    evaluation = evaluate(RECORDS, models, rules, tmp_path, robustness=RobustnessTest(4, 5), renderer="builtin")
    assert list(evaluation.pictures) == [kind for kind in PICTURES if kind != UNSEEN_FONT]
    assert {of["examples"] for of in evaluation.pictures.values()} == {4}
    for model, expected in ((CANDIDATE, 0.75), (BASELINE, 0.25)):
        exact = {kind: of[model]["exact_match"] for kind, of in evaluation.pictures.items()}
        assert exact.pop("native") == expected and set(exact.values()) == {0}
        assert evaluation.pictures["native"][model] == pytest.approx(evaluation.slices[""][model])
        assert evaluation.loss("blur", model) == evaluation.slices[""][model]["bleu"] > 0
    assert evaluation.loss("native") is None
    assert evaluation.reasons == ["exact match where picture=photo 0 is below 0.1"]
    bleu = evaluation.slices[""][CANDIDATE]["bleu"]
    lowest = "size-0.5 0.000, size-0.75 0.000, size-1.5 0.000"
    assert evaluation.hardest_pictures == f"BLEU {bleu:.3f} as they are; lowest: {lowest}"
    assert read_evaluation(tmp_path) == evaluation and evaluation.robustness == {"examples": 4, "seed": 5}
    rows = pyarrow.parquet.read_table(tmp_path / PICTURE_PREDICTIONS).to_pylist()
    assert len(rows) == 4 * (len(PICTURES) - 1)
    assert {row[CANDIDATE] for row in rows if row["picture"] == "noise"} == {"unknown"}
    assert {row["target"]: row[CANDIDATE] for row in rows if row["picture"] == "native"} == {
        target: read for target, (read, _) in READ.items()
    }


def test_an_old_evaluation_without_kinds_of_pictures_can_be_read(evaluated, tmp_path: Path) -> None:
    evaluation, folder = evaluated
    assert evaluation.pictures == {} and evaluation.hardest_pictures == "" and evaluation.loss("blur") is None
    document = json.loads((folder / "summary.json").read_text())
    del document["robustness"]
    (tmp_path / "summary.json").write_text(json.dumps(document))
    assert read_evaluation(tmp_path) == evaluation


def test_images_are_read_once_and_in_order(models: dict[str, Path]) -> None:
    reported: list[int] = []
    images = [record.image for record in RECORDS] * 20
    reading = read_images(ImageReader(models[CANDIDATE]), images, reported.append)
    assert reading.latex == [READ[record.latex][0] for record in RECORDS] * 20
    assert sum(reported) == len(images) and reading.seconds > 0


def test_unusable_inputs_are_refused_by_name(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a model that reads images"):
        ImageReader(tmp_path / "nowhere")
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "mute"))
    with pytest.raises(UserError, match="mute is not a model that reads images"):
        ImageReader(tmp_path / "mute")
    with pytest.raises(UserError, match="the image of torn.png cannot be decoded"):
        evaluate([Record(b"torn", "x", "torn.png")], models, [], tmp_path)
    with pytest.raises(UserError, match="no examples"):
        evaluate([], models, [], tmp_path)
