"""LaTeX to images: by latex and dvipng where both are installed, otherwise by the typesetter here and mathtext.

The formulas may come from anybody (a model's predictions, a data set). So TeX runs without shell escape, may read and
write only below a temporary folder of its own, and has limits of time, memory and the size of files; dvipng has the
same limits, and pictures that are included from files are refused.

Starting latex takes a hundred times as long as setting a formula, so `render_all` sets many in one document, a page
each. Only formulas that are known to stay within their group share one: all that is in them is in `_LOCAL`. TeX has
endless ways out of a group (\\gdef, but also \\begin{gdef}, ^^5cgdef, or \\footnote, which counts), so the list says
what is harmless; everything else is set alone. What does not compile shares a document too: TeX goes on after an error,
and its log says between which two formulas that was. Before each formula TeX looks whether what came before is really
over, and stops if it is not; what has no verdict then, or after a crash, is set again in smaller documents.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.errors import UserError
from data.parallel import cores, ordered_map
from data.tokenizer import FUNCTIONS, FormulaError, tokenize
from data.typesetting import draw

RENDERERS = ("latex", "builtin")
SECONDS = 10.0
# The longest side of a picture; the widest of 27,733 real formulas has 5.7.
MAX_INCHES = 30
# Formulas in one document, and in one piece of work for the built-in renderer.
_TOGETHER = 256
_CHUNK = 64

# A formula's commands of these names change nothing but its own picture. Everything is here that LaTeX's math fonts,
# amssymb and amsmath define as a symbol, an accent, an alphabet or a form; not what writes files or moves counters.
LOCAL_NAMES = r"""
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega
    varepsilon vartheta varpi varrho varsigma varphi varkappa digamma Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi
    Psi Omega varGamma varDelta varTheta varLambda varXi varPi varSigma varUpsilon varPhi varPsi varOmega
    aleph beth gimel daleth hbar hslash imath jmath ell wp Re Im eth Bbbk Finv Game mho complement
    partial infty prime backprime emptyset varnothing nabla surd top bot angle measuredangle sphericalangle triangle
    triangledown vartriangle forall exists nexists neg lnot flat natural sharp clubsuit diamondsuit heartsuit spadesuit
    square blacksquare lozenge blacklozenge bigstar blacktriangle blacktriangledown diagup diagdown circledS
    sum prod coprod int iint iiint iiiint idotsint oint smallint bigcap bigcup bigsqcup bigvee bigwedge bigodot
    bigotimes bigoplus biguplus
    pm mp times div ast star circ bullet cdot cdotp cap cup uplus sqcap sqcup vee wedge land lor setminus smallsetminus
    wr diamond bigtriangleup bigtriangledown triangleleft triangleright lhd rhd unlhd unrhd oplus ominus otimes oslash
    odot bigcirc dagger ddagger dag ddag amalg dotplus centerdot ltimes rtimes leftthreetimes rightthreetimes boxdot
    boxminus boxplus boxtimes circledast circledcirc circleddash Cap Cup barwedge veebar doublebarwedge curlywedge
    curlyvee divideontimes intercal
    le ge leq geq leqq geqq leqslant geqslant ne neq prec succ preceq succeq precsim succsim precapprox succapprox
    preccurlyeq succcurlyeq curlyeqprec curlyeqsucc ll gg lll ggg lesssim gtrsim lessapprox gtrapprox lessdot gtrdot
    lessgtr gtrless lesseqgtr gtreqless lesseqqgtr gtreqqless eqslantless eqslantgtr subset supset subseteq supseteq
    subseteqq supseteqq Subset Supset sqsubset sqsupset sqsubseteq sqsupseteq in ni owns notin vdash dashv models vDash
    Vdash Vvdash equiv sim simeq asymp approx approxeq cong doteq doteqdot propto varpropto perp mid parallel shortmid
    shortparallel smile frown smallsmile smallfrown backsim backsimeq bumpeq Bumpeq circeq eqcirc eqsim triangleq
    fallingdotseq risingdotseq thicksim thickapprox between pitchfork because therefore backepsilon blacktriangleleft
    blacktriangleright trianglelefteq trianglerighteq vartriangleleft vartriangleright bowtie Join
    nless ngtr nleq ngeq nleqslant ngeqslant nleqq ngeqq lneq gneq lneqq gneqq lvertneqq gvertneqq lnsim gnsim lnapprox
    gnapprox nprec nsucc npreceq nsucceq precneqq succneqq precnsim succnsim precnapprox succnapprox nsim ncong nmid
    nparallel nshortmid nshortparallel nvdash nvDash nVdash nVDash ntriangleleft ntriangleright ntrianglelefteq
    ntrianglerighteq nsubseteq nsupseteq nsubseteqq nsupseteqq subsetneq supsetneq subsetneqq supsetneqq varsubsetneq
    varsupsetneq varsubsetneqq varsupsetneqq
    to gets leftarrow rightarrow leftrightarrow Leftarrow Rightarrow Leftrightarrow longleftarrow longrightarrow
    longleftrightarrow Longleftarrow Longrightarrow Longleftrightarrow mapsto longmapsto iff implies impliedby
    hookleftarrow hookrightarrow leftharpoonup leftharpoondown rightharpoonup rightharpoondown rightleftharpoons
    leftrightharpoons uparrow downarrow updownarrow Uparrow Downarrow Updownarrow nearrow searrow swarrow nwarrow
    leadsto nleftarrow nrightarrow nLeftarrow nRightarrow nleftrightarrow nLeftrightarrow leftleftarrows
    rightrightarrows leftrightarrows rightleftarrows upuparrows downdownarrows upharpoonleft upharpoonright
    downharpoonleft downharpoonright Lleftarrow Rrightarrow twoheadleftarrow twoheadrightarrow leftarrowtail
    rightarrowtail looparrowleft looparrowright curvearrowleft curvearrowright circlearrowleft circlearrowright Lsh Rsh
    multimap leftrightsquigarrow rightsquigarrow xrightarrow xleftarrow dashrightarrow dashleftarrow
    ldots cdots vdots ddots dots dotsc dotsb dotsm dotsi dotso hdots hdotsfor colon not
    lbrace rbrace lbrack rbrack langle rangle lfloor rfloor lceil rceil vert Vert lvert rvert lVert rVert lgroup rgroup
    lmoustache rmoustache arrowvert Arrowvert bracevert backslash ulcorner urcorner llcorner lrcorner slash
    left right middle big Big bigg Bigg bigl Bigl biggl Biggl bigr Bigr biggr Biggr bigm Bigm biggm Biggm
    mod bmod pmod pod operatorname
    hat check tilde acute grave dot ddot dddot ddddot breve bar vec mathring widehat widetilde overline underline
    overbrace underbrace overrightarrow overleftarrow overleftrightarrow underrightarrow underleftarrow skew
    mathrm mathbf mathit mathsf mathtt mathcal mathbb mathfrak mathnormal boldsymbol pmb boldmath unboldmath mit cal rm
    bf it sf tt sl sc em textrm textbf textit textsf texttt textsc textsl textup textnormal text emph normalfont
    textsubscript textsuperscript itshape bfseries rmfamily sffamily ttfamily mbox hbox ensuremath
    frac dfrac tfrac cfrac binom dbinom tbinom over atop choose above brace brack sqrt root of stackrel overset underset
    buildrel substack mathop mathbin mathrel mathord mathopen mathclose mathpunct mathinner limits nolimits
    displaylimits sp sb phantom hphantom vphantom smash mathstrut strut null rlap llap lefteqn vcenter raisebox makebox
    framebox fbox boxed rule hline cline multicolumn nonumber
    displaystyle textstyle scriptstyle scriptscriptstyle tiny scriptsize footnotesize small normalsize large Large LARGE
    huge Huge
    quad qquad thinspace medspace thickspace negthinspace negmedspace negthickspace enspace enskip space hspace hskip
    kern mkern mskip hfil hfill hss allowbreak nobreak nolinebreak protect relax
    AA aa AE ae OE oe O o L l ss i j b c d S P pounds copyright
