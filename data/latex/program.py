"""Draws untrusted formulas with latex and dvipng: many per document, in any font and size.

The formulas are untrusted: they may come from a model's predictions or a data set. Therefore TeX runs without shell
escape, can read and write only in its own temporary folder, and has limits on time, memory and file sizes. dvipng has
the same limits, and images included from files are refused.

Starting latex takes a hundred times as long as setting a formula, so `draw_pages` sets many formulas in a document, one
per page. Formulas share a document only if they are local, that is, cannot have effects outside their group. Because
TeX has countless ways to leave a group (\\gdef, but also \\begin{gdef}, ^^5cgdef, or \\footnote, which changes a
counter), `_LOCAL` lists the harmless commands; a formula with any other command gets a document of its own. A formula
with an error does not harm the others: TeX continues after an error, and its log tells which formula it belongs to.
Before each formula TeX checks that the previous one has ended, and stops if it has not. Formulas without a result after
that, or after a crash, are set again in smaller documents.
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
# Maximum length of an image's longer side. The widest of 27,733 real formulas has 5.7 inches.
MAX_INCHES = 30

_LOCAL = frozenset(
    [f"\\{name}" for name in LOCAL_NAMES.split()]
    + [f"\\{edge}{{{name}}}" for edge in ("begin", "end") for name in LOCAL_ENVIRONMENTS.split()]
    + [f"\\{mark}" for mark in " \t\n,;:!>|{}\\#&_%$/-*"]
    # A backslash at the end of a formula is a space, because a line end follows.
    + list(" \t\n!\"#&'()*+,-./:;<=>?@[\\]^_`{|}~0123456789")
    + list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    + list(FUNCTIONS)
)
_LEXEME = re.compile(r"%[^\n]*\n?|\\(?:begin|end)\{[a-zA-Z]+\*?\}|\\[a-zA-Z]+|\\.|.", re.DOTALL)

# The command's name contains a space, so that no formula can call it.
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
# Limits on virtual memory (kilobytes) and file sizes (blocks of 512 bytes). Setting one fails if it is lower already.
_LIMITED = ("sh", "-c", 'ulimit -c 0; ulimit -v 1000000; ulimit -f 100000; exec "$@"', "sh")


class RenderingError(ValueError):
    """A formula that the renderer cannot draw."""


class Page(NamedTuple):
    r"""A formula and how to set it.

    Attributes:
      latex: the formula, raw or tokenised, without dollars.
      dpi: resolution in dots per inch.
      style: LaTeX to insert after the opening dollar, such as \displaystyle.
      before: LaTeX to insert before the opening dollar: size and weight.
    """

    latex: str
    dpi: int = 100
    style: str = "\\displaystyle"
    before: str = ""


class _End(NamedTuple):
    """How a program ended: its exit status, negative if it was killed, and whether it exceeded the time limit."""

    status: int
    late: bool


def draw_pages(
    pages: Sequence[Page], preamble: str = "", seconds: float = SECONDS, whole: bool = False
) -> list[np.ndarray | RenderingError]:
    """Draws formulas with few program starts, each on one line, black on white, cropped to its ink.

    Args:
      pages: the formulas; several only if all of them are local, see `is_local`.
      preamble: LaTeX that loads fonts, inserted after amsmath and amssymb.
      seconds: time limit for each external program.
      whole: refuse formulas with a character that the font lacks; TeX would leave it out.

    Returns:
      For each page its image, uint8 (H, W), 255 is white, or the error.

    Raises:
      UserError: the programs are not installed or do not work.
    """
    drawn: list[np.ndarray | RenderingError] = [RenderingError("not drawn")] * len(pages)
    pending = [list(range(len(pages)))]
    while pending:
        part = pending.pop()
        if len(part) == 1:
            try:
                drawn[part[0]] = draw_page(pages[part[0]], preamble, seconds, whole)
            except RenderingError as error:
                drawn[part[0]] = error
            continue
        results, finished = _one_document([pages[i] for i in part], preamble, seconds, whole)
        for index, result in results.items():
            drawn[part[index]] = result
        remaining = [i for index, i in enumerate(part) if index not in results]
        # If latex ended by itself, the first formula without a result is the one that stopped latex or dvipng;
        # otherwise it may be any of them.
        half = 1 if finished else (len(remaining) + 1) // 2
        pending += [indices for indices in (remaining[half:], remaining[:half]) if indices]
    return drawn


def draw_page(page: Page, preamble: str = "", seconds: float = SECONDS, whole: bool = False) -> np.ndarray:
    """Draws one formula like `draw_pages`; it need not be local.

    Raises:
      RenderingError: the formula is invalid, has no ink, is larger than MAX_INCHES, or took too long.
      UserError: the programs are not installed or do not work.
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
            # dvipng would include any image file of this machine.
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
    """Draws local formulas in one document.

    Returns:
      The image or error of each formula that has a result, by index; and whether latex ended by itself, even with
      errors, instead of being killed.
    """
    with tempfile.TemporaryDirectory(prefix="im2latex-") as folder:
        finished = _latex(pages, folder, preamble, seconds).status in (0, 1)
        errors = _first_errors(folder, whole)
        drawn: dict[int, np.ndarray | RenderingError] = {
            index: RenderingError(problem) for index, problem in errors.items() if problem
        }
        compiled = [index for index, problem in errors.items() if not problem]
        for dpi in sorted({pages[index].dpi for index in compiled}) if finished else ():
            same = [index for index in compiled if pages[index].dpi == dpi]
            _dvipng(same, folder, dpi, seconds)
            for index in same:
                try:
                    drawn[index] = _page(index, folder, dpi)
                except RenderingError as error:
                    drawn[index] = error
                except OSError:  # dvipng stopped before this page
                    pass
        return drawn, finished


