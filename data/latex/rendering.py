"""Renders LaTeX to images, with latex and dvipng if both are installed, otherwise with the built-in renderer.

The built-in renderer is `data.latex.typesetting`, with matplotlib's mathtext for symbols that it lacks.
"""

from __future__ import annotations

import functools
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
from PIL import Image

from data.latex.program import (
    SECONDS,
    Page,
    RenderingError,
    check_size,
    cropped,
    draw_page,
    draw_pages,
    find_programs,
    is_local,
)
from data.latex.typesetting import draw
from data.parallel import cores, ordered_map
from im2latex.errors import UserError
from im2latex.tokenizer import FormulaError, tokenize

RENDERERS = ("latex", "builtin")
# Maximum number of formulas in a LaTeX document, and in a work item of the built-in renderer.
_TOGETHER = 256
_CHUNK = 64


@functools.cache
def default_renderer() -> str:
    """Returns `latex` if latex and dvipng are on the path, otherwise `builtin`."""
    return "latex" if shutil.which("latex") and shutil.which("dvipng") else "builtin"


def render(
    latex: str, dpi: int = 100, border: int = 4, renderer: str | None = None, seconds: float = SECONDS
) -> np.ndarray:
    """Draws a formula at 10 pt in display style, on one line, black on white, cropped to its ink.

    Args:
      latex: the formula, raw or tokenised, without dollars.
      dpi: resolution in dots per inch.
      border: white pixels around the ink.
      renderer: one of RENDERERS; default_renderer() by default. Renderers draw different images.
      seconds: time limit for each external program.

    Returns:
      uint8 (H, W), 255 is white.

    Raises:
      RenderingError: the formula is invalid, has no ink, is larger than MAX_INCHES, took too long, or is not supported
        by the built-in renderer.
      UserError: the renderer is unknown, or its programs are not installed.
    """
    if _known(renderer) == "latex":
        find_programs()
        picture = draw_page(Page(latex.strip(), dpi), seconds=seconds)
    else:
        picture = _builtin(latex, dpi)
    return _bordered(picture, border)


def render_all(
    formulas: Sequence[str],
    dpi: int = 100,
    border: int = 0,
    renderer: str | None = None,
    seconds: float = SECONDS,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[np.ndarray | None]:
    """Draws formulas like `render`, but thousands per minute, and equal formulas only once.

    Args:
      formulas: the formulas, raw or tokenised, without dollars.
      dpi: resolution in dots per inch.
      border: white pixels around the ink.
      renderer: one of RENDERERS; default_renderer() by default.
      seconds: time limit for each external program, which may draw many formulas.
      workers: number of threads or processes; one per core by default.
      progress: called with the number of formulas done since the last call.

    Returns:
      An image for each formula, uint8 (H, W), 255 is white, or None where `render` would raise RenderingError. Equal
      formulas share one array.

    Raises:
      UserError: the renderer is unknown, or its programs are not installed or do not work.
    """
    indices: dict[str, list[int]] = {}
    for i, latex in enumerate(formulas):
        indices.setdefault(latex.strip(), []).append(i)
    draw_batches = _batches_by_latex if _known(renderer) == "latex" else _batches_builtin
    pictures: list[np.ndarray | None] = [None] * len(formulas)
    for batch, drawn in draw_batches(list(indices), dpi, seconds, workers or cores()):
        for latex, picture in zip(batch, drawn, strict=True):
            bordered = None if picture is None else _bordered(picture, border)
            for i in indices[latex]:
                pictures[i] = bordered
        if progress is not None:
            progress(sum(len(indices[latex]) for latex in batch))
    return pictures


def render_png(latex: str, dpi: int = 100, border: int = 4, renderer: str | None = None) -> bytes:
    """Draws a formula like `render`, and returns an 8-bit grey PNG."""
    buffer = io.BytesIO()
    Image.fromarray(render(latex, dpi, border, renderer)).save(buffer, "PNG")
    return buffer.getvalue()


def _known(renderer: str | None) -> str:
    renderer = renderer or default_renderer()
    if renderer not in RENDERERS:
        raise UserError(f"there is no renderer {renderer}; the renderers are {', '.join(RENDERERS)}")
    return renderer


def _bordered(picture: np.ndarray, border: int) -> np.ndarray:
    return np.pad(picture, border, constant_values=255)


def _in_chunks(items: list[str], size: int) -> list[list[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


# latex and dvipng


def _batches_by_latex(
    formulas: list[str], dpi: int, seconds: float, workers: int
) -> Iterator[tuple[list[str], list[np.ndarray | None]]]:
    """Yields batches of formulas and their images, in any order."""
    find_programs()
    local = [latex for latex in formulas if is_local(latex)]
    size = min(_TOGETHER, -(-len(local) // workers))
    batches = _in_chunks(local, max(size, 1)) + [[latex] for latex in formulas if not is_local(latex)]
    # Threads are enough, because external programs do the work.
    with ThreadPoolExecutor(workers) as pool:
        futures = {
            pool.submit(draw_pages, [Page(latex, dpi) for latex in batch], seconds=seconds): batch for batch in batches
        }
        try:
            for future in as_completed(futures):
                drawn = future.result()
                yield futures[future], [picture if isinstance(picture, np.ndarray) else None for picture in drawn]
        finally:
            pool.shutdown(cancel_futures=True)


# The built-in renderer


def _batches_builtin(
    formulas: list[str], dpi: int, seconds: float, workers: int
) -> Iterator[tuple[list[str], list[np.ndarray | None]]]:
    """Yields batches of formulas and their images, in order."""
    batches = _in_chunks(formulas, _CHUNK)
    return zip(batches, ordered_map(functools.partial(_builtin_all, dpi=dpi), batches, workers), strict=True)


def _builtin_all(formulas: list[str], dpi: int) -> list[np.ndarray | None]:
    pictures: list[np.ndarray | None] = []
    for latex in formulas:
        try:
            pictures.append(_builtin(latex, dpi))
        except RenderingError:
            pictures.append(None)
    return pictures


def _builtin(latex: str, dpi: int) -> np.ndarray:
    try:
        tokens = tokenize(latex)
        try:
            picture = draw(tokens, dpi * 10 / 72)
        except ValueError:
            picture = _by_mathtext(tokens, dpi)  # supports some more symbols
        check_size(picture.shape, dpi)
    except FormulaError as error:
        raise RenderingError(str(error)) from error
    except RecursionError as error:
        raise RenderingError("the formula is nested too deeply") from error
    return cropped(picture)


def _by_mathtext(tokens: list[str], dpi: int) -> np.ndarray:
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser

    if not all(map(str.isascii, tokens)):
        # mathtext would draw the same box for every character that its fonts lack.
        raise RenderingError("the built-in renderer supports only ASCII")
    # A lone backslash is a space in the token language.
    formula = " ".join("\\ " if token == "\\" else token for token in tokens).replace("$", r"\$")
    # With a space before the brace, mathtext would draw the script beside its symbol.
    formula = formula.replace("_ {", "_{").replace("^ {", "^{")
    try:
        parsed = MathTextParser("agg").parse(f"${formula}$", dpi, FontProperties(size=10, math_fontfamily="cm"))
    except ValueError as error:
        raise RenderingError("the built-in renderer cannot draw the formula; install latex and dvipng") from error
    return 255 - np.asarray(parsed.image)