"""
_ENVIRONMENTS = "array matrix pmatrix bmatrix Bmatrix vmatrix Vmatrix smallmatrix cases aligned gathered split subarray"
_LOCAL = frozenset(
    [f"\\{name}" for name in LOCAL_NAMES.split()]
    + [f"\\{edge}{{{name}}}" for edge in ("begin", "end") for name in _ENVIRONMENTS.split()]
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
\begin{document}
% What a broken formula leaves outside of its box makes no page.
\output={\setbox0\box255 \deadcycles=0 }
\expandafter\def\csname next formula\endcsname#1{%
  \ifnum\ifvmode\currentgrouplevel\else1\fi=0 % what came before is over; so it is where 1 \if is open, this one
    \immediate\write-1{formula #1, \the\currentiflevel}%
    \noindent\par % sets the count of errors, of which a hundred are too many, to zero
    \count0=#1 % the number of the page
  \else\endinput\fi}
"""
_FORMULA = r"""\csname next formula\endcsname{%d}\shipout\hbox{$\displaystyle %s
$}
"""
_END = r"""\csname next formula\endcsname{%d}\csname @@end\endcsname
"""
_BEGUN = re.compile(r"formula (\d+), 1")
# In kilobytes and blocks of 512 bytes. What cannot be set is lower already.
_LIMITED = ("sh", "-c", 'ulimit -c 0; ulimit -v 1000000; ulimit -f 100000; exec "$@"', "sh")


