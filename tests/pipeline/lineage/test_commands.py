from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd
from typer.testing import CliRunner, Result

from components.evaluator.summary import CANDIDATE, read_evaluation
from im2latex.errors import UserError
from pipeline.cli import app
from pipeline.lineage.document import SCHEMA
from pipeline.workspace import Workspace
from tests.components.report.history import History
from tests.pipeline.lineage.conftest import FIRST, SECOND, VERSIONS, store_properties

ALL = [
    [], ["1", "--down"], ["runs"], ["diff", "2020-01-01", "2020-01-02"], ["check"], ["Model", "--depth", "1"]
]  # fmt: skip


def lineage(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["lineage", *arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def test_the_lineage_of_the_serving_model_is_a_tree(workspace: Workspace) -> None:
    lines = lineage().stdout.splitlines()
    assert lines[0] == f"version {VERSIONS[SECOND]} serves now; it is of run {SECOND}: {lines[0].rsplit(': ', 1)[1]}"
    assert lines[0].endswith("5 components, 1 of them from the cache")
    outline = [line for line in lines[2:] if not line.startswith(("Pusher", "│   Evaluator", "│       Base"))]
    data = workspace.home.parent / "formulas"
    shown = [line for line in outline if ", 20" not in line]
    assert shown == [
        "PushedModel 11",
        f"pushed to {workspace.serving / 'im2latex' / VERSIONS[SECOND]}; serves now",
        "├── ModelBlessing 9, ModelEvaluation 10",
        "│   blessed",
        "│   BLEU 0.810, exact match 0.500 on 300 examples",
        "│   passed  bleu >= 0.75  (BLEU 0.8 is at least 0.75)",
        "│   └── Model 8",
        f"│       the model that was serving, version {VERSIONS[FIRST]}, pushed as artifact 6",
        "└── Model 7",
        "    └── Examples 1",
        f"        └── {data}",
    ]
    assert f"made by run {FIRST[:19]}" in next(line for line in lines if "ImportExampleGen" in line)


def test_the_lineage_shows_the_hardest_kinds_of_pictures(own_workspace: Workspace) -> None:
    folder = own_workspace.pipeline_root / f"evaluation{VERSIONS[SECOND]}"
    evaluation = read_evaluation(folder)
    bleu = {"native": 0.81, "blur": 0.7, "photo": 0.3}
    slices = {f"picture={kind}": {"examples": 9, CANDIDATE: {"bleu": value}} for kind, value in bleu.items()}
    dataclasses.replace(evaluation, slices={**evaluation.slices, **slices}).write(folder)
    assert "kinds of pictures: BLEU 0.810 as they are; lowest: photo 0.300, blur 0.700" in lineage().stdout


def test_the_conditions_of_the_run_are_above_the_lineage(own_workspace: Workspace) -> None:
    data = str(own_workspace.home.parent / "formulas")
    stored = {
        "config": "{}", "config_sha256": "c" * 64, "code_commit": "d" * 40, "code_changed": 1, "data": data,
        "data_fingerprint": "e" * 64, "python": "3.11.7", "packages": '{"tfx": "1.16.0", "other": "2"}',
        "hardware": '{"processor": "Pentium", "cores": 2, "memory": 7.8, "gpus": []}',
    }  # fmt: skip
    for run in (FIRST, SECOND):
        store_properties(own_workspace, run, stored)
    output = lineage().stdout
    assert output.splitlines()[1:4] == [
        "configuration cccccccccccc; code dddddddddddd, changed; data eeeeeeeeeeee",
        "Python 3.11.7, tfx 1.16.0",
        "2 cores of Pentium, 7.8 GiB, no GPU",
    ]
    assert f"└── {data}  (fingerprint eeeeeeeeeeee)" in output


def test_missing_files_are_reported(own_workspace: Workspace) -> None:
    (own_workspace.home.parent / "formulas").rmdir()
    (own_workspace.pipeline_root / "examples").rmdir()
    output = lineage().stdout
    assert f"{own_workspace.home.parent / 'formulas'}  (gone)" in output and "Examples 1: its files are gone" in output


def test_descendants_of_data_are_found_by_its_folder(workspace: Workspace) -> None:
    output = lineage(str(workspace.home.parent / "formulas"), "--down").stdout
    for version in VERSIONS.values():
        assert output.count(f"pushed to {workspace.serving / 'im2latex' / version}") == 1
    assert "Examples 1, what was made from it" in output and ", failed" in output
    both = lineage("7", "--up", "--down", "--paths").stdout
    assert "Examples 1" in both and "Model 7, what was made from it" in both
    assert str(workspace.pipeline_root / f"model{VERSIONS[SECOND]}") in both


def test_runs_are_listed_in_order(workspace: Workspace) -> None:
    heading, *rows = lineage("runs").stdout.splitlines()
    assert heading.split() == ["run", "state", "took", "ran", "cached", "BLEU", "blessed", "pushed"]
    assert [row.split()[0] for row in rows] == [f"2020-01-0{day}T10:00:05" for day in (1, 2, 3)]
    assert rows[1].split()[-5:] == ["4", "1", "0.810", "yes", VERSIONS[SECOND]]
    assert "failed: Trainer" in rows[2]
    last = lineage("runs", "--last", "1").stdout.splitlines()
    assert last[0].startswith("2 earlier runs are not shown") and last[2].split() == rows[2].split()
    assert lineage("runs", "--last", "0").stdout.splitlines()[1:] == rows


def test_two_runs_are_compared(workspace: Workspace) -> None:
    output = lineage("diff", "2020-01-01", "2020-01-02").stdout.splitlines()
    assert output[0].split() == [FIRST[:19], SECOND[:19]]
    assert [line.split() for line in output if line.startswith("  ") and line.strip()][1:] == [
        ["pushed", *VERSIONS.values()], ["bleu", "0.8", "0.81"]
    ]  # fmt: skip
    assert lineage("diff", FIRST, FIRST).stdout == "nothing differs\n"


def test_check_has_an_exit_status_and_repairs_on_request(own_workspace: Workspace) -> None:
    assert lineage("check").stdout == "no problems\n"
    past = History(own_workspace.metadata, "im2latex")
    past.execution("2020-01-04T10:00:05", "Trainer", mlmd.Execution.RUNNING)
    output = lineage("check", status=4).stdout
    assert "1 killed" in output and "repair: the same command continues from there" in output
    assert "Trainer of run 2020-01-04T10:00:05 was left running" in output
    with own_workspace.lock():
        assert "killed" not in lineage("check").stdout
    assert lineage("check", "--repair").stdout == "no problems\n"
    assert lineage("check").stdout == "no problems\n"


def test_long_lists_of_problems_are_cut_except_in_json(own_workspace: Workspace) -> None:
    past = History(own_workspace.metadata, "im2latex")
    for i in range(12):
        past.artifact("Model", f"/gone/{i}")
    assert "and 2 more; --json lists all" in lineage("check", status=4).stdout
    findings = json.loads(lineage("check", "--json", status=4).stdout)["findings"]
    assert len(findings) == 12 and all(finding["repair"].startswith("restore them") for finding in findings)


@pytest.mark.parametrize("arguments", ALL, ids=" ".join)
def test_json_matches_its_schema(own_workspace: Workspace, arguments: list[str]) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="not installed: jsonschema")
    past = History(own_workspace.metadata, "im2latex")
    past.execution("2020-01-04T10:00:05", "Trainer", mlmd.Execution.RUNNING)
    schema = json.loads(SCHEMA.read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    printed = json.loads(lineage(*arguments, "--json", status=4 if arguments == ["check"] else 0).stdout)
    validator.validate(printed)
    for name, value in printed.items():
        assert not validator.is_valid({key: other for key, other in printed.items() if key != name}), name
        if isinstance(value, list) and value:
            assert not validator.is_valid(printed | {name: [*value, {}]})


def test_json_has_the_content_of_the_tree(workspace: Workspace) -> None:
    printed = json.loads(lineage("--json").stdout)
    assert printed["artifact"] == 11 and printed["format"] == "im2latex-lineage/1"
    assert [run["id"] for run in printed["runs"]] == [FIRST, SECOND]
    evaluator = next(e for e in printed["executions"] if e["component"] == "Evaluator")
    assert evaluator["inputs"] == {"in": [1, 7, 8]} and evaluator["outputs"] == {"blessing": [9], "evaluation": [10]}


def test_only_one_output_format_can_be_chosen(workspace: Workspace) -> None:
    assert lineage("--dot").stdout.startswith("digraph lineage {")
    assert lineage("7", "--mermaid").stdout.startswith("flowchart LR")
    with pytest.raises(UserError, match="choose one of them"):
        CliRunner().invoke(app, ["lineage", "--dot", "--json"], catch_exceptions=False)


def test_help_and_errors_do_not_import_tfx(workspace: Workspace, tmp_path: Path) -> None:
    code = (
        "import sys, pipeline.cli as cli\n"
        "try:\n    cli.main()\n"
        "finally:\n    print([m for m in ('tfx', 'tensorflow', 'apache_beam') if m in sys.modules], file=sys.stderr)"
    )
    for arguments, status in ((["--help"], 0), ([], 0), (["runs"], 0), (["check"], 0), (["nothing"], 1)):
        command = [sys.executable, "-c", code, "lineage", *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (ran.returncode, ran.stderr.splitlines()[-1]) == (status, "[]"), ran.stderr
        assert len(ran.stderr.splitlines()) == 1 + status


def test_help_is_fast(workspace: Workspace) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "lineage", "--help"]
    subprocess.run(command, check=True, capture_output=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # CPU time, which does not depend on the load of the machine; it is 0.3 s.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
