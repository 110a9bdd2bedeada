from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.metadata import RAN
from data.repository import REPOSITORY
from im2latex.errors import UserError
from pipeline.cli import app
from pipeline.lineage.graph import Artifact, Execution, LineageGraph, Run, read_store
from pipeline.lineage.page.lineage_page import ServingModel, document, render, write_page
from pipeline.lineage.run_summary import DONE, RunSummary
from pipeline.lineage.store import read
from pipeline.workspace import Workspace
from tests.components.report.history import History
from tests.pipeline.lineage.page.page_workspace import HOSTILE, HOSTILE_RUN, fill

RUNS = 8
REPORT_STYLE = REPOSITORY / "components" / "report" / "report.css"


def content(page: str) -> dict[str, Any]:
    """Returns the content that a page was written with."""
    (packed,) = re.findall(r'<script type="application/octet-stream" id="store">([A-Za-z0-9+/=]+)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    home = tmp_path_factory.mktemp("home") / "workspace"
    fill(home, RUNS)
    return Workspace(home)


@pytest.fixture(scope="module")
def page(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("page") / "new" / "lineage.html"
    write_page(workspace, file)
    return file.read_text("utf-8")


def test_the_page_has_the_content_of_the_store(workspace: Workspace, page: str) -> None:
    graph = read(workspace, read_store)
    page_content = content(page)
    assert [run["run"] for run in page_content["runs"]] == list(graph.runs) and len(graph.runs) == RUNS + 1
    assert [row[0] for row in page_content["executions"]] == list(graph.executions)
    assert [row[0] for row in page_content["artifacts"]] == list(graph.artifacts)
    values = page_content["values"]
    for row, execution in zip(page_content["executions"], graph.executions.values(), strict=True):
        pairs = [values[index] for index in row[7]]
        assert dict(zip(pairs[::2], pairs[1::2], strict=True)) == dict(execution.properties)
        assert {values[key]: ids for key, *ids in row[8]} == {key: list(ids) for key, ids in execution.inputs.items()}
        assert {values[key]: ids for key, *ids in row[9]} == {key: list(ids) for key, ids in execution.outputs.items()}


def test_repeated_values_are_stored_once(page: str) -> None:
    page_content = content(page)
    for table in ("values", "layouts", "sections"):
        texts = [json.dumps(value, sort_keys=True) for value in page_content[table]]
        assert len(texts) == len(set(texts)), table
    # Layouts: the first run, runs with a new training, the run from the cache, the failed run.
    assert len(page_content["layouts"]) <= 4


def test_a_run_shows_inputs_that_other_runs_made(page: str) -> None:
    page_content = content(page)
    again = page_content["runs"][4]
    assert again["cached"] == 11
    assert len(again["blocks"]) == 11 and all(block[0] for block in again["blocks"])
    made_here = [run["blocks"] for run in page_content["runs"] if run["cached"] < 11]
    # A run with a training compares with a version of another run, which is in its graph too.
    foreign = [block for blocks in made_here for block in blocks if not block[0]]
    pushed = {row[0] for row in page_content["artifacts"] if page_content["values"][row[1]] == "PushedModel"}
    assert foreign and {artifact for _, artifact in foreign} <= pushed


def test_the_content_policy_allows_only_the_script_of_the_page(page: str) -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.replace("&#39;", "'").split("; "))
    (style,), (script,) = (
        re.findall(r"<style>(.*?)</style>", page, re.S),
        re.findall(r"<script>(.*?)</script>", page, re.S),
    )
    for name, text in (("style-src", style), ("script-src", script)):
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert rules["default-src"] == "'none'" and not {"connect-src", "font-src"} & set(rules)
    written = re.sub(r"[A-Za-z0-9+/=]{100,}", "", page)  # without the packed content
    assert set(re.findall(r"https?://[\w./]+", written)) == {"http://www.w3.org/2000/svg"}  # a namespace, not a link
    assert not re.findall(r"\b(?:src|href)=\"(?!#|data:)", page)


def test_hostile_names_are_never_verbatim_in_the_html(page: str) -> None:
    assert "onerror" not in page and HOSTILE_RUN not in page
    page_content = content(page)
    assert HOSTILE in page_content["values"] and page_content["runs"][-1]["run"] == HOSTILE_RUN


def test_the_page_has_the_colours_of_the_report() -> None:
    def colours(text: str) -> dict[str, str]:
        return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", text))

    light, dark = re.split(r"@media \(prefers-color-scheme: dark\)", REPORT_STYLE.read_text("utf-8"), maxsplit=1)
    style = (REPOSITORY / "pipeline" / "lineage" / "page" / "page.css").read_text("utf-8")
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", style)
    ours = {name: (one, other) for name, one, other in pairs if name in colours(light)}
    assert len(ours) >= 10
    assert ours == {name: (colours(light)[name], colours(dark)[name]) for name in ours}


def test_missing_files_and_the_serving_version_are_marked(workspace: Workspace, page: str) -> None:
    page_content = content(page)
    types = {row[0]: page_content["values"][row[1]] for row in page_content["artifacts"]}
    gone = {row[0] for row in page_content["artifacts"] if row[6]}
    assert {types[i] for i in types if i not in gone} == {"ModelEvaluation"}  # only these files exist
    (run,) = [run for run in page_content["runs"] if run["serving"]]
    assert types[page_content["serving"]] == "PushedModel"
    assert workspace.newest_model().name == run["pushed"]


def test_a_store_with_nothing_serving_says_why(tmp_path: Path) -> None:
    History(tmp_path / "metadata.sqlite").execution("2020-01-01T10:00:00", "ImportExampleGen")
    write_page(Workspace(tmp_path), tmp_path / "lineage.html")
    page_content = content((tmp_path / "lineage.html").read_text("utf-8"))
    assert page_content["serving"] == 0 and "no model was pushed" in page_content["about"]["nothing"]


def test_executions_without_a_run_and_unknown_ids_are_accepted() -> None:
    graph = LineageGraph(
        {1: Artifact(1, "Model", "/m/1", made_by=9, copy_of=77)},
        {
            9: Execution(9, "Trainer", "tfx.Trainer", "p", "r", RAN, 1, 2, {}, {"examples": [55]}, {"model": [1]}),
            10: Execution(10, "Resolver", "tfx.Resolver", "", "", RAN, 1, 2, {}, {}, {"model": [1]}),
        },
        {"r": Run("r", 1)},
    )
    summaries = {"r": RunSummary("r", DONE, "", 1, 0.001, 1, 0, {}, None, "")}
    page_content = content(render(document(graph, summaries, {"r": {}}, ServingModel(0, "nothing"), {1}, "here")))
    assert [row[3] for row in page_content["executions"]] == [0, -1]
    assert page_content["runs"][0]["blocks"] == [[9, 1]]


def test_the_page_is_written_atomically(workspace: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "lineage.html"
    file.mkdir()
    with pytest.raises(UserError, match=re.escape(f"cannot write {file}: Is a directory; choose another path")):
        write_page(workspace, file)
    assert list(tmp_path.iterdir()) == [file] and not list(file.iterdir())


def test_the_page_does_not_change_the_store(workspace: Workspace, tmp_path: Path) -> None:
    before = workspace.metadata.read_bytes()
    write_page(workspace, tmp_path / "lineage.html")
    assert workspace.metadata.read_bytes() == before


def test_the_command_writes_to_the_workspace_and_prints_the_path(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IM2LATEX_HOME", str(workspace.home))
    result = CliRunner().invoke(app, ["lineage", "page"], catch_exceptions=False)
    file = workspace.home / "reports" / "lineage.html"
    assert result.exit_code == 0 and result.output == f"{file}\n"
    assert content(file.read_text("utf-8"))["about"]["source"] == str(workspace.metadata)


def test_a_workspace_without_runs_has_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IM2LATEX_HOME", str(tmp_path))
    with pytest.raises(UserError, match="there are no runs"):
        CliRunner().invoke(app, ["lineage", "page", "--out", str(tmp_path / "x.html")], catch_exceptions=False)
    assert not (tmp_path / "x.html").exists()
