"""LaTeX to images: by latex and dvipng where both are installed, otherwise by the typesetter here and mathtext.

The formulas may come from anybody (a model's predictions, a data set), so TeX runs without shell escape, may read and
write only below a temporary folder of its own, and has a time limit.
"""

from __future__ import annotations

import functools
import io
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from data.errors import UserError
from data.tokenizer import FormulaError, tokenize
from data.typesetting import draw

RENDERERS = ("latex", "builtin")
_DOCUMENT = r"""\documentclass[10pt]{article}
\usepackage{amsmath,amssymb}
\pagestyle{empty}
\begin{document}
$\displaystyle %s$
\end{document}
"""


class RenderingError(ValueError):
    """A formula that the renderer cannot draw."""


@functools.cache
def default_renderer() -> str:
    """`latex` where latex and dvipng are on the path, otherwise `builtin`."""
    return "latex" if shutil.which("latex") and shutil.which("dvipng") else "builtin"


def render(latex: str, dpi: int = 100, border: int = 4, renderer: str | None = None, seconds: float = 10) -> np.ndarray:
    """Draws a formula of 10 pt in display style, black on white, cropped to its ink.

    Args:
      latex: the formula, raw or tokenised, without dollars.
      dpi: resolution in dots per inch.
      border: white pixels around the ink.
      renderer: one of RENDERERS; otherwise default_renderer(). Pictures of different renderers differ.
      seconds: the time limit of each program that is run.

    Returns:
      uint8 (H, W), 255 is white.

    Raises:
      RenderingError: the formula is wrong, without ink, took too long, or is beyond the built-in renderer.
      UserError: an unknown renderer, or programs that are not installed.
    """
    renderer = renderer or default_renderer()
    if renderer == "latex":
        ink = 255 - _by_latex(latex, dpi, seconds)
    elif renderer == "builtin":
        ink = 255 - _builtin(latex, dpi)
    else:
        raise UserError(f"there is no renderer {renderer}; the renderers are {', '.join(RENDERERS)}")
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if rows.size == 0:
        raise RenderingError("a formula without ink")
    return np.pad(255 - ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], border, constant_values=255)


def render_png(latex: str, dpi: int = 100, border: int = 4, renderer: str | None = None) -> bytes:
    """Like `render`, as an 8-bit grey PNG."""
    buffer = io.BytesIO()
    Image.fromarray(render(latex, dpi, border, renderer)).save(buffer, "PNG")
    return buffer.getvalue()


def _by_latex(latex: str, dpi: int, seconds: float) -> np.ndarray:
    with tempfile.TemporaryDirectory(prefix="im2latex-") as folder:
        Path(folder, "formula.tex").write_text(_DOCUMENT % latex.strip(), "utf-8")
        _run(
            ["latex", "-no-shell-escape", "-interaction=batchmode", "-halt-on-error", "formula.tex"], folder, seconds,
            "latex cannot read the formula",
        )  # fmt: skip
        _run(
            ["dvipng", "--noghostscript", "-q", "-T", "tight", "-D", str(dpi), "-pp", "1", "-o", "formula.png",
             "formula.dvi"], folder, seconds, "dvipng cannot draw the formula",
        )  # fmt: skip
        try:
            with Image.open(Path(folder, "formula.png")) as image:
                return np.asarray(image.convert("L"))
        except (OSError, Image.DecompressionBombError) as error:
            raise RenderingError("dvipng drew nothing that can be used") from error


def _run(command: list[str], folder: str, seconds: float, refusal: str) -> None:
    # p: paranoid, no absolute paths and none upwards.
    environment = {**os.environ, "openin_any": "p", "openout_any": "p", "TEXMFOUTPUT": folder, "HOME": folder}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, timeout=seconds, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RenderingError(f"{command[0]} took more than {seconds:g} s") from error
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is not installed; install it, or use the built-in renderer") from error
    if done.returncode != 0:
        raise RenderingError(refusal)


def _builtin(latex: str, dpi: int) -> np.ndarray:
    try:
        tokens = tokenize(latex)
    except FormulaError as error:
        raise RenderingError(str(error)) from error
    try:
        return draw(tokens, dpi * 10 / 72)
    except ValueError:
        return _by_mathtext(tokens, dpi)  # knows more symbols, but no arrays


def _by_mathtext(tokens: list[str], dpi: int) -> np.ndarray:
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser

    # A lone backslash is a space in the token language.
    formula = " ".join("\\ " if token == "\\" else token for token in tokens).replace("$", r"\$")
    try:
        parsed = MathTextParser("agg").parse(f"${formula}$", dpi, FontProperties(size=10, math_fontfamily="cm"))
    except ValueError as error:
        raise RenderingError("the built-in renderer cannot draw the formula; install latex and dvipng") from error
    return 255 - np.asarray(parsed.image)
