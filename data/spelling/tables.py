r"""LaTeX's commands as `data.spelling` sees them. What has no row here is a symbol that stands for itself."""

from __future__ import annotations

from data.tokenizer import FUNCTIONS


def _names(commands: str) -> frozenset[str]:
    return frozenset(commands.split())


def _pairs(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


# The same look, or the same but for the space around.
SYNONYMS = _pairs(
    r"""\rightarrow \to  \le \leq  \ge \geq  \ne \neq  \land \wedge  \lor \vee  \ast *  \Vert \|  \vert |  \mid |
    \parallel \|  \lvert |  \rvert |  \lVert \|  \rVert \|  \colon :  \lbrace \{  \rbrace \}  \lbrack [  \rbrack ]
    \gets \leftarrow  \isin \in  \owns \ni  \lnot \neg  \iff \Longleftrightarrow  \implies \Longrightarrow
    \impliedby \Longleftarrow  \dag \dagger  \ddag \ddagger  \dotsc \ldots  \dotso \ldots  \hdots \ldots
    \dotsb \cdots  \dotsm \cdots  \dotsi \cdots  \cdotp \cdot  \bot \perp  \slash /
    \arrowvert |  \Arrowvert \|  \restriction \upharpoonright  \doublecap \Cap  \doublecup \Cup
    \llless \lll  \gggtr \ggg
    \square \Box  \lhd \vartriangleleft  \rhd \vartriangleright  \unlhd \trianglelefteq  \unrhd \trianglerighteq
    \leadsto \rightsquigarrow  \doteqdot \Doteq  \bigtriangleup \triangle  \backslash \setminus
    \lt <  \gt >"""
)

# In em.
SPACES = {
    "\\": 0.333, "~": 0.333, "\\ ": 0.333, "\\space": 0.333, "\\,": 0.167, "\\thinspace": 0.167, "\\:": 0.222,
    "\\>": 0.222, "\\medspace": 0.222, "\\;": 0.278, "\\thickspace": 0.278, "\\!": -0.167, "\\negthinspace": -0.167,
    "\\negmedspace": -0.222, "\\negthickspace": -0.278, "\\enspace": 0.5, "\\enskip": 0.5, "\\quad": 1.0,
    "\\qquad": 2.0,
}  # fmt: skip

FONTS = _pairs(
    r"""\mathrm \mathrm  \mathbf \mathbf  \mathit \mathit  \mathcal \mathcal  \mathsf \mathsf  \mathtt \mathtt
    \mathbb \mathbb  \mathfrak \mathfrak  \mathscr \mathscr  \boldsymbol \boldsymbol  \bm \boldsymbol
    \pmb \boldsymbol  \textrm \mathrm  \textup \mathrm  \textnormal \mathrm  \text \mathrm  \mbox \mathrm
    \hbox \mathrm  \textbf \mathbf  \textit \mathit  \emph \mathit  \textsl \mathit  \textsf \mathsf
    \texttt \mathtt  \Bbb \mathbb  \frak \mathfrak"""
)
FONTS["\\mathnormal"] = "\\mathnormal"  # of which only the Greek capitals are other letters
# What \boldsymbol makes of a font: another, or "" where the bold letters have no command of their own.
BOLD = dict.fromkeys(_names(r"\mathrm \mathbf"), "\\mathbf") | dict.fromkeys(_names(r"\mathcal \mathsf \mathit"), "")
TEXT_COMMANDS = frozenset(name for name in FONTS if name.startswith("\\text")) | {"\\emph"}
# Fonts in which words are written.
TEXT_FONTS = _names(r"\mathrm \mathbf \mathit \mathsf \mathtt")
# From here to the end of the group; "" where math has no such font, so that LaTeX draws the same without.
DECLARATIONS = _pairs(
    r"""\cal \mathcal  \bf \mathbf  \rm \mathrm  \it \mathit  \mit \mathnormal  \sf \mathsf  \tt \mathtt"""
) | dict.fromkeys(
    _names(
        r"""\sl \sc \em \boldmath \unboldmath \bfseries \rmfamily \sffamily \ttfamily \itshape \normalfont \tiny
        \scriptsize \footnotesize \small \normalsize \large \Large \LARGE \huge \Huge"""
    ),
    "",
)
STYLES = {"\\displaystyle": 0, "\\textstyle": 1, "\\scriptstyle": 2, "\\scriptscriptstyle": 3}
GREEK_CAPITALS = _names(r"\Gamma \Delta \Theta \Lambda \Xi \Pi \Sigma \Upsilon \Phi \Psi \Omega")

DROPPED = _names(
    r"""\protect \allowbreak \nobreak \hfill \hfil \hss \smallskip \medskip \bigskip \/ \- \mathstrut \strut \null
    \nolinebreak \nulldelimiterspace \noindent \par"""
)
# Whether they leave a space as wide as their argument.
DROPPED_WITH_ARGUMENT = {"\\phantom": True, "\\hphantom": True, "\\vphantom": False}
# Commands that change no more than the space around their argument.
GROUPS = _names(r"\ensuremath \mathbin \mathrel \mathord \mathopen \mathclose \mathpunct \mathinner \smash")

# The sizes of delimiters, em.
BIG_SIZES = {r"\big": 1.2, r"\Big": 1.8, r"\bigg": 2.4, r"\Bigg": 3.0}
BIG_DELIMITERS = {name + side: name for name in BIG_SIZES for side in ("", "l", "r", "m")}
DELIMITER_PAIRS = _pairs(r"( )  [ ]  \{ \}  \langle \rangle  \lfloor \rfloor  \lceil \rceil")
CLOSING = frozenset(DELIMITER_PAIRS.values()) | {"|", "\\|"}

BIG_OPERATORS = _names(
    r"""\sum \prod \coprod \int \iint \iiint \iiiint \oint \idotsint \bigcap \bigcup \bigsqcup \bigvee \bigwedge
    \bigodot \bigotimes \bigoplus \biguplus"""
)
# In display style their scripts stand below and above.
WITH_LIMITS = frozenset(name for name in BIG_OPERATORS if "int" not in name) | _names(
    r"\det \gcd \inf \lim \liminf \limsup \max \min \Pr \sup"
)

ACCENTS = _names(r"\hat \tilde \bar \vec \dot \ddot \dddot \check \breve \acute \grave \mathring")
# Letters by name.
LETTERS = _names(r"\AA \aa \AE \ae \OE \oe \O \o \L \l \ss \i \j")
# Commands with arguments that are formulas: the spelling, and the style of each argument.
_ONE_ARGUMENT = ACCENTS | _names(
    r"""\widehat \widetilde \overline \underline \overrightarrow \overleftarrow \overleftrightarrow \underrightarrow
    \underleftarrow \fbox \boxed \textsc"""
)
ARGUMENTS: dict[str, tuple[str, tuple[str, ...]]] = {name: (name, ("same",)) for name in _ONE_ARGUMENT}
ARGUMENTS |= {"\\" + name.capitalize(): ("\\" + name, ("same",)) for name in
              ("hat", "tilde", "bar", "vec", "dot", "ddot", "check", "breve", "acute", "grave")}  # fmt: skip
ARGUMENTS |= {name: (name, ("smaller", "smaller")) for name in ("\\frac", "\\binom")}
ARGUMENTS |= {name: ("\\stackrel", ("script", "same")) for name in ("\\stackrel", "\\overset")}
ARGUMENTS |= {name: (name, ("display",)) for name in ("\\overbrace", "\\underbrace")}
ARGUMENTS |= {
    "\\underset": ("\\underset", ("script", "same")),
    "\\substack": ("\\substack", ("script",)),
    "\\xrightarrow": ("\\xrightarrow", ("script",)),
    "\\xleftarrow": ("\\xleftarrow", ("script",)),
    "\\pmod": ("\\pmod", ("same",)),
}
INFIX = _names(r"\atop \brace \brack")

# What upright letters are the name of.
UPRIGHT_NAMES = {name[1:]: name for name in FUNCTIONS - {"\\liminf", "\\limsup"}} | {"mod": "\\bmod"}

NEGATED = _pairs(r"= \neq  \in \notin")
# \dots before one of these is \cdots in amsmath.
OPERATORS_AND_RELATIONS = _names(
    r"""+ - = < > * : \pm \mp \times \cdot \circ \cap \cup \vee \wedge \oplus \otimes \leq \geq \neq \equiv \sim \simeq
    \approx \subset \subseteq \supset \supseteq \to \leftarrow \Longrightarrow \Rightarrow \longrightarrow \mapsto \sum
    \prod \int \oint \bigoplus \bigotimes \bigcup \bigcap \prec \succ \ll \gg \hookrightarrow \cong \setminus"""
)

# What they are written as: the environment, the columns, the delimiters around.
ENVIRONMENTS: dict[str, tuple[str, str, str, str]] = {
    "matrix": ("array", "c", ".", "."),
    "pmatrix": ("array", "c", "(", ")"),
    "bmatrix": ("array", "c", "[", "]"),
    "Bmatrix": ("array", "c", "\\{", "\\}"),
    "vmatrix": ("array", "c", "|", "|"),
    "Vmatrix": ("array", "c", "\\|", "\\|"),
    "cases": ("array", "l", "\\{", "."),
    "tabular": ("array", "", ".", "."),
    "split": ("aligned", "", ".", "."),
}
# Those that are written as they are, without arguments.
OTHER_ENVIRONMENTS = _names("array aligned gathered smallmatrix")
# Commands with arguments that are no formulas, or that are seldom: they stay as they are, as do commands that are not
# known at all.
WITH_OTHER_ARGUMENTS = _names(
    r"""\rlap \llap \lefteqn \raisebox \makebox \framebox \multicolumn \cline \rule \textsubscript \textsuperscript
    \skew \root \above \buildrel \vcenter \hspace \hskip \kern \mkern \mskip \substack \b \c \d"""
)
