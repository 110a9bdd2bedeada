"""LaTeX by latex and dvipng: many formulas in one document, in any font and at any size, safe against what is in them.

The formulas may come from anybody (a model's predictions, a data set). So TeX runs without shell escape, may read and
write only below a temporary folder of its own, and has limits of time, memory and the size of files; dvipng has the
same limits, and pictures that are included from files are refused.

Starting latex takes a hundred times as long as setting a formula, so `draw_pages` sets many in one document, a page
each. Only formulas that are known to stay within their group share one: all that is in them is in `_LOCAL`. TeX has
endless ways out of a group (\\gdef, but also \\begin{gdef}, ^^5cgdef, or \\footnote, which counts), so the list says
what is harmless; everything else is set alone. What does not compile shares a document too: TeX goes on after an error,
and its log says between which two formulas that was. Before each formula TeX looks whether what came before is really
over, and stops if it is not; what has no verdict then, or after a crash, is set again in smaller documents.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from im2latex.errors import UserError
from im2latex.latex_commands import FUNCTIONS, LOCAL_ENVIRONMENTS, LOCAL_NAMES

SECONDS = 10.0
# The longest side of a picture; the widest of 27,733 real formulas has 5.7.
MAX_INCHES = 30

_LOCAL = frozenset(
    [f"\\{name}" for name in LOCAL_NAMES.split()]
    + [f"\\{edge}{{{name}}}" for edge in ("begin", "end") for name in LOCAL_ENVIRONMENTS.split()]
    + [f"\\{mark}" for mark in " \t\n,;:!>|{}\\#&_%$/-*"]
    # A backslash at the end is a space, since a line ends behind it.
    + list(" \t\n!\"#&'()*+,-./:;<=>?@[\\]^_`{|}~0123456789")
    + list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    + list(FUNCTIONS)
)
_LEXEME = re.compile(r"%[^\n]*\n?|\\(?:begin|end)\{[a-zA-Z]+\*?\}|\\[a-zA-Z]+|\\.|.", re.DOTALL)

# The name has a space, so that no formula can say it.
_DOCUMENT = r"""\documentclass[10pt]{article}
\usepackage{amsmath,amssymb}
%s\begin{document}
% What a broken formula leaves outside of its box makes no page.
\output={\setbox0\box255 \deadcycles=0 }
\expandafter\def\csname next formula\endcsname#1{%
  \ifnum\ifvmode\currentgrouplevel\else1\fi=0 % what came before is over; so it is where 1 \if is open, this one
    \immediate\write-1{formula #1, \the\currentiflevel}%
    \noindent\par % sets the count of errors, of which a hundred are too many, to zero
    \count0=#1 % the number of the page
  \else\endinput\fi}
