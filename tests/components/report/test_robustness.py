from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest

from components.evaluator.summary import BASELINE, CANDIDATE, Evaluation
from components.metadata import Output
from components.report.report_page import render
from components.report.robustness import robustness
from components.report.sections import Missing
from tests.components.report.conftest import Material


def tried(evaluation: Evaluation, baseline: bool = True) -> Evaluation:
    """Returns the evaluation with scores for four kinds of pictures, one of which this version does not know."""
    slices = {}
    for index, (kind, bleu) in enumerate((("native", 0.8), ("blur", 0.6), ("size-2", 0.81), ("fax", 0.2))):
        of = {CANDIDATE: {"bleu": bleu, "exact_match": 0.5, "edit_similarity": 0.9}}
        if baseline:
            of[BASELINE] = {"bleu": 0.5, "exact_match": 0.5, "edit_similarity": 0.95}
        slices[f"picture={kind}"] = {"examples": 30 if index else 10, **of}
    return dataclasses.replace(
        evaluation, slices={**evaluation.slices, **slices}, robustness={"examples": 30, "seed": 7}
    )


def test_each_kind_is_compared_with_unchanged_pictures_and_the_baseline(material: Material) -> None:
    table = robustness(tried(material.evaluation))
    assert table.titles == ["BLEU", "exact match", "edit similarity"]
    assert [row.kind for row in table.rows] == ["native", "blur", "size-2", "fax"]
    assert [row.share for row in table.rows] == [0.8, 0.6, 0.81, 0.2] and table.mark == 0.8
    assert [row.difference for row in table.rows] == ["", "−0.200", "+0.010", "−0.600"]
    assert [row.few for row in table.rows] == [True, False, False, False]
    assert table.rows[1].help == "out of focus, by a standard deviation of 1/32 em" and table.rows[3].help == ""
    assert table.rows[1].cells == [
        ("0.600", "0.500", "+0.100", "better"),
        ("0.500", "0.500", "0.000", "same"),
        ("0.900", "0.950", "−0.050", "worse"),
    ]


def test_without_a_robustness_test_there_is_a_note(material: Material, page: str) -> None:
    with pytest.raises(Missing, match=r"set evaluation\.robustness=200"):
        robustness(material.evaluation)
    assert "The model was not evaluated on other kinds of pictures" in page and 'class="strip"' not in page


@pytest.mark.parametrize("baseline", [True, False])
def test_the_page_draws_a_bar_for_each_kind(material: Material, tmp_path: Path, baseline: bool) -> None:
    folder = tmp_path / "evaluation"
    shutil.copytree(material.run.artifacts["evaluation"].uri, folder)
    tried(material.evaluation, baseline).write(folder)
    run = dataclasses.replace(material.run, artifacts={**material.run.artifacts, "evaluation": Output(str(folder))})
    page = render(run)
    table = page[page.index('<table class="pictures">') :]
    table = table[: table.index("</table>")]
    assert re.findall(r'class="bar" x="0" y="2" width="([\d.]+)"', table) == ["128.0", "96.0", "129.6", "32.0"]
    assert set(re.findall(r'class="notch" x1="([\d.]+)"', table)) == {"128.0"}
    assert ("▲" in table) == baseline
    # They are not shown as slices of the examples.
    assert "fax" not in page[: page.index("By kind of picture")]