class RenderingError(ValueError):
    """A formula that the renderer cannot draw."""


class _End(NamedTuple):
    """How a program ended: its exit status, negative if it was killed, and whether it was out of time."""

    status: int
    late: bool


@functools.cache
def default_renderer() -> str:
    """`latex` where latex and dvipng are on the path, otherwise `builtin`."""
    return "latex" if shutil.which("latex") and shutil.which("dvipng") else "builtin"


def render(
    latex: str, dpi: int = 100, border: int = 4, renderer: str | None = None, seconds: float = SECONDS
) -> np.ndarray:
    """Draws a formula of 10 pt in display style, in one line, black on white, cropped to its ink.

    Args:
      latex: the formula, raw or tokenised, without dollars.
      dpi: resolution in dots per inch.
      border: white pixels around the ink.
      renderer: one of RENDERERS; otherwise default_renderer(). Pictures of different renderers differ.
      seconds: the time limit of each program that is run.

    Returns:
      uint8 (H, W), 255 is white.

    Raises:
      RenderingError: the formula is wrong, without ink, larger than MAX_INCHES, took too long, or is beyond the
        built-in renderer.
      UserError: an unknown renderer, or programs that are not installed.
    """
    if _known(renderer) == "latex":
        _find_programs()
        picture = _by_latex(latex.strip(), dpi, seconds)
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
    """Draws formulas as `render` does, thousands a minute; equal formulas once.

    Args:
      formulas: raw or tokenised, without dollars.
      dpi: resolution in dots per inch.
      border: white pixels around the ink.
      renderer: one of RENDERERS; otherwise default_renderer().
      seconds: the time limit of each program that is run, for one formula or for many.
      workers: how many to draw at once, otherwise one for each core.
      progress: called with the number of formulas done since the last call.

    Returns:
      For each formula uint8 (H, W), 255 is white, or None where `render` raises RenderingError. Equal formulas have the
      same array.

    Raises:
      UserError: an unknown renderer, or programs that are not installed or do not work.
    """
    places: dict[str, list[int]] = {}
    for i, latex in enumerate(formulas):
        places.setdefault(latex.strip(), []).append(i)
    draw_batches = _batches_by_latex if _known(renderer) == "latex" else _batches_builtin
    pictures: list[np.ndarray | None] = [None] * len(formulas)
    for batch, drawn in draw_batches(list(places), dpi, seconds, workers or cores()):
        for latex, picture in zip(batch, drawn, strict=True):
            bordered = None if picture is None else _bordered(picture, border)
            for i in places[latex]:
                pictures[i] = bordered
        if progress is not None:
            progress(sum(len(places[latex]) for latex in batch))
    return pictures


