"""`im2latex export --format web`: the contents of the folder, and the source of its packages."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from im2latex.errors import UserError
from pipeline.cli import app
from pipeline.web.folder import ONNX_RUNTIME, TEX2TYPST
from pipeline.web.npm import Package, unpack
from tests.pipeline.web.conftest import hosted


def export(*arguments: object) -> None:
    answer = CliRunner().invoke(app, ["export", *map(str, arguments)], env={"KERAS_BACKEND": "tensorflow"})
    if answer.exception:
        raise answer.exception


def archive(text: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("package/dist/index.js")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


CONTENT = archive("export {};")
MADE = Package("made", "1.2.3", base64.b64encode(hashlib.sha512(CONTENT).digest()).decode())
FILES = ["dist/index.js"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a registry that does not answer."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")
    return tmp_path / "cache" / "im2latex" / "npm"


@pytest.mark.integration
def test_the_folder_is_small_and_names_no_other_site(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30_000_000
    page = (folder / "index.html").read_text("utf-8")
    assert "default-src 'none'" in page and "http" not in page.replace("http-equiv", "")
    assert {"onnxruntime/README.md", "tex2typst/LICENSE", "katex/LICENSE"} <= {
        path.relative_to(folder).as_posix() for path in files
    }


def test_an_archive_is_fetched_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = tmp_path / "registry"
    (registry / "made" / "-").mkdir(parents=True)
    (registry / "made" / "-" / "made-1.2.3.tgz").write_bytes(CONTENT)
    with hosted(registry) as server:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
        assert unpack(MADE, FILES) == {"dist/index.js": b"export {};"}
    assert unpack(MADE, FILES) == {"dist/index.js": b"export {};"}
    (cache / "made-1.2.3.tgz").write_bytes(archive("alert()"))
    with pytest.raises(
        UserError, match="^cannot fetch http://127.0.0.1:.*; give a folder with made-1.2.3.tgz by --npm"
    ):
        unpack(MADE, FILES)


def test_another_archive_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made" / "-").mkdir(parents=True)
    for file in (tmp_path / "made-1.2.3.tgz", tmp_path / "made" / "-" / "made-1.2.3.tgz"):
        file.write_bytes(archive("alert()"))
    with pytest.raises(UserError, match=f"^{tmp_path}/made-1.2.3.tgz is not made 1.2.3: its SHA-512 differs"):
        unpack(MADE, FILES, tmp_path)
    with hosted(tmp_path) as server:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(UserError, match="^http://127.0.0.1:.* is not made 1.2.3: its SHA-512 differs"):
            unpack(MADE, FILES)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], r"^cannot fetch http://127.0.0.1:9/onnxruntime-web/-/onnxruntime-web-1.*tgz \(.*refused\); give a folder"),
        (["--npm", "{0}/none"], "^cannot read .*/none/onnxruntime-web-1.*; where there is a network, `npm pack onnxr"),
        (["--npm", "{0}", "--format", "onnx"], "^--npm is for --format web"),
        (["--out", "{0}"], "exists already; choose another --out"),
    ],
)
def test_a_mistake_is_a_sentence_and_leaves_nothing(
    cache: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    options = ["--model", "reader", "--format", "web", "--out", "{0}/web", *arguments]
    with pytest.raises(UserError, match=sentence):
        export(*(argument.format(tmp_path) for argument in options))
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_archives_are_taken_from_a_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses `folder` first, which puts the archives into the cache."""
    from pipeline.cache import cache_folder

    kept = cache_folder("npm")
    assert {package.archive for package in (ONNX_RUNTIME, TEX2TYPST)} <= {path.name for path in kept.iterdir()}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")
    export("--model", "reader", "--format", "web", "--npm", kept, "--out", tmp_path / "web")
    names = [sorted(path.relative_to(root) for path in root.rglob("*")) for root in (tmp_path / "web", folder)]
    assert names[0] == names[1]
