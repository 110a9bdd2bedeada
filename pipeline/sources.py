"""Finds the first-party files that a piece of code depends on, from its source; their digest is part of cache keys.

It follows imports at any level of a file, except those for type checkers, and includes packages' `__init__`. It also
follows quoted names: a first-party module, as in `python -m components.serving_check.probe`, and a file in the same
folder or relative to the repository, as in `{% import "charts.html" %}`. So a dependency must be written in full, in
one string literal.
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
from trainer_module import reader

if TYPE_CHECKING:
    from tfx.dsl.components.base.base_component import BaseComponent

PACKAGES = ("im2latex", "data", "trainer_module", "components", "pipeline", "kubeflow")
CHUNK = 1 << 20
# Suffixes of files that can refer to others, and of all files that can be dependencies.
_READ = (".py", ".html", ".css", ".js")
_NAMED = (*_READ, ".json", ".npz", ".pbtxt", ".toml")
_QUOTED = re.compile(r"""["']([\w./-]+)["']""")
# Fields of a statement that contain other statements.
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def component_files(component: BaseComponent, repository: Path = REPOSITORY) -> list[Path]:
    """Returns the first-party files that a component's executor, driver and functions (properties `*_fn`) depend on."""
    functions = [value for name, value in component.exec_properties.items() if name.endswith("_fn") and value]
    classes = [component.executor_spec.executor_class, component.driver_class]
    return files_of([*(cls.__module__ for cls in classes), *functions], repository)


def files_of(names: Iterable[str], repository: Path = REPOSITORY) -> list[Path]:
    """Returns the first-party files that modules, or functions in modules, depend on, including their own; sorted."""
    visited: set[Path] = set()
    waiting = [path for name in names for path in _of_import(name, repository)]
    while waiting:
        path = waiting.pop()
        if path not in visited:
            visited.add(path)
            if path.suffix in _READ:
                waiting += _needed(path, path.read_text(encoding="utf-8"), repository)
    return sorted(visited)


def all_files(repository: Path = REPOSITORY) -> list[Path]:
    """Returns all first-party files, package by package, sorted within each."""
    paths = (path for package in PACKAGES for path in sorted((repository / package).rglob("*")))
    generated = re.compile(r"__pycache__|build|.*\.egg-info")
    return [path for path in paths if path.is_file() and not any(map(generated.fullmatch, path.parts))]


def fingerprint(folder: Path, files: Iterable[Path]) -> str:
    """Returns the SHA-256 of files, in the given order: of their paths relative to the folder, and their bytes."""
    sha = hashlib.sha256()
    for path in files:
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                content.update(chunk)
        sha.update(f"{path.relative_to(folder)}\0{content.hexdigest()}\n".encode())
    return sha.hexdigest()


def start_fingerprint(start: str) -> str:
    """Returns the SHA-256 of the model that a training starts from, `training.start_from`; "" if it is not here."""
    if start == reader.NAME:
        return reader.fingerprint()
    path = Path(start)
    if start and path.is_file():
        return fingerprint(path.parent, [path])
    files = sorted(file for file in path.rglob("*") if file.is_file()) if start else []
    return fingerprint(path, files) if files else ""


@functools.cache
def _needed(path: Path, text: str, repository: Path) -> list[Path]:
    """Returns the files that a file with this text refers to."""
    quoted = _QUOTED.findall(text)
    named = [name for name in quoted if name.endswith(_NAMED)]
    candidates = [(folder / name).resolve() for name in named for folder in (path.parent, repository)]
    files = [file for file in candidates if file.is_relative_to(repository) and file.is_file()]
    if path.suffix == ".py":
        package = ".".join(path.parent.relative_to(repository).parts)
        names = [*_imports(ast.parse(text).body, package), *(name for name in quoted if "." in name)]
        files += [file for name in names for file in _of_import(name, repository)]
    return files


def _imports(statements: Iterable[ast.AST], package: str) -> Iterator[str]:
    """Yields the dotted names that statements import; `package` resolves relative imports."""
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
    """Returns the files that an import executes: those of the packages and of the module; [] if not first-party."""
    files: list[Path] = []
    folder = repository
    for part in name.split(".") if name.partition(".")[0] in PACKAGES else ():
        package, module = folder / part / "__init__.py", folder / f"{part}.py"
        if not package.is_file():
            return [*files, module] if module.is_file() else files
        files.append(package)
        folder = folder / part
    return files
