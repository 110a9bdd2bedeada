from __future__ import annotations

from pathlib import Path

import pytest

from components.metadata import Output, origins, properties, read_steps, seen_from
from tests.components.report.history import CACHED, FAILED, History

FIRST, SECOND = "2020-01-01T10:00:00.5", "2020-01-02T10:00:00.5"


@pytest.fixture
def history(tmp_path: Path) -> History:
    """A run of two components; a second run takes both from the cache, then its third component fails."""
    past = History(tmp_path / "metadata.sqlite")
    examples = past.artifact("Examples", "/data/1", span=0)
    past.execution(FIRST, "ImportExampleGen", outputs={"examples": examples}, input_base="/formulas")
    model, logs = past.artifact("Model", "/model/2"), past.artifact("ModelRun", "/logs/2")
    past.execution(FIRST, "Trainer", outputs={"model": model, "model_run": logs}, inputs=[examples])
    past.execution(SECOND, "ImportExampleGen", CACHED, {"examples": examples})
    past.execution(SECOND, "Trainer", CACHED, {"model": model, "model_run": logs}, [examples])
    past.execution(SECOND, "Evaluator", FAILED, inputs=[examples, model])
    return past


def test_a_cached_step_refers_to_the_original_execution(history: History) -> None:
    first, _ = read_steps(history.store, FIRST)
    second, outputs = read_steps(history.store, SECOND)
    assert [(step.component, step.state) for step in first] == [("ImportExampleGen", "ran"), ("Trainer", "ran")]
    assert [(step.component, step.state) for step in second] == [
        ("ImportExampleGen", "cached"), ("Trainer", "cached"), ("Evaluator", "failed")
    ]  # fmt: skip
    assert [(step.execution, step.run) for step in second] == [(1, FIRST), (2, FIRST), (5, SECOND)]
    (worked,) = history.store.get_executions_by_id([2])
    assert second[1].started == worked.create_time_since_epoch > 1_500_000_000_000
    assert second[1].ended == worked.last_update_time_since_epoch
    assert outputs == {
        ("ImportExampleGen", "examples"): Output("/data/1", 1, {"span": 0}),
        ("Trainer", "model"): Output("/model/2", 2, {}),
        ("Trainer", "model_run"): Output("/logs/2", 3, {}),
    }
    assert properties(history.store, second[0]) == {"input_base": "/formulas"}


def test_origins_are_the_same_for_a_run_from_the_cache(history: History) -> None:
    first, second = (read_steps(history.store, name)[0] for name in (FIRST, SECOND))
    assert origins(first) == origins(second)
    assert [step.state for step in seen_from(origins(second), FIRST)] == ["ran", "ran"]
    assert [step.state for step in seen_from(origins(second), SECOND)] == ["cached", "cached"]


def test_an_unknown_run_has_no_steps(history: History) -> None:
    assert read_steps(history.store, "2020") == ([], {})
