from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest

from components.evaluator.summary import BASELINE, CANDIDATE
from components.formula_metrics.scores import SCORES
from components.metadata import FAILED, RAN, Output, Step
from components.report.gallery import gallery
from components.report.report_page import render, write_page
from components.report.reported_run import ReportedRun
from components.report.sections import cell, scores, verdict
from im2latex.errors import UserError
from tests.components.report.conftest import HOSTILE, Material

PUSHED = {"pushed": 1, "pushed_version": "17", "pushed_destination": "/s/17"}


def with_artifacts(run: ReportedRun, **changed: Output | None) -> ReportedRun:
    artifacts = {**run.artifacts, **changed}
    return dataclasses.replace(run, artifacts={name: output for name, output in artifacts.items() if output})


def judged(material: Material, **changed: Output | None):
    return verdict(with_artifacts(material.run, **changed), material.evaluation)


def kept(material: Material):
    """Returns the evaluation with a gate that passes."""
    return dataclasses.replace(material.evaluation, gate=material.evaluation.gate[:1])


def test_the_report_says_why_a_model_was_refused_and_what_serves(material: Material) -> None:
    outcome = judged(material)
    assert (outcome.headline, outcome.good) == ("Not blessed", False)
    assert outcome.sentences[0].startswith("BLEU where length=1-9 ")
    assert outcome.sentences[-1] == f"Version 1700000000 is serving: {material.run.serving}/1700000000"
    assert [rule.passed for rule in outcome.rules] == [True, True, False]


@pytest.mark.parametrize(
    ("check", "pushed", "headline", "good"),
    [
        ({"blessed": 1}, PUSHED, "Blessed and pushed", True),
        ({"blessed": 1}, {"pushed": 0}, "Blessed, not pushed", None),
        ({"blessed": 0, "reason": "it is slow"}, {"pushed": 0}, "Rejected by the serving check", False),
        (None, PUSHED, "Blessed and pushed", True),
    ],
)
def test_the_headline_has_the_outcome_of_a_blessed_model(
    material: Material, check: dict | None, pushed: dict, headline: str, good: bool | None
) -> None:
    changed = {"serving_check": check and Output("/c", 1, check), "pushed_model": Output("/p", 2, pushed)}
    outcome = verdict(with_artifacts(material.run, **changed), kept(material))
    assert (outcome.headline, outcome.good) == (headline, good)
    text = " ".join(outcome.sentences)
    assert ("it is slow" in text) == (headline == "Rejected by the serving check")


def test_the_serving_version_is_that_at_the_time_of_the_report(material: Material, tmp_path: Path) -> None:
    def output(serving: str | None) -> str:
        run = with_artifacts(dataclasses.replace(material.run, serving=serving), pushed_model=Output("/p", 2, PUSHED))
        return verdict(run, material.evaluation).sentences[-1]

    assert output(None) == "It is not known what is serving."
    assert output(str(tmp_path)) == "Nothing is serving."
    (tmp_path / "9").mkdir()
    assert output(str(tmp_path)) == f"Version 9 is serving: {tmp_path}/9"
    (tmp_path / "17").mkdir()
    assert output(str(tmp_path)) == f"Version 17 is serving, which this run pushed: {tmp_path}/17"


def test_the_report_of_a_failed_run_says_where_and_why(material: Material) -> None:
    steps = [Step("ImportExampleGen", RAN, 1, "r", 4_000, 5_000), Step("Trainer", FAILED, 2, "r", 5_000, 6_000)]
    run = ReportedRun("im2latex", "r", steps, {"examples": material.run.artifacts["examples"]},
              data=material.run.data, log="/logs/run.log", failure="UserError: the training diverged")  # fmt: skip
    page = render(run)
    assert '<h1 class="bad">Trainer failed</h1>' in page
    assert "UserError: the training diverged" in page and "/logs/run.log" in page
    assert "There is no evaluation: Trainer failed." in page
    assert "There is no log of a training: Trainer failed." in page
    assert "It is not known what is serving." in page
    assert page.count('class="chart"') == 3  # lengths and sizes of the training examples


def test_an_unknown_run_has_a_report() -> None:
    page = render(ReportedRun("im2latex"))
    assert "Not evaluated" in page
    assert "There is no evaluation: the run did not reach it." in page
    assert "It is not known where the examples came from" in page
    assert "The configuration of this run is not known" in page


def test_an_evaluation_of_another_version_is_reported(material: Material, tmp_path: Path) -> None:
    page = render(with_artifacts(material.run, evaluation=Output(str(tmp_path), 3)))
    assert "The evaluation has no summary.json: another version of the pipeline wrote" in page


def test_damaged_files_are_reported_and_the_rest_is_shown(material: Material, tmp_path: Path) -> None:
    shutil.copytree(material.run.artifacts["evaluation"].uri, tmp_path / "evaluation")
    (tmp_path / "evaluation" / "predictions.parquet").write_bytes(b"PAR1 cut off")
    (tmp_path / "examples").mkdir()
    changed = {name: Output(str(tmp_path / name), 3) for name in ("evaluation", "examples")}
    page = render(with_artifacts(material.run, **changed))
    assert f"{tmp_path}/evaluation/predictions.parquet is damaged" in page
    assert f"{tmp_path}/examples/Split-train cannot be read: No such file or directory." in page
    assert "By slice" in page and page.count('class="chart"') == 3  # the curves of the training


