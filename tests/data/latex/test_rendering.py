from __future__ import annotations

import functools
import io
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.latex.program import Page, RenderingError, draw_page, draw_pages, is_local
from data.latex.rendering import RENDERERS, default_renderer, render, render_all, render_png
from im2latex.errors import UserError

pytestmark = pytest.mark.integration

MISSING = [program for program in ("latex", "dvipng") if shutil.which(program) is None]
LATEX = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
BOTH = [pytest.param("latex", marks=LATEX), "builtin"]


def columns_with_ink(image: np.ndarray) -> int:
    """Counts the separate pieces of a formula from left to right."""
    ink = (image < 128).any(axis=0).astype(int)
    return int((np.diff(ink, prepend=0) == 1).sum())


def alone(formula: str, **options) -> np.ndarray | None:
    """Returns the image of `render`; None if it cannot draw the formula."""
    try:
        return render(formula, border=0, **options)
    except RenderingError:
        return None


def assert_same(formulas: list[str], actual: list[np.ndarray | None], expected: list[np.ndarray | None]) -> None:
    assert len(actual) == len(formulas)
    for formula, one, other in zip(formulas, actual, expected, strict=True):
        assert (one is None) == (other is None), formula
        if one is not None:
            np.testing.assert_array_equal(one, other, err_msg=formula)


# --- one formula ------------------------------------------------------------------------------


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
def test_a_long_formula_stays_in_one_line(renderer: str) -> None:
    short, long = (render(" + ".join("a" * letters), border=0, renderer=renderer) for letters in (2, 60))
    assert long.shape[0] == short.shape[0]
    # An a of 5.3 pt, a plus of 7.8 pt, and 2.2 pt on both sides of it.
    assert long.shape[1] == pytest.approx((60 * 5.3 + 59 * 12.2) * 100 / 72.27, rel=0.02)


@pytest.mark.parametrize("renderer", BOTH)
@pytest.mark.parametrize("formula", ["\\frac { 1", "\\undefinedcommand { x }", "", "x }", "{" * 400 + "x" + "}" * 400])
def test_formulas_that_cannot_be_drawn_are_refused(renderer: str, formula: str) -> None:
    with pytest.raises(RenderingError):
        render(formula, renderer=renderer)


def test_the_builtin_renderer_refuses_characters_that_its_fonts_lack() -> None:
    with pytest.raises(RenderingError, match="ASCII"):
        render("x + \u6211", renderer="builtin")


@LATEX
def test_a_backslash_at_the_end_is_a_space_and_a_comment_ends_with_its_line() -> None:
    plain = render("x", renderer="latex")
    np.testing.assert_array_equal(render("x \\", renderer="latex"), plain)
    np.testing.assert_array_equal(render("x % y", renderer="latex"), plain)


def test_the_builtin_renderer_draws_arrays_and_symbols_of_mathtext() -> None:
    array = render("\\begin{array} { c c } 1 & 2 \\\\ 3 & 4 \\end{array}", dpi=200, renderer="builtin")
    assert columns_with_ink(array) == 2 and columns_with_ink(array.T) == 2
    assert columns_with_ink(render("a \\curvearrowright b", dpi=200, renderer="builtin")) == 3


def test_the_default_is_latex_where_it_is_installed() -> None:
    assert default_renderer() == ("builtin" if MISSING else "latex")
    for draw in (render, lambda formula, renderer: render_all([formula], renderer=renderer)):
        with pytest.raises(UserError, match="renderers are latex, builtin"):
            draw("x", renderer="word")


def test_png_bytes_are_grey() -> None:
    image = Image.open(io.BytesIO(render_png("x", renderer=RENDERERS[1])))
    assert (image.format, image.mode) == ("PNG", "L")


# --- many -------------------------------------------------------------------------------------

