from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from data.latex.program import RenderingError
from data.pictures.screenshots import PageFormula, _chromium, draw_screenshots, find_chromium
from im2latex.errors import UserError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="not installed: chromium"),
]


def image(latex: str, size: float = 20, display: bool = True, scale: float = 1) -> np.ndarray:
    drawn = draw_screenshots([PageFormula(latex, size, display)], scale)[0]
    assert isinstance(drawn, np.ndarray), drawn
    return drawn


def test_formulas_have_the_size_of_the_page_and_the_screen() -> None:
    # KaTeX sets 1.21 times as large as the text, and a bracket spans 1 em (KaTeX_Main: 0.75 above, 0.25 below).
    for size, scale in ((20, 1), (20, 2), (16, 3), (24, 1.5)):
        assert image("(", size, scale=scale).shape[0] == pytest.approx(1.21 * size * scale, abs=2)


def test_limits_are_next_to_an_inline_operator() -> None:
    inline, display = (image(r"\sum _ { i } ^ { n }", display=display) for display in (False, True))
    assert inline.shape[0] < 0.6 * display.shape[0] and inline.shape[1] > display.shape[1]


def test_colours_are_those_of_the_page() -> None:
    drawn = draw_screenshots(
        [PageFormula(r"\rule{1em}{1em}", 20, True, "#e6edf3", "#0d1117"), PageFormula("x", 20, True)], 2
    )
    assert isinstance(drawn[0], np.ndarray) and (drawn[0][5:-5, 5:-5] == (0xE6, 0xED, 0xF3)).all()
    assert isinstance(drawn[1], np.ndarray) and drawn[1].max() == 255 and drawn[1].min() < 40


@pytest.mark.parametrize("scale", [1, 1.5, 3])
def test_a_picture_does_not_depend_on_its_neighbours(scale: float) -> None:
    formulas = [PageFormula(rf"\frac{{{i}}}{{x}} + y^{{{i}}}", 12 + i % 5, i % 2 == 0) for i in range(150)]
    together = draw_screenshots(formulas, scale)
    for i in (0, 77, 149):
        np.testing.assert_array_equal(together[i], draw_screenshots([formulas[i]], scale)[0])


def test_formulas_that_katex_cannot_draw_have_an_error_in_their_place() -> None:
    drawn = draw_screenshots([PageFormula(latex, 16, True) for latex in ("x", r"\foo", "{", r"\ ", "y")], 1)
    assert [str(one) for one in drawn if isinstance(one, RenderingError)] == [
        "KaTeX: Undefined control sequence: \\foo",
        "KaTeX: Expected '}', got 'EOF'",
        "a formula without ink",
    ]
    assert isinstance(drawn[0], np.ndarray) and isinstance(drawn[4], np.ndarray)


def test_formulas_cannot_run_scripts_in_the_page() -> None:
    hostile = [
        r"\href{javascript:document.body.remove()}{x}",
        r"\htmlStyle{position:fixed;top:0}{x}",
        r"\text{</script><script>document.body.remove()</script>}",
        r"\includegraphics{file:///etc/passwd}",
        r"\def\a{\a\a}\a",
    ]
    drawn = draw_screenshots([PageFormula(latex, 16, True) for latex in [*hostile, "x"]], 1)
    np.testing.assert_array_equal(drawn[-1], draw_screenshots([PageFormula("x", 16, True)], 1)[0])
    assert isinstance(drawn[4], RenderingError)


def test_only_a_picture_that_is_too_large_for_chromium_is_refused() -> None:
    drawn = draw_screenshots(
        [PageFormula("x", 16, True), PageFormula("x" * 1000, 24, True), PageFormula("y", 16, True)], 3
    )
    assert isinstance(drawn[0], np.ndarray) and isinstance(drawn[2], np.ndarray)
    assert str(drawn[1]) == "KaTeX: a picture of too many pixels"


def test_a_chromium_that_was_killed_is_started_again() -> None:
    before = image("x")
    os.kill(_chromium().process, signal.SIGKILL)
    np.testing.assert_array_equal(image("x"), before)


def test_without_chromium_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="cannot be found.*--katex-share 0"):
        find_chromium()
