from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from data.dataset.writer import DatasetWriter
from im2latex.errors import UserError
from pipeline.cli import app
from tests.components.evaluator.test_evaluation import RECORDS, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, two models, and a workspace in which one of them was pushed."""
    folder = tmp_path_factory.mktemp("evaluate")
    with DatasetWriter(folder / "data", source="test") as writer:
        for split in ("train", "eval", "test"):
            for record in RECORDS if split == "test" else RECORDS[:1]:
                writer.write(split, record)
    save(folder / "workspace" / "serving" / "im2latex" / "8", 0)
    save(folder / "workspace" / "serving" / "im2latex" / "7", 1)
    return folder


def evaluate(folder: Path, *arguments: object) -> Result:
    environment = {"IM2LATEX_HOME": str(folder / "workspace"), "COLUMNS": "80"}
    return CliRunner().invoke(app, ["evaluate", "--renderer", "builtin", *map(str, arguments)], env=environment)


def test_the_model_pushed_last_is_evaluated_by_slice(folder: Path, tmp_path: Path) -> None:
    baseline = folder / "workspace" / "serving" / "im2latex" / "7"
    answer = evaluate(
        folder, "--data", folder / "data", "--baseline", baseline, "--gate", "exact_match >= 0.9",
        "--gate", "bleu >= baseline", "--out", tmp_path / "kept",
    )  # fmt: skip
    assert answer.exit_code == 3, answer.output
    rows = [line.split() for line in answer.stdout.splitlines()]
    assert next(row for row in rows if row[:1] == ["all"])[:2] == ["all", "4"]
    assert next(row for row in rows if row[:1] == ["baseline"])[2] == "0.250"  # exact match
    assert next(row for row in rows if row[:1] == ["root"])[:2] == ["root", "2"]
    assert "failed  exact_match >= 0.9  (exact match 0.75 is below 0.9)" in answer.stdout
    assert "passed  bleu >= baseline" in answer.stdout
    assert "formulas drawn by builtin, tokens compared in normal form" in answer.stdout
    assert {"summary.json", "predictions.parquet"} < {path.name for path in (tmp_path / "kept").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    with pytest.raises(UserError, match="kept exists already"):
        raise evaluate(folder, "--data", folder / "data", "--out", tmp_path / "kept").exception or AssertionError


def test_json_output_has_nothing_else(folder: Path) -> None:
    answer = evaluate(folder, "--data", folder / "data" / "test", "--json")
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    assert document["examples"] == 4 and document["slices"][""]["candidate"]["exact_match"] == 0.75
    assert document["models"]["candidate"]["path"].endswith("8") and document["blessed"] is True
    assert document["spelling"] == "normal"
    answer = evaluate(folder, "--data", folder / "data" / "test", "--json", "--spelling", "im2markup")
    assert json.loads(answer.stdout)["spelling"] == "im2markup"


def test_published_scores_are_printed_below_those_of_the_model_with_the_differences(folder: Path) -> None:
    arguments = ("--data", folder / "data", "--spelling", "im2markup")
    answer = evaluate(folder, *arguments, "--published")
    assert answer.exit_code == 0, answer.output
    scores = json.loads(evaluate(folder, *arguments, "--json").stdout)["slices"][""]["candidate"]
    names = ("bleu", "image_edit_similarity", "image_match", "image_match_without_blanks")
    own = next(line for line in answer.stdout.splitlines() if line.startswith("this model"))
    assert own.split()[2:] == [f"{100 * scores[name]:.2f}" for name in names]
    paper = next(line for line in answer.stdout.splitlines() if line.startswith("Im2Markup (Deng"))
    assert paper.split()[-3:] == ["87.73", "87.60", "77.46"]
    assert "here, 4 examples of" in answer.stdout and "are drawn by builtin, in" in answer.stdout
    with pytest.raises(UserError, match="needs --spelling im2markup"):
        raise evaluate(folder, "--data", folder / "data", "--published").exception or AssertionError


def test_kinds_of_pictures_have_their_own_table(folder: Path, tmp_path: Path) -> None:
    arguments = ("--data", folder / "data", "--robustness", "--robustness-examples", 3, "--robustness-seed", 4)
    answer = evaluate(folder, *arguments, "--gate", "bleu >= 0.2 where picture=jpeg-30", "--out", tmp_path / "kept")
    assert answer.exit_code == 3, answer.output
    assert "failed  bleu >= 0.2 where picture=jpeg-30  (BLEU where picture=jpeg-30 0 is below 0.2)" in answer.stdout
    rows = [line.split() for line in answer.stdout.splitlines()]
    start = rows.index(["picture", "count", "BLEU", "exact", "edit", "loss"])
    of = {row[0]: row[1:] for row in rows[start + 1 : start + 21]}
    assert list(of)[:2] == ["native", "size-0.5"] and list(of)[-1] == "photo"
    count, bleu, exact, _ = of["native"]  # it has no loss
    assert (count, of["blur"][0]) == ("3", "3") and float(exact) > 0.5
    assert of["blur"][1:] == ["0.000", "0.000", of["blur"][3], bleu]
    document = json.loads((tmp_path / "kept" / "summary.json").read_text())
    assert document["robustness"] == {"examples": 3, "seed": 4}
    assert f"{document['slices']['picture=native']['candidate']['bleu']:.3f}" == bleu


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "{data}", "--gate", "bleu >= 0 where picture=blur"], "add --robustness"),
        (
            ["--data", "{data}", "--robustness", "--gate", "bleu >= 0 where picture=fax"],
            "the slices of picture are native, size-0.5,",
        ),
        (["--data", "nowhere"], "nowhere does not exist"),
        (
            ["--data", "{data}", "--spelling", "latin"],
            "there is no spelling latin; the spellings are normal, im2markup",
        ),
        (["--data", "{data}", "--split", "all"], "data has no split all, but "),
        (["--data", "{data}", "--gate", "blue >= 1"], "--gate: there is no score 'blue'"),
        (["--data", "{data}", "--gate", "bleu >= baseline"], "name one with --baseline"),
        (["--data", "{data}", "--model", "nowhere"], "nowhere is not a model that reads images"),
    ],
)
def test_an_error_is_one_sentence(folder: Path, arguments: list[str], sentence: str) -> None:
    answer = evaluate(folder, *(argument.format(data=folder / "data") for argument in arguments))
    assert isinstance(answer.exception, UserError) and sentence in str(answer.exception)


def test_without_a_pushed_model_the_reader_is_evaluated(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = folder / "workspace" / "serving" / "im2latex" / "8"
    monkeypatch.setattr("pipeline.models.choice.saved_model", lambda: model)
    arguments = ["evaluate", "--renderer", "builtin", "--data", str(folder / "data"), "--json"]
    answer = CliRunner().invoke(app, arguments, env={"IM2LATEX_HOME": str(tmp_path)})
    assert answer.stderr.startswith("model: the reader that comes with im2latex ")
    assert json.loads(answer.stdout)["models"]["candidate"]["path"] == str(model)
    older = folder / "workspace" / "serving" / "im2latex" / "7"
    answer = CliRunner().invoke(app, [*arguments, "--model", str(older), "--baseline", "reader"])
    models = json.loads(answer.stdout)["models"]
    assert {name: known["path"] for name, known in models.items()} == {"candidate": str(older), "baseline": str(model)}
