"""The whole pipeline with its metadata in a real MariaDB on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipeline.config.sections import COMPONENTS
from tests.platforms import mariadb
from tests.platforms.mariadb import PASSWORD, Server
from tests.project import SETTINGS, Project

pytestmark = pytest.mark.skipif(not mariadb.INSTALLED, reason=mariadb.MISSING)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with mariadb.running(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


@pytest.fixture(scope="module")
def project(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A workspace after one run whose metadata went to the server; its output is in `first_run.txt`."""
    folder = tmp_path_factory.mktemp("project")
    project = Project.of(folder, f'{SETTINGS}\n[metadata]\nconnection = "{server.address()}"\n')
    environment = {**project.environment(), "IM2LATEX_METADATA_PASSWORD": PASSWORD}
    first = subprocess.run(project.command(), capture_output=True, text=True, timeout=600, env=environment)
    assert first.returncode == 0, first.stdout + first.stderr
    (folder / "first_run.txt").write_text(first.stdout + first.stderr, "utf-8")
    return project


def lineage(project: Project, *arguments: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", "lineage", *arguments]
    environment = {**project.environment(), "IM2LATEX_METADATA_PASSWORD": password}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_the_whole_pipeline_keeps_its_metadata_in_the_database(project: Project) -> None:
    assert not list(project.home.glob("*.sqlite*"))
    reported = lineage(project, "runs", "--json")
    assert reported.returncode == 0, reported.stderr
    (run,) = json.loads(reported.stdout)["runs"]
    assert (run["state"], run["ran"], run["cached"]) == ("done", len(COMPONENTS), 0)
    assert run["blessed"] is True and [run["pushed"]] == project.versions()


def test_lineage_of_the_serving_model_is_found_without_an_address(project: Project) -> None:
    reported = lineage(project)
    assert reported.returncode == 0, reported.stderr
    (version,) = project.versions()
    assert f"version {version} serves now" in reported.stdout
    (data,) = (project.home / "data").iterdir()
    for part in (
        "Pusher, ",
        "ModelBlessing ",
        "passed  bleu >= 0 ",
        "Trainer, ",
        "48 train + 8 eval + 16 test",
        str(data),
    ):
        assert part in reported.stdout
    assert lineage(project, "check").stdout == "no problems\n"


def test_the_conditions_of_a_run_are_stored_with_it(project: Project) -> None:
    reported = json.loads(lineage(project, "--json").stdout)
    (run,) = reported["runs"]
    stored = run["properties"]
    assert json.loads(stored["config"])["data.train"] == 48
    assert "metadata.connection" not in stored["config"]
    assert json.loads(stored["packages"])["tfx"] and json.loads(stored["hardware"])["cores"] >= 1
    assert stored["workspace"] == str(project.home) and len(stored["data_fingerprint"]) == 64


def test_the_password_is_in_no_file_and_no_output(project: Project) -> None:
    files = [path for path in project.config.parent.rglob("*") if path.is_file()]
    assert len(files) > 50
    for form in (PASSWORD, "p%40ss", "ss/w:rd"):
        assert [path for path in files if form.encode() in path.read_bytes()] == []
    # TFX writes its connection to the log; so it was looked at in the right place.
    log = next((project.home / "logs").glob("*.log")).read_text("utf-8")
    assert "Using connection config" in log and 'user: "writer"' in log
    assert PASSWORD not in lineage(project, "--json").stdout + lineage(project, "runs").stdout


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_password_is_one_sentence_that_does_not_repeat_it(
    project: Project, password: str, server: Server
) -> None:
    reported = lineage(project, password=password)
    assert reported.returncode == 1 and reported.stdout == ""
    assert reported.stderr.splitlines() == [
        f"im2latex: {server.address()} refuses the user; is IM2LATEX_METADATA_PASSWORD right, and may the user "
        "use the database?"
    ]


def test_reading_makes_no_database(project: Project, server: Server) -> None:
    for _ in range(2):
        reported = lineage(project, "--connection", server.address("elsewhere"))
        assert reported.returncode == 1 and "elsewhere" in reported.stderr and len(reported.stderr.splitlines()) == 1
