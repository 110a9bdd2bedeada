"""Checks what SECURITY.md says about the dependencies and the code."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


@pytest.fixture
def audit() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("audit", str(ROOT / ".ci" / "audit"))
    spec = importlib.util.spec_from_loader("audit", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_packages_of_both_stacks_are_audited(audit: ModuleType) -> None:
    older, newer = audit.locked("3.11"), audit.locked("3.13")
    assert "tfx==1.16.0" in older and "pyarrow==10.0.1" in older
    assert "tfx==1.21.0" in newer and not any(package.startswith("pyarrow==10") for package in newer)
    for packages in (older, newer):
        assert len(packages) > 200 and len({package.split("==")[0] for package in packages}) == len(packages)


@pytest.mark.parametrize(("statuses", "expected"), [({}, 0), ({"3.12": 1}, 1)])
def test_a_finding_or_an_unknown_package_fails_the_audit(
    statuses: dict[str, int], expected: int, audit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["audit", "-s", "osv"])
    asked: dict[str, list[str]] = {}

    def run(command: list[Any]) -> subprocess.CompletedProcess[str]:
        file = Path(command[command.index("--requirement") + 1])
        asked[file.stem] = [*map(str, command), *file.read_text().split()]
        return subprocess.CompletedProcess(command, statuses.get(file.stem, 0))

    monkeypatch.setattr(subprocess, "run", run)
    assert audit.main() == expected
    assert {"3.10", "3.11", "3.12"} <= set(asked)
    for command in asked.values():
        assert "--strict" in command and command[-1].count("==") == 1
        assert command[command.index("-s") + 1] == "osv"
        assert [command[i + 1] for i, word in enumerate(command) if word == "--ignore-vuln"] == audit.explained()


def test_every_finding_that_is_let_pass_is_explained(audit: ModuleType) -> None:
    table = [line for line in SECURITY.splitlines() if line.startswith(("| CVE", "| GHSA", "| PYSEC"))]
    assert [row.split()[1] for row in table] == audit.explained()


def test_the_tests_in_security_md_exist() -> None:
    words = SECURITY.replace("`", " ").replace(",", " ").replace(";", " ").split()
    named = {word for word in words if word.endswith(".py") and "test_" in word}
    assert len(named) > 8
    for name in named:
        assert list((ROOT / "tests").rglob(name.rpartition("/")[2])), name


MODULES = {"pickle", "marshal", "shelve", "dill", "xml", "lxml", "joblib", "cloudpickle"}
CALLS = {"eval", "exec", "extractall", "system", "popen", "mktemp", "unsafe_load", "full_load", "load_model"}


def faults(source: str) -> list[str]:
    """Returns the names in a source that could execute the content of a file or a request."""
    problems = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            problems += [name for name in names if name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            owner = getattr(getattr(node.func, "value", None), "id", "")
            truths = {word.arg for word in node.keywords if getattr(word.value, "value", None) is True}
            problems += [name] if name in CALLS or (owner, name) == ("yaml", "load") else []
            problems += sorted(truths & {"shell", "allow_pickle"})
    return problems


def test_no_code_executes_the_content_of_a_file_or_a_request() -> None:
    bad = "import pickle\nfrom xml import sax\neval(a)\nyaml.load(f)\nrun(c, shell=True)\ntar.extractall()\n"
    assert faults(bad) == ["pickle", "xml", "eval", "load", "shell", "extractall"]
    assert faults("json.load(f)\nyaml.safe_load(f)\nmodel.evaluate()") == []
    folders = ("im2latex", "data", "trainer_module", "components", "pipeline", "kubeflow")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 80
    assert {
        str(path.relative_to(ROOT)): problems for path in sources if (problems := faults(path.read_text("utf-8")))
    } == {}
