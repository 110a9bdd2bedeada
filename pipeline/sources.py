"""Which files of ours a piece of code runs, read from its source; the cache goes by their digest.

Followed are imports, wherever they stand (packages' `__init__` too; not those for type checkers alone), and what a file
names in quotation marks: a module of ours, as in `python -m components.serving_check.probe`, and a file beside it or
under the repository, as in `{% import "charts.html" %}`. So whatever is needed has to be named whole, in one literal.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from data.repository import REPOSITORY

if TYPE_CHECKING:
    from tfx.dsl.components.base.base_component import BaseComponent

PACKAGES = ("im2latex", "data", "trainer_module", "components", "pipeline", "kubeflow")
CHUNK = 1 << 20
# Files that may name others, and all that code may need.
_READ = (".py", ".html", ".css", ".js")
_NAMED = (*_READ, ".json", ".npz", ".pbtxt", ".toml")
_QUOTED = re.compile(r"""["']([\w./-]+)["']""")
# The parts of a statement that hold others.
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def component_files(component: BaseComponent, repository: Path = REPOSITORY) -> list[Path]:
    """The files of ours that a component's executor, its driver and the functions it is given by name need."""
    functions = [value for name, value in component.exec_properties.items() if name.endswith("_fn") and value]
    classes = [component.executor_spec.executor_class, component.driver_class]
    return files_of([*(found.__module__ for found in classes), *functions], repository)


def files_of(names: Iterable[str], repository: Path = REPOSITORY) -> list[Path]:
    """The files that modules, or functions in them, need, their own among them, sorted; of modules not ours none."""
    found: set[Path] = set()
    waiting = [path for name in names for path in _of_import(name, repository)]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            if path.suffix in _READ:
                waiting += _needed(path, path.read_text(encoding="utf-8"), repository)
    return sorted(found)


def all_files(repository: Path = REPOSITORY) -> list[Path]:
    """Every file of ours, sorted within each package."""
    found = (path for package in PACKAGES for path in sorted((repository / package).rglob("*")))
    made = re.compile(r"__pycache__|build|.*\.egg-info")
    return [path for path in found if path.is_file() and not any(map(made.fullmatch, path.parts))]


def fingerprint(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 over files in their order: name in the folder, and bytes."""
    sha = hashlib.sha256()
    for path in files:
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                content.update(chunk)
        sha.update(f"{path.relative_to(folder)}\0{content.hexdigest()}\n".encode())
    return sha.hexdigest()


@functools.cache
def _needed(path: Path, text: str, repository: Path) -> list[Path]:
    """The files that a file of this text names."""
    quoted = _QUOTED.findall(text)
    named = [name for name in quoted if name.endswith(_NAMED)]
    found = [(folder / name).resolve() for name in named for folder in (path.parent, repository)]
    files = [file for file in found if file.is_relative_to(repository) and file.is_file()]
    if path.suffix == ".py":
        package = ".".join(path.parent.relative_to(repository).parts)
        names = [*_imports(ast.parse(text).body, package), *(name for name in quoted if "." in name)]
        files += [file for name in names for file in _of_import(name, repository)]
    return files


def _imports(statements: Iterable[ast.AST], package: str) -> Iterator[str]:
    """The dotted names that statements of a module in a package import."""
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            module = importlib.util.resolve_name("." * statement.level + (statement.module or ""), package)
            yield from (f"{module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            yield from _imports(statement.orelse, package)
        else:
            for block in _BLOCKS:
                yield from _imports(getattr(statement, block, ()), package)


def _of_import(name: str, repository: Path) -> list[Path]:
    """The files that the import of a dotted name runs: its packages' and its module's; [] for what is not ours."""
    files: list[Path] = []
    place = repository
    for part in name.split(".") if name.partition(".")[0] in PACKAGES else ():
        package, module = place / part / "__init__.py", place / f"{part}.py"
        if not package.is_file():
            return [*files, module] if module.is_file() else files
        files.append(package)
        place = place / part
    return files
