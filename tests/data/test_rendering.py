from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from data.errors import UserError
from data.rendering import RENDERERS, RenderingError, default_renderer, render, render_png

MISSING = [program for program in ("latex", "dvipng") if shutil.which(program) is None]
LATEX = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
BOTH = [pytest.param("latex", marks=LATEX), "builtin"]


def columns_with_ink(image: np.ndarray) -> int:
    """How many separate pieces a formula has from left to right."""
    ink = (image < 128).any(axis=0).astype(int)
    return int((np.diff(ink, prepend=0) == 1).sum())


@pytest.mark.parametrize("renderer", BOTH)
def test_symbols_are_drawn_black_on_white_with_a_border(renderer: str) -> None:
    image = render("1 + 1 = 3", dpi=200, border=5, renderer=renderer)
    assert image.dtype == np.uint8 and image.ndim == 2
    assert columns_with_ink(image) == 5
    assert (image[:5] == 255).all() and (image[5] < 255).any() and (image[:, 5] < 255).any()


@pytest.mark.parametrize("renderer", BOTH)
def test_size_follows_the_resolution(renderer: str) -> None:
    small, large = (render("\\frac { 1 } { 2 }", dpi, border=0, renderer=renderer) for dpi in (100, 300))
    # A fraction of digits in display style spans 20.3 pt of 72.27 to the inch, give or take its shifts.
    assert large.shape[0] == pytest.approx(300 * 20.3 / 72.27, rel=0.1)
    assert large.shape[0] == pytest.approx(3 * small.shape[0], rel=0.1)


@pytest.mark.parametrize("renderer", BOTH)
@pytest.mark.parametrize("formula", ["\\frac { 1", "\\undefinedcommand { x }", ""])
def test_what_cannot_be_drawn_is_refused(renderer: str, formula: str) -> None:
    with pytest.raises(RenderingError):
        render(formula, renderer=renderer)


def test_the_builtin_renderer_draws_arrays_and_what_only_mathtext_knows() -> None:
    array = render("\\begin{array} { c c } 1 & 2 \\\\ 3 & 4 \\end{array}", dpi=200, renderer="builtin")
    assert columns_with_ink(array) == 2 and columns_with_ink(array.T) == 2
    assert columns_with_ink(render("a \\curvearrowright b", dpi=200, renderer="builtin")) == 3


@LATEX
@pytest.mark.parametrize(
    "formula",
    [
        "\\input{/etc/passwd}",
        "\\input{../formula}",
        "\\immediate\\write18{touch escaped}\\undefined",
        "\\loop\\iftrue\\repeat",
    ],
)
def test_latex_cannot_read_elsewhere_run_programs_or_go_on_for_ever(formula: str) -> None:
    with pytest.raises(RenderingError):
        render(formula, renderer="latex", seconds=3)


def test_the_default_is_latex_where_it_is_installed() -> None:
    assert default_renderer() == ("builtin" if MISSING else "latex")
    with pytest.raises(UserError, match="renderers are latex, builtin"):
        render("x", renderer="word")
    if MISSING:
        with pytest.raises((UserError, RenderingError)):
            render("x", renderer="latex")


def test_png_bytes_are_grey() -> None:
    image = Image.open(io.BytesIO(render_png("x", renderer=RENDERERS[1])))
    assert (image.format, image.mode) == ("PNG", "L")