GOOD = [
    "x ^ { 2 }",
    "\\frac { a } { b }",
    "\\begin{array} { c c } 1 & 2 \\\\ 3 & 4 \\end{array}",
    "\\left( \\begin{matrix} a \\\\ b \\end{matrix} \\right)",
    "\\begin{cases} a & b \\\\ c & d \\end{cases}",
    "\\mathrm { \\Large A \\mbox { \\tiny b } } c",
    "{ \\boldmath \\mbox { \\boldmath x } } + x",
    "\\sqrt [ 3 ] { y } \\",
    "\\operatorname* { l i m } _ { n \\rightarrow \\infty } \\nonumber",
    "a \\over b",
    "x \\dots y , \\dots , z",
    "\\widehat { \\hat { \\hat { x } } }",
    "\\rule { 10pt } { 2pt }",
]
# Each has a different error; most errors make TeX read on into the next formula.
BROKEN = [
    "x } y",
    "} x {",
    "\\undefined",
    "\\frac { 1 }",
    "\\frac",
    "\\left( x",
    "x \\right)",
    "\\begin{array} { c } 1",
    "1 \\end{array}",
    "\\begin{array} { c } 1 \\end{matrix}",
    "\\begin{cases} a \\\\",
    "\\begin{array} { c q } 1 \\end{array}",
    "\\begin{array}",
    "x _",
    "x ^ 2 ^ 3",
    "a & b",
    "#",
    "\\hbox",
    "\\sqrt [ 3",
    "\\buildrel x",
    "\\root 3",
    "\\mathop",
    "\\hspace",
    "\\kern",
    "a \\over b \\over c",
    "\\multicolumn",
    "x \\xrightarrow \\mathtt",
    "\\substack",
    "\\vcenter",
    "& " * 150,
    "{" * 400 + "}" * 400,
    "",
    "\\quad",
    "\\rule { 10000pt } { 10000pt }",
    "x \\hspace { 16000pt } x",
]
# Formulas with commands that do more than draw.
POWERFUL = [
    "\\gdef\\alpha{Z} \\alpha",
    "\\global\\let\\beta\\gamma \\beta",
    "\\begin{gdef}\\alpha{Z}\\end{gdef}",
    "^^5cgdef\\alpha{Z} \\alpha",
    "\\catcode`\\+=13 x",
    "\\footnote{a} x",
    "x $ y $ z",
    "x $ y",
    "x % }",
    "x % \\gdef\n + y",
    "a \\end{document} b",
    "\\endinput x",
    "\\errorstopmode x",
    "\\count0=3 x",
    "\\shipout\\hbox{q}",
    "\\aftergroup\\bgroup x",
    "\\egroup x",
    "\\newcommand{\\kappa}{K} x",
    "\\fontdimen6\\font=100pt x",
    "\\input{formulas}",
    "\\special{color push red} x",
    "ä",
]


@LATEX
def test_many_formulas_are_drawn_like_each_alone() -> None:
    formulas = [*GOOD, *BROKEN, *POWERFUL]
    # A valid formula follows each, so that any damage to it is noticed.
    witnesses = [f"\\alpha + \\beta + \\kappa \\quad \\mbox {{ q u a d }} {i}" for i in range(len(formulas))]
    mixed = [formula for pair in zip(formulas, witnesses, strict=True) for formula in pair]
    images = render_all(mixed, renderer="latex")
    with ThreadPoolExecutor() as pool:
        assert_same(formulas, images[::2], list(pool.map(functools.partial(alone, renderer="latex"), formulas)))
    assert_same(witnesses, images[1::2], render_all(witnesses, renderer="latex"))
    drawn = [image is not None for image in images]
    assert all(drawn[1::2]) and all(drawn[: 2 * len(GOOD) : 2])
    assert not any(drawn[2 * len(GOOD) : 2 * len(GOOD) + 2 * len(BROKEN) : 2])