"""
_FORMULA = r"""\csname next formula\endcsname{%d}\shipout\hbox{%s$%s %s
$}
"""
_END = r"""\csname next formula\endcsname{%d}\csname @@end\endcsname
"""
_BEGUN = re.compile(r"formula (\d+), 1")
_LOST = "Missing character: "
_LACKS = "a character that the font lacks"
# In kilobytes and blocks of 512 bytes. What cannot be set is lower already.
_LIMITED = ("sh", "-c", 'ulimit -c 0; ulimit -v 1000000; ulimit -f 100000; exec "$@"', "sh")


class RenderingError(ValueError):
    """A formula that the renderer cannot draw."""


class Page(NamedTuple):
    r"""A formula and how it is set.

    Attributes:
      latex: the formula, raw or tokenised, without dollars.
      style: what stands behind the first dollar.
      before: what stands before it: size, weight.
      dpi: resolution in dots per inch.
    """

    latex: str
    dpi: int = 100
    style: str = "\\displaystyle"
    before: str = ""


class _End(NamedTuple):
    """How a program ended: its exit status, negative if it was killed, and whether it was out of time."""

    status: int
    late: bool


def draw_pages(
    pages: Sequence[Page], preamble: str = "", seconds: float = SECONDS, whole: bool = False
) -> list[np.ndarray | RenderingError]:
    """Draws formulas in one process, each in one line, black on white, cropped to its ink.

    Args:
      pages: the formulas; more than one only if all are local.
      preamble: LaTeX that loads fonts, behind amsmath and amssymb.
      seconds: the time limit of each program that is run.
      whole: refuse formulas with a character that the font lacks, which TeX leaves out.

    Returns:
      For each page uint8 (H, W), 255 is white, or why it cannot be drawn.

    Raises:
      UserError: programs that are not installed or do not work.
    """
    drawn: list[np.ndarray | RenderingError] = [RenderingError("not drawn")] * len(pages)
    todo = [list(range(len(pages)))]
    while todo:
        part = todo.pop()
        if len(part) == 1:
            try:
                drawn[part[0]] = draw_page(pages[part[0]], preamble, seconds, whole)
            except RenderingError as error:
                drawn[part[0]] = error
            continue
        verdicts, finished = _one_document([pages[i] for i in part], preamble, seconds, whole)
        for place, verdict in verdicts.items():
            drawn[part[place]] = verdict
        left = [i for place, i in enumerate(part) if place not in verdicts]
        # Where latex came to an end, the first without a verdict is what stopped it, or dvipng; else it may be any.
        cut = 1 if finished else (len(left) + 1) // 2
        todo += [half for half in (left[cut:], left[:cut]) if half]
    return drawn


def draw_page(page: Page, preamble: str = "", seconds: float = SECONDS, whole: bool = False) -> np.ndarray:
    """Draws one formula, whatever is in it, as `draw_pages` does.

    Raises:
      RenderingError: the formula is wrong, without ink, larger than MAX_INCHES, or took too long.
      UserError: programs that are not installed or do not work.
    """
    if not _balanced(_lexemes(page.latex)):
        raise RenderingError("the braces do not balance")
    with tempfile.TemporaryDirectory(prefix="im2latex-") as folder:
        end = _latex([page], folder, preamble, seconds, "-halt-on-error")
        if end.late:
            raise RenderingError(f"latex took more than {seconds:g} s")
        if end.status != 0:
            raise RenderingError("latex cannot read the formula")
        if whole and any(line.startswith(_LOST) for line in _log(folder)):
            raise RenderingError(_LACKS)
        try:
            # dvipng would put any picture of this machine in.
            if b"psfile" in Path(folder, "formulas.dvi").read_bytes().lower():
                raise RenderingError("a formula with a picture from a file")
            if _dvipng([0], folder, page.dpi, seconds).late:
                raise RenderingError(f"dvipng took more than {seconds:g} s")
            return _page(0, folder, page.dpi)
        except OSError as error:
            raise RenderingError("dvipng cannot draw the formula") from error


def _one_document(
    pages: list[Page], preamble: str, seconds: float, whole: bool
) -> tuple[dict[int, np.ndarray | RenderingError], bool]:
    """Sets local formulas in one document.

    Returns:
      The picture of each formula of which the verdict is known, or why it cannot be drawn; and whether latex came to
      an end, if need be by giving up, or was killed.
    """
    with tempfile.TemporaryDirectory(prefix="im2latex-") as folder:
        finished = _latex(pages, folder, preamble, seconds).status in (0, 1)
        verdicts = _verdicts(folder, whole)
        drawn: dict[int, np.ndarray | RenderingError] = {
            place: RenderingError(wrong) for place, wrong in verdicts.items() if wrong
        }
        compiled = [place for place, wrong in verdicts.items() if not wrong]
        for dpi in sorted({pages[place].dpi for place in compiled}) if finished else ():
            same = [place for place in compiled if pages[place].dpi == dpi]
            _dvipng(same, folder, dpi, seconds)
            for place in same:
                try:
                    drawn[place] = _page(place, folder, dpi)
                except RenderingError as error:
                    drawn[place] = error
                except OSError:  # dvipng did not come to this page
                    pass
        return drawn, finished


def _latex(pages: Sequence[Page], folder: str, preamble: str, seconds: float, *options: str) -> _End:
    """Sets formulas on pages from 0."""
    bodies = [_FORMULA % (place, page.before, page.style, page.latex) for place, page in enumerate(pages)]
    document = _DOCUMENT.replace("%s", preamble, 1) + "".join(bodies) + _END % len(pages)
    Path(folder, "formulas.tex").write_text(document, "utf-8", errors="replace")
    command = ["latex", "-no-shell-escape", "-interaction=batchmode", *options, "formulas.tex"]
    end = _run(command, folder, seconds)
    begun = end.late or any(map(_BEGUN.fullmatch, _log(folder)))
    # What is not local may have done anything to the log.
    if end.status in (0, 1) and not begun and all(is_local(page.latex) for page in pages):
        raise UserError(
            f"latex fails before the first formula; see that {_packages(preamble)} are installed and that "
            f"{tempfile.gettempdir()} is not full, or use the built-in renderer"
        )
    return end


def _packages(preamble: str) -> str:
    names = re.findall(r"\\usepackage(?:\[.*?\])?\{(.*?)\}", preamble)
    return f"its packages {', '.join(['amsmath', *names])} and amssymb"


def _log(folder: str) -> list[str]:
    log = Path(folder, "formulas.log")
    return log.read_text("utf-8", errors="replace").split("\n") if log.exists() else []


def _verdicts(folder: str, whole: bool) -> dict[int, str]:
    """The first error of each formula, empty if it compiled; of those that were begun and over when the next began."""
    verdicts: dict[int, str] = {}
    current, wrong = None, ""
    for line in _log(folder):
        if begun := _BEGUN.fullmatch(line):
            place = int(begun[1])
            if current is not None and place == current + 1:
                verdicts[current] = wrong
            current, wrong = place, ""
        elif line.startswith("!"):
            wrong = wrong or f"latex: {line.lstrip('! ').rstrip('.')}"
        elif whole and line.startswith(_LOST):
            wrong = wrong or _LACKS
    return verdicts


def _dvipng(pages: list[int], folder: str, dpi: int, seconds: float) -> _End:
    """Draws pages into pictures/PAGE.png."""
    # A folder in which no formula has put a font or a list of fonts.
    pictures = Path(folder, "pictures")
    pictures.mkdir(exist_ok=True)
    chosen = ",".join(map(str, pages))
    options = ["--noghostscript", "--dvinum", "-q", "-T", "tight", "-D", str(dpi), "-pp", chosen, "-o", "%d.png"]
    return _run(["dvipng", *options, "../formulas.dvi"], str(pictures), seconds)


def _page(page: int, folder: str, dpi: int) -> np.ndarray:
    """Reads what dvipng drew.

    Raises:
      OSError: nothing, or not to the end.
      RenderingError: too large, or without ink.
    """
    try:
        with Image.open(Path(folder, "pictures", f"{page}.png")) as image:
            check_size(image.size, dpi)
            return cropped(np.asarray(image.convert("L")))
    except Image.DecompressionBombError as error:
        raise RenderingError("a picture of too many pixels") from error


def _run(command: list[str], folder: str, seconds: float) -> _End:
    environment = {
        **os.environ,
        "HOME": folder,
        "TEXMFOUTPUT": folder,
        # p: paranoid, no absolute paths and none upwards.
        "openin_any": "p",
        "openout_any": "p",
        # Fonts that are missing are not made: that would run further programs.
        "MKTEXPK": "0",
        "MKTEXTFM": "0",
        # Lines of the log are not broken.
        "max_print_line": "1000",
    }
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        [*_LIMITED, *command], cwd=folder, env=environment, stdin=quiet, stdout=quiet, stderr=quiet
    ) as process:
        try:
            return _End(process.wait(seconds), late=False)
        except subprocess.TimeoutExpired:
            # Interrupted, latex still writes all that it has to the log and the document.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(1)
            except subprocess.TimeoutExpired:
                process.kill()
            return _End(process.wait(), late=True)


def find_programs() -> None:
    """Raises UserError where latex or dvipng is not on the path."""
    missing = [program for program in ("latex", "dvipng") if shutil.which(program) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} cannot be found; install them, or use the built-in renderer")


def _lexemes(latex: str) -> list[str]:
    return [lexeme for lexeme in _LEXEME.findall(latex) if not lexeme.startswith("%")]


def _balanced(lexemes: list[str]) -> bool:
    depth = 0
    for lexeme in lexemes:
        depth += (lexeme == "{") - (lexeme == "}")
        if depth < 0:
            return False
    return depth == 0


def is_local(latex: str) -> bool:
    """Whether a formula cannot reach beyond its group: whatever is in it is known, and its braces balance."""
    return "^^" not in latex and _LOCAL.issuperset(_LEXEME.findall(latex)) and _balanced(_lexemes(latex))


def unknown_command(latex: str) -> str | None:
    """The first thing in a formula that is not known to stay within its group; None where all is."""
    return next((lexeme for lexeme in _LEXEME.findall(latex) if lexeme not in _LOCAL), None)


def cropped(picture: np.ndarray) -> np.ndarray:
    """uint8 (H, W), cropped to its ink."""
    ink = picture < 255
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if rows.size == 0:
        raise RenderingError("a formula without ink")
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def check_size(sides: tuple[int, ...], dpi: int) -> None:
    """Raises RenderingError where a picture is larger than MAX_INCHES."""
    if max(sides) > MAX_INCHES * dpi:
        raise RenderingError(f"a picture of more than {MAX_INCHES} inches")
