from __future__ import annotations

import json
import shutil
import subprocess
import sys
from modulefinder import ModuleFinder
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tfx.dsl.components.base.base_component import BaseComponent

from components.serving_check import fresh_process
from data.repository import REPOSITORY
from pipeline.config import load_config
from pipeline.config.sections import WITH_TUNER, DataConfig
from pipeline.pipeline import create_pipeline
from pipeline.running.examples import examples_folder
from pipeline.sources import PACKAGES, component_files, files_of, fingerprint
from pipeline.workspace import Workspace

# First-party functions that TFX calls by name.
FUNCTIONS = {
    "Transform": "trainer_module.preprocessing.preprocessing_fn",
    "Tuner": "trainer_module.tuner.tuner_fn",
    "Trainer": "trainer_module.trainer.run_fn",
}
WITHOUT_CODE = {"ImportSchemaGen", "StatisticsGen"}


def make_components() -> dict[str, BaseComponent]:
    built = create_pipeline(
        load_config(settings=["tuning.trials=2"]), data="/data", pipeline_root="/root", serving="/serving"
    )
    return {component.id: component for component in built.components}


@pytest.fixture(scope="module")
def components() -> dict[str, BaseComponent]:
    return make_components()


def names(files: list[Path], folder: Path = REPOSITORY) -> set[str]:
    return {str(path.relative_to(folder)) for path in files}


def modules_of(component: BaseComponent) -> list[str]:
    """Returns the modules that a process for the component imports first."""
    function = FUNCTIONS.get(component.id, "").rpartition(".")[0]
    classes = (component.executor_spec.executor_class, component.driver_class)
    return sorted({*(cls.__module__ for cls in classes), function} - {""})


# Third-party packages are imported once; each component's modules are imported in a separate process.
IMPORTING = """
import json, os, sys
import keras, tensorflow, tensorflow_model_analysis, tensorflow_transform, tfx.components
from importlib import import_module

for component, modules in json.loads(sys.argv[2]).items():
    if not (child := os.fork()):
        for module in modules:
            import_module(module)
        files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
        print(json.dumps([component, [file for file in files if file.startswith(sys.argv[1])]]), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.integration
def test_files_imported_by_a_component_are_in_its_cache_key(components: dict[str, BaseComponent]) -> None:
    modules = {name: modules_of(component) for name, component in components.items()}
    command = [sys.executable, "-c", IMPORTING, f"{REPOSITORY}/", json.dumps(modules)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    imported = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    assert set(imported) == set(WITH_TUNER)
    imported = {name: {file for file in files if "/.venv/" not in file} for name, files in imported.items()}
    assert {name for name, files in imported.items() if not files} == WITHOUT_CODE
    for name, files in imported.items():
        assert files <= set(map(str, component_files(components[name]))), name


def found_by_python(modules: list[str]) -> set[Path]:
    """Returns the first-party files that modules import, by Python's modulefinder, which reads the bytecode."""
    finder = ModuleFinder(path=[str(REPOSITORY)])
    for module in modules:
        if module.partition(".")[0] in PACKAGES:
            finder.import_hook(module)
    files = [getattr(module, "__file__", None) for module in finder.modules.values()]
    return {Path(file) for file in files if file}


def test_files_imported_inside_functions_are_in_the_cache_key(components: dict[str, BaseComponent]) -> None:
    for name, component in components.items():
        python = {path for path in component_files(component) if path.suffix == ".py"}
        started = [f"components.serving_check.{program}" for program in ("probe", "onnx_probe")]
        modules = modules_of(component) + (started if name == "ServingCheck" else [])
        assert python == found_by_python(modules), name


