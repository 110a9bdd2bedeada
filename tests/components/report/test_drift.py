"""The section of the report on drift."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from components.example_validator import drift
from components.metadata import Output
from components.report.drift import examples, service
from components.report.report_page import render
from components.report.sections import Missing
from im2latex.drift import Comparison
from im2latex.monitor import Monitored
from tests.components.report.conftest import Material

WIDE, SAME = Comparison("width", 120.5, 240.25, 0.4321, 0.1), Comparison("unknown", 0.001, 0.002, 0.001, 0.01)


def with_drift(material: Material, folder: Path, comparison: drift.Drift) -> Material:
    drift.write(comparison, str(folder))
    artifacts = {**material.run.artifacts, "anomalies": Output(str(folder), 3)}
    return dataclasses.replace(material, run=dataclasses.replace(material.run, artifacts=artifacts))


def test_the_report_shows_how_new_examples_and_a_service_differ(material: Material, tmp_path: Path) -> None:
    run = with_drift(material, tmp_path, drift.Drift("7", "", 260, (WIDE, SAME))).run
    new_examples = examples(run)
    assert "260 training examples" in new_examples.sentence and "version 7" in new_examples.sentence
    assert [(row.current, row.distance, row.threshold, row.has_drifted) for row in new_examples.rows] == [
        ("240.250", "0.432", "0.1", True),
        ("0.002", "0.001", "0.01", False),
    ]
    served = Monitored("8", "2026-11-27T09:00:00Z", 1200, [WIDE])
    page = render(dataclasses.replace(run, service=served))
    section = page[page.index('<section id="drift"') : page.index('<section id="confusions"')]
    assert section.count("✗ drifted") == 2 and section.count("✓ none") == 1
    assert "Version 8 has read 1,200 pictures since 2026-11-27T09:00:00Z." in section


def test_a_missing_comparison_is_reported(material: Material, tmp_path: Path, page: str) -> None:
    with pytest.raises(Missing, match="were not compared"):
        examples(material.run)
    with pytest.raises(Missing, match="Nothing serves to compare with."):
        examples(with_drift(material, tmp_path, drift.Drift(reason="nothing serves to compare with")).run)
    (tmp_path / drift.FILE).write_text("{}")
    with pytest.raises(Missing, match="Another version of the pipeline"):
        examples(dataclasses.replace(material.run, artifacts={"anomalies": Output(str(tmp_path), 3)}))
    with pytest.raises(Missing, match="--service ADDRESS"):
        service(material.run)
    assert "The examples were not compared" in page and "--service ADDRESS" in page
