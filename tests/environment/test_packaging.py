"""The installed packages: the reader and the five packages of the pipeline, with their data, from any folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import zipfile
from pathlib import Path

import pytest

import im2latex

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
READER = "im2latex"
PIPELINE = ["data", "trainer_module", "components", "pipeline", "kubeflow"]
PACKAGES = [READER, *PIPELINE]
# The dependencies of the reader and its service, as named in site-packages; not every Python needs all.
NEEDED = [
    "numpy", "numpy.libs", "PIL", "pillow.libs", "onnxruntime", "starlette", "uvicorn", "python_multipart",
    "prometheus_client", "anyio", "idna", "h11", "click", "typing_extensions.py", "exceptiongroup",
]  # fmt: skip


def test_every_package_can_be_imported_from_any_folder(tmp_path: Path) -> None:
    """Subprocesses of TFX start elsewhere, and without the checkout on PYTHONPATH."""
    code = f"import importlib.util as u; print([u.find_spec(n).submodule_search_locations[0] for n in {PACKAGES}])"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    output = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environ, text=True)
    assert output.strip() == str([str(ROOT / name) for name in PACKAGES])


def copy_sources(source: Path) -> list[Path]:
    """Copies the packages, and a tests package that must not be packed; returns the files of the packages."""
    listed = [
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and not re.search(r"__pycache__|/build/|\.egg-info/", str(path))
    ]
    for path in [*listed, Path("pyproject.toml"), Path("setup.py"), Path("LICENSE"), Path("README.md")]:
        if (ROOT / path).exists():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, source / path)
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").touch()
    return listed


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of the reader and that of the pipeline, by distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    source = folder / "source"
    copy_sources(source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    for project in (source / READER, source):
        subprocess.run([*build, "--wheel-dir", str(folder), str(project)], check=True, timeout=300)
    return {wheel.name.partition("-")[0]: wheel for wheel in folder.glob("*.whl")}


def test_each_wheel_contains_only_its_sources_and_data(wheels: dict[str, Path], tmp_path: Path) -> None:
    listed = [str(path) for path in copy_sources(tmp_path / "source") if path.suffix != ".md"]
    assert wheels.keys() == {"im2latex", "im2latex_pipeline"}
    for name, packages in (("im2latex", [READER]), ("im2latex_pipeline", PIPELINE)):
        packed = {path for path in zipfile.ZipFile(wheels[name]).namelist() if ".dist-info/" not in path}
        expected = {path for path in listed if path.partition("/")[0] in packages}
        assert packed == expected - {f"{READER}/pyproject.toml"}
    assert wheels["im2latex"].stat().st_size < 15_000_000


def test_the_reader_alone_reads_a_picture_in_an_empty_environment(wheels: dict[str, Path], tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True, timeout=300)
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    # Only its dependencies, and nothing else of this environment.
    for name in NEEDED:
        installed = next((Path(folder, name) for folder in sys.path if Path(folder, name).exists()), None)
        if installed is not None:  # the libraries of a wheel have a folder of their own in some versions
            (packages / name).symlink_to(installed)
    python = str(tmp_path / "env" / "bin" / "python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheels["im2latex"])], check=True, timeout=300)
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "IM2LATEX_HOME")}
    command = [str(tmp_path / "env" / "bin" / "im2latex")]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *arguments], cwd=tmp_path, env=environ, capture_output=True, text=True)

    answer = run("predict", "--clean", str(ROOT / "docs" / "formula.png"))
    assert answer.stdout == "\\int_{-\\infty}^\\infty e^{-x^2}dx=\\sqrt{\\pi}\n", answer.stderr
    serve = [*command, "serve", "--port", "0"]
    with subprocess.Popen(serve, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        address = service.stdout.readline().split()[0]
        for path in ("/", "/page.css", "/katex/katex.min.js", "/katex/fonts/KaTeX_Main-Regular.woff2"):
            assert urllib.request.urlopen(address + path).read()
        picture = (ROOT / "docs" / "formula.png").read_bytes()
        read = json.load(urllib.request.urlopen(f"{address}/predict?clean=1", picture))
        service.terminate()
    assert read["latex"] + "\n" == answer.stdout
    other = run("run", "--preset", "quickstart")
    assert (other.returncode, other.stdout) == (1, "")
    assert other.stderr.startswith("im2latex: `im2latex run` is a command of the pipeline, which is not installed")
    assert other.stderr.count("\n") == 1 and "pip install 'im2latex[pipeline]'" in other.stderr
    completed = subprocess.run(
        [python, "-c", f"import importlib.util as u; print([n for n in {PACKAGES} if u.find_spec(n)])"],
        cwd=tmp_path, env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert completed.stdout == f"{[READER]}\n"


def test_both_have_one_version(wheels: dict[str, Path]) -> None:
    (reader,), (pipeline,) = (
        {line for line in _metadata(wheels[name]) if line.startswith("Version: ")} for name in sorted(wheels)
    )
    assert reader == pipeline == f"Version: {im2latex.__version__}"
    extra = f'Requires-Dist: im2latex-pipeline=={im2latex.__version__}; extra == "pipeline"'
    assert extra in _metadata(wheels["im2latex"])


def _metadata(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as packed:
        (name,) = (name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        return packed.read(name).decode().splitlines()


def test_a_worker_with_the_source_distribution_can_import_its_code(tmp_path: Path) -> None:
    source, workers = tmp_path / "source", tmp_path / "worker"
    copy_sources(source)
    # Built as Beam does for --setup_file, and installed as a worker does.
    build = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(build, cwd=source, check=True, timeout=300)
    (archive,) = tmp_path.glob("*.tar.gz")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(workers)], check=True, timeout=300)
    (packages,) = workers.glob("lib/python*/site-packages")
    # The dependencies that a worker's image has; files .pth in there, such as this checkout's, are not looked at.
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    python = str(workers / "bin" / "python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--no-build-isolation", str(archive)], check=True, timeout=300)
    names = ["trainer_module.preprocessing", "components.formula_metrics.metrics", "components.evaluator.component"]
    code = f"import importlib; print(*(importlib.import_module(name).__file__ for name in {names}))"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    output = subprocess.check_output([python, "-c", code], cwd=tmp_path, env=environ, text=True, timeout=300)
    assert output.split() == [str(packages / f"{name.replace('.', '/')}.py") for name in names]


@pytest.mark.parametrize(
    "home", [pytest.param(lambda checkout: checkout, id="checkout"), pytest.param(lambda c: c.parent, id="above"),
             pytest.param(lambda c: Path("/"), id="root")]
)  # fmt: skip
def test_make_clean_refuses_a_folder_that_contains_the_checkout(tmp_path: Path, home) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copy(ROOT / "Makefile", checkout)
    ran = subprocess.run(
        ["make", "clean"], cwd=checkout, env={**os.environ, "IM2LATEX_HOME": str(home(checkout))}, capture_output=True
    )
    assert ran.returncode != 0 and b"remove by hand" in ran.stdout
    assert (checkout / "Makefile").exists()


def test_make_clean_removes_the_workspace_only(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ("workspace/runs", "elsewhere/runs", "workspace2"):
        (tmp_path / folder).mkdir(parents=True)
    environ = {name: value for name, value in os.environ.items() if name != "IM2LATEX_HOME"}
    subprocess.run(["make", "clean"], cwd=tmp_path, env=environ, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Makefile", "elsewhere", "workspace2"]
    subprocess.run(["make", "clean"], cwd=tmp_path, env={**environ, "IM2LATEX_HOME": "elsewhere"}, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Makefile", "workspace2"]


def test_newest_stack_says_why_it_was_not_tested(tmp_path: Path) -> None:
    for program in ("bash", "dirname", "id"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    command = [str(ROOT / ".ci" / "newest")]
    environ = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    ran = subprocess.run(["/bin/bash", *command], env=environ, capture_output=True, text=True)
    assert ran.returncode == 0
    assert ran.stdout.startswith("The tests with TFX 1.21 were not run: ") and ran.stdout.count("\n") == 1
    assert subprocess.run(["/bin/bash", *command], env={**environ, "CI": "true"}, capture_output=True).returncode == 1