def test_programs_started_by_a_component_are_in_its_cache_key(
    components: dict[str, BaseComponent], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        started.append(command)
        return SimpleNamespace(returncode=1, stdout=b"", stderr=b"")

    monkeypatch.setattr(subprocess, "run", run)
    fresh_process.check_serving("model", [b"image"], 1.0)
    ((_, option, module, *_),) = started
    assert option == "-m"
    assert f"{module.replace('.', '/')}.py" in names(component_files(components["ServingCheck"]))


def test_other_files_in_the_folder_of_a_component_are_in_its_cache_key(components: dict[str, BaseComponent]) -> None:
    count = 0
    for component in components.values():
        folder = REPOSITORY / component.executor_spec.executor_class.__module__.replace(".", "/")
        if folder.is_relative_to(REPOSITORY / "components"):
            beside = {path for path in folder.parent.iterdir() if path.is_file() and path.suffix != ".py"}
            assert beside <= set(component_files(component)), component.id
            count += len(beside)
    assert count >= 4  # the report's: page, charts, style, script


def test_the_cache_key_has_the_fingerprint_of_these_files(components: dict[str, BaseComponent]) -> None:
    for name, component in components.items():
        files = component_files(component)
        assert bool(files) == (name not in WITHOUT_CODE)
        if files:
            assert component.exec_properties["code"] == fingerprint(REPOSITORY, files)
    assert "code" not in components["StatisticsGen"].exec_properties
    assert {name: component.exec_properties["preprocessing_fn"] for name, component in components.items()
            if component.exec_properties.get("preprocessing_fn")} == {"Transform": FUNCTIONS["Transform"]}  # fmt: skip


def test_the_name_of_a_synthetic_data_set_depends_on_the_code_that_draws_it(tmp_path: Path) -> None:
    files = sorted(found_by_python(["data.pictures.synthetic"]))
    assert {"data/latex/typesetting.py", "data/parallel.py", "data/dataset/writer.py"} < names(files)
    folder = examples_folder(DataConfig(), Workspace(tmp_path))
    assert folder.name.endswith(f"-{fingerprint(REPOSITORY, files)[:8]}")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages, which tests may change."""
    folder = tmp_path_factory.mktemp("copy").resolve()
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def keys(components: dict[str, BaseComponent], folder: Path) -> dict[str, str]:
    return {name: fingerprint(folder, component_files(component, folder)) for name, component in components.items()}


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        # Normalisation affects the transformed examples, and is part of the exported model.
        (
            "im2latex/images.py",
            "INK_SHARE = 3 / 16",
            "INK_SHARE = 4 / 16",
            {"ExampleValidator", "Transform", "Tuner", "Trainer", "ServingCheck", "Reporter"},
        ),
        ("trainer_module/config/vocabulary.py", "default=2", "default=3", {"Transform"}),
        ("trainer_module/config/training.py", "default=12", "default=13", {"Tuner", "Trainer"}),
        ("trainer_module/config/tuning.py", "default=3", "default=4", {"Tuner"}),
        ("trainer_module/batching.py", "COST_OF_CELLS = 5", "COST_OF_CELLS = 6", {"Tuner", "Trainer", "Reporter"}),
        ("trainer_module/summary.py", "BLOCK", "BLOCK ", set()),
        ("components/evaluator/gate.py", "import re", "import re as re", {"Evaluator", "Reporter"}),
        ("components/formula_metrics/scores.py", "DPI = 240", "DPI = 200", {"Evaluator", "Reporter"}),
        ("data/latex/computer_modern.py", "_OVERSAMPLING = 8", "_OVERSAMPLING = 4", {"Evaluator", "Reporter"}),
        (
            "im2latex/tokenizer.py",
            "import re",
            "import re as re",
            # The Trainer, which the Tuner imports, calibrates the model on formulas in normal form.
            {"ImportExampleGen", "Tuner", "Trainer", "Evaluator", "ServingCheck", "Reporter"},
        ),
        ("components/baseline/choice.py", "import os", "import os as os", {"Baseline"}),
        (
            "components/serving_folder.py",
            "= 600.0",
            "= 60.0",
            {"ExampleValidator", "Baseline", "Evaluator", "Pusher", "Reporter"},
        ),
        ("components/serving_check/probe.py", '"predict_images"', '"serving_default"', {"ServingCheck"}),
        ("components/report/charts.html", "<svg", "<svg ", {"Reporter"}),
        ("components/report/report.css", "{", "{ ", {"Reporter"}),
        (
            "data/dataset/tfrecords.py",
            "MAX_RECORD_BYTES = 256",
            "MAX_RECORD_BYTES = 512",
            {"ImportExampleGen", "ExampleValidator", "Evaluator", "ServingCheck", "Reporter"},
        ),
        ("pipeline/cli.py", "import json", "import json as json", set()),
        ("data/dataset/check.py", "SAMPLES = 24", "SAMPLES = 25", set()),
    ],
)
def test_a_change_affects_only_the_cache_keys_that_depend_on_it(
    file: str, old: str, new: str, changed: set[str], copy: Path, components: dict[str, BaseComponent]
) -> None:
    before, text = keys(components, copy), (copy / file).read_text("utf-8")
    assert old in text
    (copy / file).write_text(text.replace(old, new), "utf-8")
    after = keys(components, copy)
    (copy / file).write_text(text, "utf-8")
    assert {name for name in before if before[name] != after[name]} == changed
    assert keys(components, copy) == before


def test_every_kind_of_reference_between_files_is_followed(tmp_path: Path) -> None:
    files = {
        "data/__init__.py": "from data.at_once import x",
        "data/at_once.py": "x = 1",
        "data/start.py": (
            "from __future__ import annotations\n"
            "import json, numpy.linalg, data.whole\n"
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from data import never\nelse:\n    from . import relative\n"
            "class Holder:\n    def late(self):\n        with open('x') as file:\n"
            "            from pipeline.deep.inner import name\n"
            "try:\n    import data.tried\nexcept ImportError:\n    from data.instead import x\n"
            "command = ['-m', 'components.program']\n"
            "page = 'page.html'; table = 'pipeline/table.npz'\n"
            "missing = 'missing.json'; outside = '../../secret.json'\n"
        ),
        "data/whole.py": "", "data/relative.py": "", "data/never.py": "", "data/tried.py": "", "data/instead.py": "",
        "data/unnamed.py": "", "data/unnamed.json": "{}",
        "data/page.html": '{% import "parts.html" as parts %} <script src="script.js">', "data/parts.html": "",
        "data/script.js": "import 'data.unnamed'", "data/page.css": "",
        "pipeline/__init__.py": "", "pipeline/deep/__init__.py": "from .beside import x", "pipeline/deep/beside.py": "",
        "pipeline/deep/inner.py": "name = 1", "pipeline/table.npz": "never read as 'data/page.css'",
        "components/__init__.py": "", "components/program.py": "",
    }  # fmt: skip
    root = (tmp_path / "root").resolve()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    (tmp_path / "secret.json").write_text("{}", "utf-8")
    unreached = {"data/never.py", "data/unnamed.py", "data/unnamed.json", "data/page.css"}
    assert names(files_of(["data.start"], root), root) == set(files) - unreached
    assert names(files_of(["data.whole.function"], root), root) == {
        "data/__init__.py",
        "data/at_once.py",
        "data/whole.py",
    }
    assert files_of(["tensorflow.keras", "json"], root) == []


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    (root / "data").mkdir()
    for name in ("__init__", "first", "second"):
        (root / "data" / f"{name}.py").touch()
    assert names(files_of(["data.first"], root), root) == {"data/__init__.py", "data/first.py"}
    (root / "data" / "first.py").write_text("import data.second\n", "utf-8")
    assert names(files_of(["data.first"], root), root) == {"data/__init__.py", "data/first.py", "data/second.py"}