def test_formulas_are_not_drawn_without_their_renderer(material: Material, evaluated) -> None:
    shown = gallery(material.run, "quill", evaluated)
    assert shown.notes == ["There is no renderer quill; the renderers are latex, builtin."]
    assert all(one.target is None and one.attention is not None for _, group in shown.groups for one in group)


def test_differences_from_the_baseline_are_marked_better_or_worse() -> None:
    def cell_of(name: str, value: float, baseline: float | None):
        models = {CANDIDATE: {name: value}} | ({BASELINE: {name: baseline}} if baseline is not None else {})
        return cell(SCORES[name], models, name)

    assert cell_of("bleu", 0.75, 0.5) == ("0.750", "0.500", "+0.250", "better")
    assert cell_of("bleu", 0.5, 0.75) == ("0.500", "0.750", "−0.250", "worse")
    assert cell_of("bleu", 0.5, 0.5002)[3] == "same"
    assert cell_of("unrendered", 3.0, 5.0) == ("3", "5", "−2", "better")  # fewer are better
    assert cell_of("unrendered", 5.0, 3.0)[3] == "worse"
    assert cell_of("bleu", 0.5, None) == ("0.500", "", "", "")


def test_slices_are_grouped_with_their_counts_and_small_ones_marked(material: Material) -> None:
    section_scores = scores(material.evaluation)
    assert section_scores.examples == 15 and section_scores.baseline
    groups = dict(section_scores.groups)
    assert set(groups) == {"Length, tokens", "Area of the image, pixels", "Structure"}
    lengths = groups["Length, tokens"]
    assert "1–9" in [row.name for row in lengths]
    assert sum(row.examples for row in lengths) == 15
    assert all(row.few for row in lengths)
    assert [len(row.cells) for row in lengths] == [len(SCORES)] * len(lengths)


def test_the_gallery_reports_missing_parts_and_shows_the_rest(material: Material, evaluated) -> None:
    shown = gallery(with_artifacts(material.run, model=None), "builtin", evaluated)
    assert shown.notes == ["There is no model: the run did not reach it."]
    every = [one for _, group in shown.groups for one in group]
    assert len(every) == 12 and all(one.image and not one.attention for one in every)
    shown = gallery(dataclasses.replace(material.run, split=None), "builtin", evaluated)
    assert shown.notes == ["The split of the evaluated examples is unknown, so there are no images."]


def test_the_gallery_shows_each_image_with_its_formulas_and_steps(material: Material, evaluated) -> None:
    shown = gallery(material.run, "builtin", evaluated)
    assert shown.notes == [] and [title for title, _ in shown.groups] == ["Best", "Median", "Worst"]
    for _, group in shown.groups:
        for one in group:
            assert one.prediction.name == material.examples[one.prediction.record].name
            assert one.attention is not None
            tokens = one.prediction.read.split()
            assert [step[0] for step in one.attention.steps] == [*tokens, ""]
            assert [token for _, part in one.read_parts for token in part] == list(enumerate(tokens))
            assert all(0 < weight <= 100 and 0 <= x <= 100 and 0 <= y <= 100 for _, weight, x, y in one.attention.steps)
            assert [layer.name for layer in one.attention.layers] == ["coarse", "fine"]
    similarities = [one.prediction.similarity for _, group in shown.groups for one in group]
    assert similarities == sorted(similarities, reverse=True)


def test_a_formula_that_cannot_be_drawn_is_marked(material: Material, evaluated) -> None:
    number = next(i for i, record in enumerate(material.examples) if "frac {" in record.latex)
    (alone,) = [p for p in evaluated.predictions if p.record == number]
    ((_, (shown,)),) = gallery(material.run, "builtin", evaluated._replace(predictions=[alone])).groups
    assert shown.target is None and shown.image is not None


def test_data_is_escaped(page: str) -> None:
    assert page.count("<script>") == 1 and page.count("</script>") == 1
    assert "<img src=x" not in page
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;") in page


def test_the_page_links_only_within_itself(page: str) -> None:
    assert not re.findall(r"""(?:src|href|action)=["'](?!#|data:)""", page)
    assert not re.findall(r"""url\((?!#)|@import|https?://""", page)


def test_the_page_has_the_configuration_the_data_and_the_versions(page: str) -> None:
    assert "passes over the data" in page
    assert "drawn for a test" in page and "undecodable image" in page and "train: broken0.png" in page
    assert "612 MB" in page.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert re.search(r"<dt>numpy</dt><dd>\d+\.\d+", page)


def test_a_report_is_written_atomically(material: Material, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        write_page(ReportedRun("im2latex"), tmp_path / "file" / "report.html")
    write_page(ReportedRun("im2latex"), tmp_path / "new" / "report.html")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]