def _latex(pages: Sequence[Page], folder: str, preamble: str, seconds: float, *options: str) -> _End:
    """Runs latex on a document with one formula per page, numbered from 0."""
    bodies = [_FORMULA % (number, page.before, page.style, page.latex) for number, page in enumerate(pages)]
    document = _DOCUMENT.replace("%s", preamble, 1) + "".join(bodies) + _END % len(pages)
    Path(folder, "formulas.tex").write_text(document, "utf-8", errors="replace")
    command = ["latex", "-no-shell-escape", "-interaction=batchmode", *options, "formulas.tex"]
    end = _run(command, folder, seconds)
    begun = end.late or any(map(_BEGUN.fullmatch, _log(folder)))
    # A formula that is not local may have written anything to the log.
    if end.status in (0, 1) and not begun and all(is_local(page.latex) for page in pages):
        raise UserError(
            f"latex fails before the first formula; check that {_packages(preamble)} are installed and that "
            f"{tempfile.gettempdir()} is not full, or use the built-in renderer"
        )
    return end


def _packages(preamble: str) -> str:
    names = re.findall(r"\\usepackage(?:\[.*?\])?\{(.*?)\}", preamble)
    return f"its packages {', '.join(['amsmath', *names])} and amssymb"


def _log(folder: str) -> list[str]:
    log = Path(folder, "formulas.log")
    return log.read_text("utf-8", errors="replace").split("\n") if log.exists() else []


def _first_errors(folder: str, whole: bool) -> dict[int, str]:
    """Returns the first error of each formula that ended before the next one began, by index; "" if it compiled."""
    errors: dict[int, str] = {}
    current, problem = None, ""
    for line in _log(folder):
        if begun := _BEGUN.fullmatch(line):
            number = int(begun[1])
            if current is not None and number == current + 1:
                errors[current] = problem
            current, problem = number, ""
        elif line.startswith("!"):
            problem = problem or f"latex: {line.lstrip('! ').rstrip('.')}"
        elif whole and line.startswith(_LOST):
            problem = problem or _LACKS
    return errors


def _dvipng(pages: list[int], folder: str, dpi: int, seconds: float) -> _End:
    """Draws pages into pictures/PAGE.png."""
    # In a folder of its own, because a formula may have written fonts or font lists to the other one.
    pictures = Path(folder, "pictures")
    pictures.mkdir(exist_ok=True)
    page_list = ",".join(map(str, pages))
    options = ["--noghostscript", "--dvinum", "-q", "-T", "tight", "-D", str(dpi), "-pp", page_list, "-o", "%d.png"]
    return _run(["dvipng", *options, "../formulas.dvi"], str(pictures), seconds)


def _page(page: int, folder: str, dpi: int) -> np.ndarray:
    """Reads the image that dvipng drew for a page.

    Raises:
      OSError: the image is missing or incomplete.
      RenderingError: the image is too large or has no ink.
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
        # p (paranoid): no absolute paths and no parent folders.
        "openin_any": "p",
        "openout_any": "p",
        # Do not generate missing fonts: that would start further programs.
        "MKTEXPK": "0",
        "MKTEXTFM": "0",
        # Do not wrap lines of the log.
        "max_print_line": "1000",
    }
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        [*_LIMITED, *command], cwd=folder, env=environment, stdin=quiet, stdout=quiet, stderr=quiet
    ) as process:
        try:
            return _End(process.wait(seconds), late=False)
        except subprocess.TimeoutExpired:
            # On an interrupt, latex still writes its log and the finished pages.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(1)
            except subprocess.TimeoutExpired:
                process.kill()
            return _End(process.wait(), late=True)


def find_programs() -> None:
    """Raises UserError if latex or dvipng is not on the path."""
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
    """Returns whether a formula cannot have effects outside its group: all commands are known, and braces balance."""
    return "^^" not in latex and _LOCAL.issuperset(_LEXEME.findall(latex)) and _balanced(_lexemes(latex))


def unknown_command(latex: str) -> str | None:
    """Returns the first command or character of a formula that is not in `_LOCAL`; None if there is none."""
    return next((lexeme for lexeme in _LEXEME.findall(latex) if lexeme not in _LOCAL), None)


def cropped(picture: np.ndarray) -> np.ndarray:
    """Crops an image, uint8 (H, W), to its ink.

    Raises:
      RenderingError: there is no ink.
    """
    ink = picture < 255
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if rows.size == 0:
        raise RenderingError("a formula without ink")
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def check_size(sides: tuple[int, ...], dpi: int) -> None:
    """Raises RenderingError if an image is larger than MAX_INCHES."""
    if max(sides) > MAX_INCHES * dpi:
        raise RenderingError(f"a picture of more than {MAX_INCHES} inches")