@LATEX
@pytest.mark.parametrize(
    "formula",
    [
        "\\def\\x{\\x}\\x",
        "\\loop\\iftrue\\repeat",
        # Four times the work for each level.
        "\\phantom { " * 40 + "x" + " }" * 40,
        # Fills TeX's memory, and the disk.
        "\\def\\x#1{\\x{#1#1}}\\x{ab}",
        "\\def\\x{\\immediate\\write3{" + "x" * 1000 + "}\\x}\\immediate\\openout3=big \\x",
    ],
)
def test_endless_formulas_are_stopped_and_their_neighbours_are_drawn(formula: str) -> None:
    neighbours = [f"x _ {{ {i} }}" for i in range(4)]
    # A document of five formulas is halved until the formula is alone; each part with it takes two seconds.
    images = render_all([*neighbours[:3], formula, neighbours[3]], renderer="latex", seconds=2, workers=1)
    assert images.pop(3) is None
    assert_same(neighbours, images, render_all(neighbours, renderer="latex"))
    assert all(image is not None for image in images)


@LATEX
def test_formulas_cannot_access_files_outside_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "secret.tex").write_text("secret")
    secret = tmp_path / "secret.png"
    Image.new("L", (40, 40)).save(secret)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    formulas = [
        "\\immediate\\write18{touch escaped} x",
        f"\\immediate\\write18{{touch {tmp_path}/escaped}} x",
        f"\\immediate\\openout3={tmp_path}/escaped \\immediate\\write3{{x}} x",
        "\\immediate\\openout3=../escaped \\immediate\\write3{x} x",
        f"\\input{{{tmp_path}/secret}}",
        f"\\special{{psfile={secret}}} x",
        f"\\special{{PSfile={secret} llx=0 lly=0 urx=40 ury=40 rwi=400}} x",
        "\\immediate\\openout3=formulas.log \\undefined",
        "\\immediate\\openout3=pictures/0.png \\immediate\\write3{x} x",
    ]
    images = render_all([*formulas, "x"], renderer="latex")
    assert images[4] is images[5] is images[6] is None
    # The others draw their x, or nothing.
    assert all(image is None or np.array_equal(image, images[-1]) for image in images)
    assert images[-1] is not None
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["secret.png", "secret.tex", "temporary"]


