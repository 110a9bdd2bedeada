"""A recorded run, run again by the real command: the same, and what another seed and other data change."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.comparison import OTHER, SAME
from tests.end_to_end.conftest import Project


def reproduce(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", "reproduce", "--json", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=project.environment())


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {one["what"]: one["verdict"] for one in document["made"]}


def first_run(project: Project) -> str:
    from pipeline.lineage.store import read, run_ids
    from pipeline.workspace import Workspace

    return read(Workspace(project.home), run_ids)[0]


def test_the_same_again_is_the_same_to_the_last_bit(project: Project, tmp_path: Path) -> None:
    before = project.executions(), project.versions()
    again = reproduce(project, first_run(project), "--out", str(tmp_path / "again"))
    assert again.returncode == 0, again.stdout + again.stderr
    document = json.loads(again.stdout)
    assert document["same"] is True
    assert verdicts(document) == dict.fromkeys(
        (
            "examples", "schema", "statistics", "anomalies", "vocabulary", "transformed examples", "weights",
            "model compared with", "predictions", "scores", "blessing",
        ),
        SAME,
    )  # fmt: skip
    assert {one["verdict"] for one in document["with"]} == {SAME}
    assert (project.executions(), project.versions()) == before
    assert (tmp_path / "again" / "serving" / "im2latex").is_dir()


def test_another_seed_learns_other_weights_from_the_same_examples(project: Project) -> None:
    again = reproduce(project, first_run(project), "--set", "training.seed=1", "--to", "Trainer")
    assert again.returncode == 4, again.stdout + again.stderr
    document = json.loads(again.stdout)
    assert [what for what, verdict in verdicts(document).items() if verdict == OTHER] == ["weights"]
    assert {one["name"] for one in document["with"] if one["verdict"] == OTHER} == {"training.seed"}


def test_other_data_is_refused_and_with_anyway_it_differs(project: Project) -> None:
    other = (first_run(project), "--set", "data.seed=2")
    refused = reproduce(project, *other)
    assert refused.returncode == 1
    assert refused.stderr.startswith("im2latex: the data of run ") and "is not what it was" in refused.stderr
    assert refused.stderr.count("\n") == 1 and refused.stdout == ""
    anyway = reproduce(project, *other, "--anyway", "--to", "StatisticsGen")
    assert anyway.returncode == 4, anyway.stderr
    document = json.loads(anyway.stdout)
    assert verdicts(document) == {"examples": OTHER, "schema": SAME, "statistics": OTHER}
    assert [one["name"] for one in document["with"] if one["verdict"] == OTHER] == ["data", "data.seed"]
