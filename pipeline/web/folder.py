"""Writes a static web page that reads pictures in the browser: the service's page, ONNX Runtime Web, and a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.files import atomic_folder
from data.pictures.screenshots import KATEX
from im2latex import latex_commands
from im2latex.glyph_size import estimator
from im2latex.serving.web_page import files
from pipeline.web.npm import Package, unpack
from trainer_module.trained import Precision, Trained, description, onnx_of

SCRIPTS = Path(__file__).with_name("scripts")
ONNX_RUNTIME = Package(
    "onnxruntime-web",
    "1.30.0",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
)
TEX2TYPST = Package(
    "tex2typst",
    "0.6.2",
    "KQwpKUZ3kWI/cBEChFhVPJJV5/61R2Eb0epL6AGlQTKdto4OZer9wX4F2mbTsThVJPeLP4Ax0CkUk23IdcgnGQ==",
)
# The files of the packages, and their paths in the folder. They are renamed from .mjs, because some hosts send that
# suffix with a content type that browsers refuse to execute.
_OF_ONNX_RUNTIME = {
    "dist/ort.wasm.bundle.min.mjs": "onnxruntime/ort.wasm.bundle.min.js",
    "dist/ort-wasm-simd-threaded.wasm": "onnxruntime/ort-wasm-simd-threaded.wasm",
    "README.md": "onnxruntime/README.md",
}
_OF_TEX2TYPST = {"dist/tex2typst.min.js": "tex2typst/tex2typst.min.js", "LICENSE": "tex2typst/LICENSE"}
# The policy is in the page itself, because it cannot be set in the headers of a static host.
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; "
    "style-src 'self'; font-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'"
)
# The tables of LaTeX's commands that the scripts use.
_TABLES = (
    "BLANKS_ARE_DRAWN", "FORMULA_ENVIRONMENTS", "FRACTIONS", "FUNCTIONS", "FUNCTIONS_WITH_LIMITS", "ONE_ARGUMENT",
    "OPTION_AND_ARGUMENT", "RENAMED", "SCRIPT_MARKS", "SCRIPTS_WITHOUT_BRACES", "SPACED_FUNCTIONS", "STARRED",
    "TEXT_ARGUMENT", "TEXT_AS_MATHRM", "TWO_ARGUMENTS", "WITHOUT_INK", "WITHOUT_INK_ARGUMENT",
)  # fmt: skip


def save_web(out: Path, trained: Trained, precision: Precision = "float16", npm: Path | None = None) -> None:
    """Writes the folder of the web page, atomically.

    Args:
        out: the folder.
        trained: the model.
        precision: number format of the matrices, as in `trainer_module.trained.save_weights`.
        npm: folder with the archives of `ONNX_RUNTIME` and `TEX2TYPST`; None takes them from the cache or the registry.

    Raises:
        OSError: the folder cannot be written, or exists and is not empty.
        UserError: an archive is missing, or the weights do not fit the precision.
    """
    contents = {address.lstrip("/"): file.content for address, file in files().items()}
    contents["index.html"] = _page(contents.pop("").decode()).encode()
    for script in SCRIPTS.glob("*.js"):
        contents[script.name] = script.read_bytes()
    for package, places in ((ONNX_RUNTIME, _OF_ONNX_RUNTIME), (TEX2TYPST, _OF_TEX2TYPST)):
        contents |= {places[name]: content for name, content in unpack(package, list(places), npm).items()}
    contents["katex/LICENSE"] = KATEX.joinpath("LICENSE").read_bytes()
    contents["commands.js"] = _commands().encode()
    contents["model.onnx"] = onnx_of(trained, precision)
    network = {name: array.tolist() for name, array in estimator()._asdict().items()}
    contents["model.json"] = json.dumps(description(trained) | {"estimator": network}).encode()
    with atomic_folder(out) as new:
        for name, content in contents.items():
            file = new / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def _page(html: str) -> str:
    """Adds the content security policy and the converter to Typst to the service's page."""
    charset, script = '<meta charset="utf-8">', '<script src="page.js" defer></script>'
    assert charset in html and script in html
    html = html.replace(charset, f'{charset}\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">')
    return html.replace(script, f'<script src="tex2typst/tex2typst.min.js" defer></script>\n{script}')


def _commands() -> str:
    """Returns the tables as a JavaScript module."""
    return "".join(f"export const {name} = {_as_script(getattr(latex_commands, name))};\n" for name in _TABLES)


def _as_script(table: Any) -> str:
    if isinstance(table, dict):
        return f"new Map({json.dumps(sorted(table.items()))})"
    return f"new Set({json.dumps(sorted(table))})"