@LATEX
def test_formulas_read_no_file_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "secret.tex").write_text("W\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = ["/etc/passwd", "/etc/hostname", f"{tmp_path}/secret.tex", "../secret.tex", "\\string~/secret.tex"]
    opened = [f"\\openin3={path} \\ifeof3 x\\else\\read3 to\\x W\\fi" for path in paths]
    included = [f"\\input{{{path}}}" for path in paths]
    images = render_all([*opened, *included, "x", "W"], renderer="latex")
    nothing, something = images.pop(-2), images.pop()
    assert nothing is not None and something is not None and nothing.shape != something.shape
    assert all(image is not None and np.array_equal(image, nothing) for image in images[: len(paths)])
    assert images[len(paths) :] == [None] * len(paths)
    # Reading works where it is allowed: in the folder of the formula.
    own = "\\immediate\\openout3=own \\immediate\\write3{y}\\immediate\\closeout3 " + opened[0].replace(paths[0], "own")
    (image,) = render_all([own], renderer="latex")
    assert image is not None and np.array_equal(image, something)


@pytest.mark.parametrize("renderer", BOTH)
def test_results_stand_in_the_order_of_the_formulas_and_progress_counts_them(renderer: str) -> None:
    formulas = [f"{i} + {i % 7}" for i in range(150)] * 2 + ["\\broken", " x ", "x"]
    reported: list[int] = []
    images = render_all(formulas, 100, 2, renderer, workers=2, progress=reported.append)
    assert sum(reported) == len(formulas) and len(reported) > 1
    for i in (0, 7, 149, 150, 299, 300, 301, 302):
        expected = alone(formulas[i], renderer=renderer)
        assert (images[i] is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(images[i], np.pad(expected, 2, constant_values=255))
    assert images[7] is images[157] and images[301] is images[302]
    assert render_all([], renderer=renderer) == []


def test_the_builtin_renderer_draws_many_as_each_alone() -> None:
    formulas = [*GOOD, *BROKEN[:20], "\\curvearrowright"]
    images = render_all(formulas, renderer="builtin")
    assert_same(formulas, images, [alone(formula, renderer="builtin") for formula in formulas])
    assert images[0] is not None and images[-1] is not None and images[len(GOOD)] is None


def test_only_formulas_of_known_parts_share_a_document() -> None:
    assert all(map(is_local, GOOD))
    assert not any(map(is_local, POWERFUL))


def install(folder: Path, script: str) -> None:
    for program in ("latex", "dvipng"):
        (folder / program).write_text(f"#!/bin/sh\n{script}\n")
        (folder / program).chmod(stat.S_IRWXU)


@pytest.mark.parametrize("draw", [render, lambda formula, renderer: render_all([formula, "y"], renderer=renderer)])
def test_missing_or_broken_programs_are_reported(draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="latex and dvipng cannot be found"):
        draw("x", renderer="latex")
    (tmp_path / "sh").symlink_to(shell)
    install(tmp_path, "exit 1")
    with pytest.raises(UserError, match="latex fails before the first formula"):
        draw("x", renderer="latex")


@LATEX
def test_the_picture_is_that_of_a_document_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / "hand.tex").write_text(
        r"\documentclass{article}\usepackage{amssymb,amsmath}\pagestyle{empty}\begin{document}"
        r"\noindent\hbox{\(\displaystyle\sum_{i=1}^n \mathbb{R}\)}\end{document}"
    )
    for command in (["latex", "-interaction=batchmode", "hand"], ["dvipng", "-D400", "-Ttight", "-ohand.png", "hand"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    by_hand = 255 - np.asarray(Image.open(tmp_path / "hand.png").convert("L")).astype(int)
    rows, columns = (np.flatnonzero(by_hand.any(axis=axis)) for axis in (1, 0))
    drawn = 255 - render("\\sum _ { i = 1 } ^ { n } \\mathbb { R }", 400, border=0, renderer="latex").astype(int)
    # In the handwritten document, positions have other fractions of a pixel.
    assert drawn.shape == pytest.approx((np.ptp(rows) + 1, np.ptp(columns) + 1), abs=1)
    assert drawn.sum() == pytest.approx(by_hand.sum(), rel=0.01)


def test_mathtext_sets_scripts_where_they_belong() -> None:
    # \hslash is beyond the typesetter.
    plain, tokenised = (
        render(latex, renderer="builtin") for latex in ("\\hslash_{LG}^{2}", "\\hslash _ { L G } ^ { 2 }")
    )
    np.testing.assert_array_equal(plain, tokenised)
    beside = render("\\hslash L G 2", renderer="builtin")
    assert plain.shape[0] > beside.shape[0] and plain.shape[1] < beside.shape[1]


@LATEX
def test_a_character_that_the_font_lacks_is_refused_on_request_alone() -> None:
    # The letters of eufm10 end before the place of \Phi (its font table); TeX leaves such characters out.
    pages = [Page("x"), Page(r"\mathfrak { \Phi } x"), Page("y")]
    lenient, strict = draw_pages(pages), draw_pages(pages, whole=True)
    assert all(isinstance(picture, np.ndarray) for picture in lenient)
    assert [str(drawn) for drawn in strict if isinstance(drawn, RenderingError)] == ["a character that the font lacks"]
    assert isinstance(strict[1], RenderingError)
    with pytest.raises(RenderingError, match="a character that the font lacks"):
        draw_page(pages[1], whole=True)


@LATEX
def test_a_page_has_its_own_style_size_and_font() -> None:
    sum_of = r"\sum _ { i } ^ { n }"
    pages = [Page(sum_of), Page(sum_of, style=""), Page("1"), Page("1", before=r"\fontsize{20.74}{25}\selectfont ")]
    drawn = draw_pages(pages, r"\usepackage{mathptmx}")
    display, inline, small, large = (picture for picture in drawn if isinstance(picture, np.ndarray))
    assert inline.shape[0] < 0.6 * display.shape[0]
    assert large.shape[0] == pytest.approx(2.074 * small.shape[0], abs=2)
    assert not np.array_equal(small, draw_pages([Page("1")])[0])


@LATEX
def test_a_failing_preamble_is_reported_with_its_packages() -> None:
    with pytest.raises(UserError, match="its packages amsmath, nofont and amssymb"):
        draw_pages([Page("x"), Page("y")], "\\usepackage[a]{nofont}\n")
