r"""Tables of LaTeX's commands.

They say how `im2latex.tokenizer` parses each command, whether `data.latex.program` may draw it in one document with
other formulas, how `data.spelling` spells it, and how `im2latex.clean` writes it. The symbols of the built-in
typesetter are in `data.latex.computer_modern`, with their glyphs.
"""

from __future__ import annotations


def _names(commands: str) -> frozenset[str]:
    return frozenset(commands.split())


def _pairs(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


# Tables of the tokenizer.

FORMULA_ENVIRONMENTS = (
    "equation", "equation*", "displaymath", "math", "align", "align*", "eqnarray", "eqnarray*", "gather", "gather*",
    "multline", "multline*",
)  # fmt: skip
WITHOUT_INK = {"\\nonumber", "\\notag", "\\limits", "\\nolimits", "\\relax", "\\displaylimits", "$"}
WITHOUT_INK_ARGUMENT = {"\\label", "\\tag", "\\tag*", "\\vspace", "\\vspace*", "\\ref", "\\cite"}
RENAMED = {"\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\hspace*": "\\hspace"}
OPTION_AND_ARGUMENT = {"\\sqrt", "\\xrightarrow", "\\xleftarrow"}
TWO_ARGUMENTS = {"\\frac", "\\binom", "\\stackrel", "\\overset", "\\underset"}
ONE_ARGUMENT = _names(
    r"""\hat \widehat \tilde \widetilde \bar \vec \dot \ddot \dddot \check \breve \acute \grave \mathring \overline
    \underline \overbrace \underbrace \overrightarrow \overleftarrow \mathrm \mathbf \mathit \mathcal \mathsf \mathtt
    \mathbb \mathfrak \mathscr \boldsymbol \bm \pmb \phantom \hphantom \vphantom \smash \mathop \mathbin \mathrel
    \mathord \mathopen \mathclose \mathpunct \hspace \substack \pmod \fbox \boxed"""
)
# Text commands: some, such as \mbox, become \mathrm; the others keep their names.
TEXT_AS_MATHRM = {"\\mbox", "\\hbox", "\\text"}
TEXT_ARGUMENT = TEXT_AS_MATHRM | _names(
    r"\textrm \textbf \textit \textsf \texttt \textsc \textup \textnormal \emph \ensuremath"
)
FRACTIONS = {"\\over": "\\frac", "\\choose": "\\binom"}
FUNCTIONS = _names(
    r"""\arccos \arcsin \arctan \arg \cos \cosh \cot \coth \csc \deg \det \dim \exp \gcd \hom \inf \ker \lg \lim \liminf
    \limsup \ln \log \max \min \Pr \sec \sin \sinh \sup \tan \tanh"""
)


SCRIPT_MARKS = {"\\sp": "^", "\\sb": "_"}

# Commands that are allowed in a document with several formulas.

# These commands have no effect outside their formula: the symbols, accents, alphabets and forms of LaTeX, amssymb and
# amsmath, but no commands that write files or change counters.
LOCAL_NAMES = r"""
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega
    varepsilon vartheta varpi varrho varsigma varphi varkappa digamma Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi
    Psi Omega varGamma varDelta varTheta varLambda varXi varPi varSigma varUpsilon varPhi varPsi varOmega
    aleph beth gimel daleth hbar hslash imath jmath ell wp Re Im eth Bbbk Finv Game mho complement
    partial infty prime backprime emptyset varnothing nabla surd top bot angle measuredangle sphericalangle triangle
    triangledown vartriangle forall exists nexists neg lnot flat natural sharp clubsuit diamondsuit heartsuit spadesuit
    square Box Diamond blacksquare lozenge blacklozenge bigstar blacktriangle blacktriangledown diagup diagdown circledS
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
LOCAL_ENVIRONMENTS = (
    "array matrix pmatrix bmatrix Bmatrix vmatrix Vmatrix smallmatrix cases aligned gathered split subarray"
)

# Tables of the normal form.

# Pairs of commands that look the same, except perhaps for the space around them.
SYNONYMS = _pairs(
    r"""\rightarrow \to  \le \leq  \ge \geq  \ne \neq  \land \wedge  \lor \vee  \ast *  \Vert \|  \vert |  \mid |
    \parallel \|  \lvert |  \rvert |  \lVert \|  \rVert \|  \colon :  \lbrace \{  \rbrace \}  \lbrack [  \rbrack ]
    \gets \leftarrow  \isin \in  \owns \ni  \lnot \neg  \iff \Longleftrightarrow  \implies \Longrightarrow
    \impliedby \Longleftarrow  \dag \dagger  \ddag \ddagger  \dotsc \ldots  \dotso \ldots  \hdots \ldots
    \dotsb \cdots  \dotsm \cdots  \dotsi \cdots  \cdotp \cdot  \bot \perp  \slash /
    \arrowvert |  \Arrowvert \|  \restriction \upharpoonright  \doublecap \Cap  \doublecup \Cup
    \llless \lll  \gggtr \ggg
    \square \Box  \vartriangleleft \lhd  \vartriangleright \rhd  \unlhd \trianglelefteq  \unrhd \trianglerighteq
    \rightsquigarrow \leadsto  \Doteq \doteqdot  \bigtriangleup \triangle  \backslash \setminus
    \lt <  \gt >"""
)

# Widths of space commands in em.
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
FONTS["\\mathnormal"] = "\\mathnormal"  # changes only the Greek capitals
# The font of \boldsymbol within a font; "" if the bold letters have no command of their own.
BOLD = dict.fromkeys(_names(r"\mathrm \mathbf"), "\\mathbf") | dict.fromkeys(_names(r"\mathcal \mathsf \mathit"), "")
TEXT_COMMANDS = frozenset(name for name in FONTS if name.startswith("\\text")) | {"\\emph"}
TEXT_ACCENTS = frozenset(f"\\{mark}" for mark in "'`\"^~=.")
# Fonts for words.
TEXT_FONTS = _names(r"\mathrm \mathbf \mathit \mathsf \mathtt")
# Font declarations, which apply up to the end of the group; "" if they have no effect in math mode.
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
# Dropped commands with an argument, and whether they leave a space of its width.
DROPPED_WITH_ARGUMENT = {"\\phantom": True, "\\hphantom": True, "\\vphantom": False}
# Commands that change only the space around their argument.
GROUPS = _names(r"\ensuremath \mathbin \mathrel \mathord \mathopen \mathclose \mathpunct \mathinner")

# Sizes of delimiters in em.
BIG_SIZES = {r"\big": 1.2, r"\Big": 1.8, r"\bigg": 2.4, r"\Bigg": 3.0}
BIG_DELIMITERS = {name + side: name for name in BIG_SIZES for side in ("", "l", "r", "m")}
DELIMITER_PAIRS = _pairs(r"( )  [ ]  \{ \}  \langle \rangle  \lfloor \rfloor  \lceil \rceil")
CLOSING = frozenset(DELIMITER_PAIRS.values()) | {"|", "\\|"}

BIG_OPERATORS = _names(
    r"""\sum \prod \coprod \int \iint \iiint \iiiint \oint \idotsint \bigcap \bigcup \bigsqcup \bigvee \bigwedge
    \bigodot \bigotimes \bigoplus \biguplus"""
)
# Commands whose scripts are below and above them in display style.
WITH_LIMITS = frozenset(name for name in BIG_OPERATORS if "int" not in name) | _names(
    r"\det \gcd \inf \lim \liminf \limsup \max \min \Pr \sup"
)

ACCENTS = _names(r"\hat \tilde \bar \vec \dot \ddot \dddot \check \breve \acute \grave \mathring")
# Commands that are letters.
LETTERS = _names(r"\AA \AE \ae \OE \oe \O \o \L \l \ss \i \j")
# Commands whose arguments are formulas: the spelling, and the style of each argument.
_SPELLED_WITH_ONE_ARGUMENT = ACCENTS | _names(
    r"""\widehat \widetilde \overline \underline \overrightarrow \overleftarrow \overleftrightarrow \underrightarrow
    \underleftarrow \fbox \boxed \textsc \smash"""
)
ARGUMENTS: dict[str, tuple[str, tuple[str, ...]]] = {name: (name, ("same",)) for name in _SPELLED_WITH_ONE_ARGUMENT}
ARGUMENTS |= {"\\" + name.capitalize(): ("\\" + name, ("same",)) for name in
              ("hat", "tilde", "bar", "vec", "dot", "ddot", "check", "breve", "acute", "grave")}  # fmt: skip
ARGUMENTS |= {name: (name, ("smaller", "smaller")) for name in ("\\frac", "\\binom")}
ARGUMENTS |= {name: ("\\stackrel", ("script", "same")) for name in ("\\stackrel", "\\overset")}
ARGUMENTS |= {name: (name, ("display",)) for name in ("\\overbrace", "\\underbrace")}
ARGUMENTS |= {
    "\\underset": ("\\underset", ("script", "same")),
    "\\substack": ("\\substack", ("script",)),
    "\\pmod": ("\\pmod", ("same",)),
}
# Commands with an optional argument in brackets.
WITH_OPTION = _names(r"\sqrt \xrightarrow \xleftarrow")
INFIX = _names(r"\atop \brace \brack")

# Function names that may be written in upright letters.
UPRIGHT_NAMES = {name[1:]: name for name in FUNCTIONS - {"\\liminf", "\\limsup"}} | {"mod": "\\bmod"}

NEGATED = _pairs(r"= \neq  \in \notin")
# Tokens before which amsmath sets \dots as \cdots.
OPERATORS_AND_RELATIONS = _names(
    r"""+ - = < > * : \not \pm \mp \times \div \star \circ \bullet \cdot \cap \cup \uplus \sqcap \sqcup \vee \wedge
    \setminus \wr \diamond \oplus \ominus \otimes \oslash \odot \amalg \leq \geq \neq \prec \succ \preceq \succeq
    \ll \gg \subset \supset \subseteq \supseteq \sqsubseteq \sqsupseteq \in \ni \notin \vdash \dashv \models \equiv
    \sim \simeq \asymp \approx \doteq \cong \propto \perp \leftarrow \to \leftrightarrow \Leftarrow \Rightarrow
    \Leftrightarrow \longleftarrow \longrightarrow \longleftrightarrow \Longleftarrow \Longrightarrow
    \Longleftrightarrow \mapsto \longmapsto \hookleftarrow \hookrightarrow \sum \prod \coprod \int \oint \bigcap
    \bigcup \bigsqcup \bigvee \bigwedge \bigodot \bigotimes \bigoplus \biguplus"""
)

# The spelling of environments: the environment, its columns, and the delimiters around it.
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
# Environments without arguments that keep their spelling.
OTHER_ENVIRONMENTS = _names("array aligned gathered smallmatrix")
# Commands whose arguments are not formulas, and rare commands. They are kept verbatim, like unknown commands.
WITH_OTHER_ARGUMENTS = _names(
    r"""\rlap \llap \lefteqn \raisebox \makebox \framebox \multicolumn \cline \rule \textsubscript \textsuperscript
    \skew \root \above \buildrel \vcenter \hspace \hskip \kern \mkern \mskip \substack \b \c \d"""
)

# Tables of `im2latex.clean`.

# Functions whose scripts are below and above them in display style, unlike those of \operatorname.
FUNCTIONS_WITH_LIMITS = {"\\det", "\\gcd", "\\inf", "\\lim", "\\max", "\\min", "\\Pr", "\\sup"}
# Functions that contain a thin space, unlike \operatorname.
SPACED_FUNCTIONS = {"\\liminf", "\\limsup"}
# Symbols that TeX accepts as a script without braces, because they are single characters instead of macros.
SCRIPTS_WITHOUT_BRACES = _names(
    r"""\alpha \beta \gamma \delta \epsilon \varepsilon \zeta \eta \theta \vartheta \iota \kappa \lambda \mu \nu \xi \pi
    \varpi \rho \varrho \sigma \varsigma \tau \upsilon \phi \varphi \chi \psi \omega \Gamma \Delta \Theta \Lambda \Xi
    \Pi \Sigma \Upsilon \Phi \Psi \Omega \infty \circ \ast \star \dagger \ddagger \pm \mp \perp \ell \partial \prime"""
)
# Commands in whose arguments a space is visible.
BLANKS_ARE_DRAWN = _names(
    r"""\mbox \hbox \text \textrm \textbf \textit \textsf \texttt \textsc \textup \textnormal \textsl
    \textsubscript \textsuperscript \emph \fbox \framebox \makebox \raisebox \parbox"""
)
# Commands that have a variant with a star.
STARRED = {"\\\\", "\\operatorname", "\\hspace", "\\vspace", "\\tag"}
