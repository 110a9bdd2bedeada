from __future__ import annotations

from components.metadata import FAILED, RAN, Step
from components.report.reported_run import ReportedRun


def test_the_first_component_that_failed_is_named() -> None:
    steps = [Step("Trainer", RAN), Step("Evaluator", FAILED)]
    assert ReportedRun("p", steps=steps).failed == "Evaluator"
    assert ReportedRun("p", steps=steps[:1]).failed == ReportedRun("p").failed == ""
