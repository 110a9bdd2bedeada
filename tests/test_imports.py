"""Imports point one way: a package imports none of those that come after it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.repository import REPOSITORY

PACKAGES = ("im2latex", "data", "trainer_module", "components", "pipeline", "kubeflow")
# Within data: a folder imports only earlier ones; the modules next to the folders are the first.
SUBJECTS = ("latex", "spelling", "dataset", "importers", "formulas", "pictures")
HEAVY = {"tensorflow", "tfx", "keras", "tensorflow_transform", "tensorflow_model_analysis", "apache_beam"}


def modules(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Returns the dotted names that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}, line {node.lineno}: name the module in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_by(paths: list[Path]) -> dict[str, set[str]]:
    return {str(path.relative_to(REPOSITORY)): set(imports(path)) for path in paths}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_in_one_direction(package: str) -> None:
    after = {*PACKAGES[PACKAGES.index(package) + 1 :], "tests"}
    imported = imported_by(modules(package))
    assert imported
    wrong = {file: {name for name in names if name.partition(".")[0] in after} for file, names in imported.items()}
    assert {file: names for file, names in wrong.items() if names} == {}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_folder_of_data_is_accepted_too(subject: str) -> None:
    after = {f"data.{name}" for name in SUBJECTS[SUBJECTS.index(subject) + 1 :]}
    imported = imported_by(modules(f"data/{subject}"))
    assert imported
    wrong = {
        file: {name for name in names if ".".join(name.split(".")[:2]) in after} for file, names in imported.items()
    }
    assert {file: names for file, names in wrong.items() if names} == {}


def test_every_folder_of_data_has_a_place_in_that_order() -> None:
    assert {path.parent.name for path in (REPOSITORY / "data").glob("*/__init__.py")} == set(SUBJECTS)


def test_data_needs_nothing_heavy() -> None:
    wrong = {
        file: {name.partition(".")[0] for name in names} & HEAVY for file, names in imported_by(modules("data")).items()
    }
    assert {file: names for file, names in wrong.items() if names} == {}


def test_the_reader_needs_three_packages_alone_and_the_service_four_more() -> None:
    imported: dict[bool, set[str]] = {True: set(), False: set()}
    for file, names in imported_by(modules("im2latex")).items():
        imported[file.startswith("im2latex/serving/")] |= {name.partition(".")[0] for name in names}
    assert imported[False] - sys.stdlib_module_names == {"im2latex", "numpy", "PIL", "onnxruntime"}
    served = {"starlette", "uvicorn", "h11", "prometheus_client"}  # and python_multipart, for Starlette's forms
    assert imported[True] - sys.stdlib_module_names == {"im2latex", "numpy", "PIL"} | served


def test_reading_a_store_and_moving_versions_do_not_import_tfx() -> None:
    for name in ("metadata", "serving_folder"):
        tree = ast.parse((REPOSITORY / f"components/{name}.py").read_text("utf-8"))
        at_once = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert at_once
        assert {str(node.module).partition(".")[0] for node in at_once} & HEAVY == set()


def test_keras_and_tfx_are_imported_by_their_own_names() -> None:
    for package in PACKAGES:
        for file, names in imported_by(modules(package)).items():
            assert not any(name.startswith(("tensorflow.keras", "tfx.v1")) for name in names), file
            tree = ast.walk(ast.parse((REPOSITORY / file).read_text("utf-8")))
            attributes = [ast.unparse(node) for node in tree if isinstance(node, ast.Attribute)]
            assert not any(name.startswith("tf.keras") for name in attributes), file