def render_png(latex: str, dpi: int = 100, border: int = 4, renderer: str | None = None) -> bytes:
    """Like `render`, as an 8-bit grey PNG."""
    buffer = io.BytesIO()
    Image.fromarray(render(latex, dpi, border, renderer)).save(buffer, "PNG")
    return buffer.getvalue()


def _known(renderer: str | None) -> str:
    renderer = renderer or default_renderer()
    if renderer not in RENDERERS:
        raise UserError(f"there is no renderer {renderer}; the renderers are {', '.join(RENDERERS)}")
    return renderer


def _cropped(picture: np.ndarray) -> np.ndarray:
    """uint8 (H, W), cropped to its ink."""
    ink = picture < 255
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if rows.size == 0:
        raise RenderingError("a formula without ink")
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _bordered(picture: np.ndarray, border: int) -> np.ndarray:
    return np.pad(picture, border, constant_values=255)


def _check_size(sides: tuple[int, ...], dpi: int) -> None:
    if max(sides) > MAX_INCHES * dpi:
        raise RenderingError(f"a picture of more than {MAX_INCHES} inches")


def _in_chunks(items: list[str], size: int) -> list[list[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


# latex and dvipng


def _batches_by_latex(
    formulas: list[str], dpi: int, seconds: float, workers: int
) -> Iterator[tuple[list[str], list[np.ndarray | None]]]:
    """Yields formulas and their pictures, in any order."""
    _find_programs()
    local = [latex for latex in formulas if _is_local(latex)]
    size = min(_TOGETHER, -(-len(local) // workers))
    batches = _in_chunks(local, max(size, 1)) + [[latex] for latex in formulas if not _is_local(latex)]
    # Threads: the work is done by the programs.
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(_together, batch, dpi, seconds): batch for batch in batches}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _together(formulas: list[str], dpi: int, seconds: float) -> list[np.ndarray | None]:
    """The pictures of formulas; more than one only if they are local."""
    pictures: list[np.ndarray | None] = [None] * len(formulas)
    todo = [list(range(len(formulas)))]
    while todo:
        part = todo.pop()
        if len(part) == 1:
            with contextlib.suppress(RenderingError):
                pictures[part[0]] = _by_latex(formulas[part[0]], dpi, seconds)
            continue
        drawn, finished = _one_document([formulas[i] for i in part], dpi, seconds)
        for place, picture in drawn.items():
            pictures[part[place]] = picture
        left = [i for place, i in enumerate(part) if place not in drawn]
        # Where latex came to an end, the first without a verdict is what stopped it, or dvipng; else it may be any.
        cut = 1 if finished else (len(left) + 1) // 2
        todo += [half for half in (left[cut:], left[:cut]) if half]
    return pictures


def _one_document(formulas: list[str], dpi: int, seconds: float) -> tuple[dict[int, np.ndarray | None], bool]:
    """Sets local formulas in one document.

    Returns:
      The picture of each formula of which the verdict is known, None if it cannot be drawn; and whether latex came to
      an end, if need be by giving up, or was killed.
    """
    with tempfile.TemporaryDirectory(prefix="im2latex-") as folder:
        finished = _latex(formulas, folder, seconds).status in (0, 1)
        verdicts = _verdicts(folder)
        pictures: dict[int, np.ndarray | None] = {page: None for page, compiled in verdicts.items() if not compiled}
        pages = [page for page, compiled in verdicts.items() if compiled]
        if finished and pages:
            _dvipng(pages, folder, dpi, seconds)
            for page in pages:
                try:
                    pictures[page] = _page(page, folder, dpi)
                except RenderingError:
                    pictures[page] = None
                except OSError:  # dvipng did not come to this page
                    pass
        return pictures, finished


def _by_latex(latex: str, dpi: int, seconds: float) -> np.ndarray:
    """The picture of one formula, whatever is in it."""
    if not _balanced(_lexemes(latex)):
        raise RenderingError("the braces do not balance")
    with tempfile.TemporaryDirectory(prefix="im2latex-") as folder:
        end = _latex([latex], folder, seconds, "-halt-on-error")
        if end.late:
            raise RenderingError(f"latex took more than {seconds:g} s")
        if end.status != 0:
            raise RenderingError("latex cannot read the formula")
        try:
            # dvipng would put any picture of this machine in.
            if b"psfile" in Path(folder, "formulas.dvi").read_bytes().lower():
                raise RenderingError("a formula with a picture from a file")
            if _dvipng([0], folder, dpi, seconds).late:
                raise RenderingError(f"dvipng took more than {seconds:g} s")
            return _page(0, folder, dpi)
        except OSError as error:
            raise RenderingError("dvipng cannot draw the formula") from error


def _latex(formulas: list[str], folder: str, seconds: float, *options: str) -> _End:
    """Sets formulas on pages from 0."""
    pages = [_FORMULA % (page, latex) for page, latex in enumerate(formulas)]
    document = _DOCUMENT + "".join(pages) + _END % len(formulas)
    Path(folder, "formulas.tex").write_text(document, "utf-8", errors="replace")
    command = ["latex", "-no-shell-escape", "-interaction=batchmode", *options, "formulas.tex"]
    end = _run(command, folder, seconds)
    begun = end.late or any(map(_BEGUN.fullmatch, _log(folder)))
    # What is not local may have done anything to the log.
    if end.status in (0, 1) and not begun and all(map(_is_local, formulas)):
        raise UserError(
            "latex fails before the first formula; see that its packages amsmath and amssymb are installed and that "
            f"{tempfile.gettempdir()} is not full, or use the built-in renderer"
        )
    return end


def _log(folder: str) -> list[str]:
    log = Path(folder, "formulas.log")
    return log.read_text("utf-8", errors="replace").split("\n") if log.exists() else []


def _verdicts(folder: str) -> dict[int, bool]:
    """Whether formulas compiled, by page; those that were begun, and were over when the next began."""
    verdicts: dict[int, bool] = {}
    current, compiled = None, True
    for line in _log(folder):
        if begun := _BEGUN.fullmatch(line):
            page = int(begun[1])
            if current is not None and page == current + 1:
                verdicts[current] = compiled
            current, compiled = page, True
        elif line.startswith("!"):
            compiled = False
    return verdicts


def _dvipng(pages: list[int], folder: str, dpi: int, seconds: float) -> _End:
    """Draws pages into pictures/PAGE.png."""
    # A folder in which no formula has put a font or a list of fonts.
    pictures = Path(folder, "pictures")
    pictures.mkdir()
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
            _check_size(image.size, dpi)
            return _cropped(np.asarray(image.convert("L")))
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


def _find_programs() -> None:
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


def _is_local(latex: str) -> bool:
    """Whether a formula cannot reach beyond its group: whatever is in it is known, and its braces balance."""
    return "^^" not in latex and _LOCAL.issuperset(_LEXEME.findall(latex)) and _balanced(_lexemes(latex))


# The built-in renderer


def _batches_builtin(
    formulas: list[str], dpi: int, seconds: float, workers: int
) -> Iterator[tuple[list[str], list[np.ndarray | None]]]:
    """Yields formulas and their pictures."""
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
            picture = _by_mathtext(tokens, dpi)  # knows more symbols, but no arrays
        _check_size(picture.shape, dpi)
    except FormulaError as error:
        raise RenderingError(str(error)) from error
    except RecursionError as error:
        raise RenderingError("the formula is nested too deeply") from error
    return _cropped(picture)


def _by_mathtext(tokens: list[str], dpi: int) -> np.ndarray:
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser

    if not all(map(str.isascii, tokens)):
        # mathtext draws a box for what its fonts lack, the same for all.
        raise RenderingError("the built-in renderer knows ASCII alone")
    # A lone backslash is a space in the token language.
    formula = " ".join("\\ " if token == "\\" else token for token in tokens).replace("$", r"\$")
    # A blank before the brace would make mathtext draw the script beside its symbol.
    formula = formula.replace("_ {", "_{").replace("^ {", "^{")
    try:
        parsed = MathTextParser("agg").parse(f"${formula}$", dpi, FontProperties(size=10, math_fontfamily="cm"))
    except ValueError as error:
        raise RenderingError("the built-in renderer cannot draw the formula; install latex and dvipng") from error
    return 255 - np.asarray(parsed.image)
