"""The rules of docs/concepts/normal-form.md, on handwritten formulas; and the stability of the form, on any formula."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.pictures.synthetic import LEVELS, formulas
from data.spelling import AS_THE_SOURCE, NORMAL, normal_form, respell
from im2latex.errors import UserError
from im2latex.tokenizer import FormulaError, tokenize

RULES = {
    "synonyms": [
        (r"a \rightarrow b", r"a \to b"),
        (r"a \le b \ge c \ne d", r"a \leq b \geq c \neq d"),
        (r"p \land q \lor \lnot r", r"p \wedge q \vee \neg r"),
        (r"\phi ^ { \ast } \slash 2", r"\phi ^ { * } / 2"),
        (r"\vert x \vert \mid y", "| x | | y"),
        (r"\Vert x \Vert \parallel \lVert y \rVert", r"\| x \| \| \| y \|"),
        (r"\lbrace a \rbrace \lbrack b \rbrack", r"\{ a \} [ b ]"),
        (r"f \colon A \gets B", r"f : A \leftarrow B"),
        (r"x \isin A \owns y", r"x \in A \ni y"),
        (r"A ^ { \dag } \iff B", r"A ^ { \dagger } \Longleftrightarrow B"),
        (r"\epsilon \varepsilon \hbar", r"\epsilon \varepsilon \hbar"),
    ],
    "dots": [
        (r"a + \dots + b", r"a + \cdots + b"),
        (r"a , \dots , b", r"a , \ldots , b"),
        (r"x _ { 1 } \dots x _ { n } \dots", r"x _ { 1 } \ldots x _ { n } \ldots"),
        (r"a \dotsb b \dotsc c \hdots", r"a \cdots b \ldots c \ldots"),
        (r"a \in \dots \in b", r"a \in \cdots \in b"),
    ],
    "functions": [
        (r"\operatorname { s i n } x", r"\sin x"),
        (r"\mathrm { s i n } x", r"\sin x"),
        (r"{ \rm s i n } x", r"\sin x"),
        (r"\mathrm { s i } \mathrm { n } ^ { 2 } x", r"\sin ^ { 2 } x"),
        (r"x _ { \mathrm { m a x } }", r"x _ { \max }"),
        (r"\mathrm { m a x } _ { x }", r"\mathrm { m a x } _ { x }"),  # its subscript is next to it
        (r"\operatorname* { m a x } _ { x }", r"\max _ { x }"),
        (r"\underset { x } { \mathrm { m a x } } f", r"\max _ { x } f"),
        (r"a \mathrm { m o d } b", r"a \bmod b"),
    ],
    "names": [
        (r"\operatorname { t r } A", r"\mathrm { t r } A"),
        (r"\mathop { \rm t r } A", r"\mathrm { t r } A"),
        (r"\operatorname { t r } \mathrm { A }", r"\mathrm { t r ~ A }"),
        (r"\mbox { t r } A", r"\mathrm { t r } A"),
        (r"\mathop { \rm T r } _ { a } A", r"\operatorname* { T r } _ { a } A"),
        (r"\frac { \mathop { \rm T r } _ { a } } { 2 }", r"\frac { \mathrm { T r } _ { a } } { 2 }"),
        (r"\operatorname* { a r g \, m i n } _ { x }", r"\operatorname* { a r g ~ m i n } _ { x }"),
        (r"\mathop { = } ^ { a }", r"\stackrel { a } { = }"),
        (r"\mathop { X } _ { a }", r"\underset { a } { X }"),
        (r"\mathop { X } _ { a } ^ { b }", r"\mathop { X } _ { a } ^ { b }"),
    ],
    "fonts": [
        (r"{ \cal D } { \bf x } { \sf y } { \tt z } { \it w }",
         r"\mathcal { D } \mathbf { x } \mathsf { y } \mathtt { z } \mathit { w }"),
        (r"\textbf { x } \textrm { y } \textup { z } \emph { w }", r"\mathbf { x } \mathrm { y z } \mathit { w }"),
        (r"\bm { x } \pmb { y }", r"\boldsymbol { x y }"),
        (r"\boldsymbol { \mathrm { x } \mathcal { P } }", r"\mathbf { x } \boldsymbol { \mathcal { P } }"),
        (r"\boldsymbol { \Omega 2 } \mathbf { \Omega }",
         r"\boldsymbol { \Omega } \mathbf { 2 } \boldsymbol { \Omega }"),
        (r"\textbf { \textit { x } } \textbf { \textup { y } }", r"\boldsymbol { x } \mathbf { y }"),
        (r"{ \mit \Omega } \mathrm { \Omega }", r"\varOmega \Omega"),
        (r"\mathrm { a } \mathrm { b } \mathrm { c } _ { 1 } \mathrm { d }",
         r"\mathrm { a b c } _ { 1 } \mathrm { d }"),
        (r"\mathrm { 2 } \mathrm { + } \mathrm { \alpha }", r"2 + \alpha"),
        (r"\mathbf { 2 + \alpha }", r"\mathbf { 2 } + \alpha"),
        (r"\mathrm { x _ { i } ^ { 2 } }", r"\mathrm { x } _ { \mathrm { i } } ^ { 2 }"),
        (r"\mathrm { \frac { a } { b } }", r"\frac { \mathrm { a } } { \mathrm { b } }"),
        (r"\mathbf { \hat { x } }", r"\hat { \mathbf { x } }"),
        (r"\mathrm { \mathrm { x } \mathbf { y } }", r"\mathrm { x } \mathbf { y }"),
        (r"\bf a + \rm b", r"\mathbf { a } + \mathrm { b }"),
    ],
    "braces": [
        (r"{ \frac { a } { b } } { { x } }", r"\frac { a } { b } x"),
        (r"{ a } _ { 1 } { \bar { x } } ^ { 2 }", r"a _ { 1 } \bar { x } ^ { 2 }"),
        (r"{ a b } ^ { 2 } { ( x ) } _ { 1 }", r"a b ^ { 2 } ( x ) _ { 1 }"),
        (r"{ x _ { 1 } } ^ { 2 }", r"{ x _ { 1 } } ^ { 2 }"),
        (r"{ \frac { a } { b } c } ^ { 2 }", r"{ \frac { a } { b } c } ^ { 2 }"),
        (r"1 { , } 0", "1 , 0"),
        (r"{ \sum } _ { i } { \int } _ { a }", r"{ \sum } _ { i } \int _ { a }"),
        (r"\frac { { \sum } _ { i } } { 2 }", r"\frac { \sum _ { i } } { 2 }"),
        (r"\alpha { \bar { x } }", r"\alpha \bar { x }"),
    ],
    "scripts": [
        (r"x ^ { 2 } _ { i }", r"x _ { i } ^ { 2 }"),
        (r"f '", r"f ^ { \prime }"),
        (r"f ^ { ' } + g ^ { ^ { \prime } } + h ' ^ { 2 }", r"f ^ { \prime } + g ^ { \prime } + h ^ { \prime 2 }"),
        (r"x _ { } ^ { 2 } y ^ { } _ { { } }", r"x ^ { 2 } y"),
        (r"{ } _ { 1 } F _ { 1 }", r"_ { 1 } F _ { 1 }"),
        (r"x { } ^ { a } { } _ { b }", r"x { } ^ { a } { } _ { b }"),
        (r"A \sp 2 \sb i", r"A _ { i } ^ { 2 }"),
    ],
    "delimiters": [
        (r"\left( x + y _ { i } \right)", "( x + y _ { i } )"),
        (r"\left( x \right) ^ { 2 } \left[ 0 , 1 \right]", "( x ) ^ { 2 } [ 0 , 1 ]"),
        (r"\left( x ^ { 2 } \right)", r"\left( x ^ { 2 } \right)"),
        (r"\left( x ^ { \prime } \right)", r"( x ^ { \prime } )"),
        (r"\left( \frac { a } { b } \right)", r"\left( \frac { a } { b } \right)"),
        (r"\left< x \right> \left\lbrace y \right\rbrace", r"\langle x \rangle \{ y \}"),
        (r"\left. f \right| _ { x }", "f | _ { x }"),
        (r"\left. \frac { a } { b } \right.", r"\frac { a } { b }"),
        (r"\left( a \middle| b \right)", "( a | b )"),
        (r"\left( a \middle\vert \frac { 1 } { 2 } \right)", r"\left( a \middle| \frac { 1 } { 2 } \right)"),
        (r"e ^ { \left( x ^ { 2 } \right) }", r"e ^ { \left( x ^ { 2 } \right) }"),
    ],
    "big delimiters": [
        (r"\bigl ( x \bigr ) \Bigm \vert", r"\big ( x \big ) \Big |"),
        (r"\bigl ( x ^ { 2 } \bigr ) ^ { 3 }", r"\left( x ^ { 2 } \right) ^ { 3 }"),
        (r"\Big [ \frac { a } { b } \Big ]", r"\left[ \frac { a } { b } \right]"),
        (r"\big [ \frac { a } { b } \big ]", r"\big [ \frac { a } { b } \big ]"),
        (r"\big ( x ^ { 2 } \Big )", r"\big ( x ^ { 2 } \Big )"),
        (r"\big ( \big ( x ^ { 2 } \big )", r"\big ( \left( x ^ { 2 } \right)"),
        (r"\big \backslash x \setminus y", r"\big \backslash x \setminus y"),
    ],
    "spaces": [
        (r"\, a \, b \: c \; d \! e ~ f \ g \,", "a b c d e f g"),
        (r"a ~ ~ ~ b \qquad c \, \; \; \, d", r"a \quad b \quad c \quad d"),
        (r"a \quad \! \! b \hspace { 1 0 m m } c \kern 2 p t d", r"a b \quad c d"),
        (r"a \phantom { x x } b \vphantom { y } c", r"a \quad b c"),
        (r"\frac { \quad a \quad } { \, b }", r"\frac { a } { b }"),
        (r"{ a \ } { \ \ b }", r"a \quad b"),
        (r"\mathrm { ~ f o r ~ ~ a l l ~ } x", r"\mathrm { f o r ~ a l l } x"),
        (r"\mathrm { f o r } ~ \mathrm { a l l }", r"\mathrm { f o r ~ a l l }"),
        (r"x \mathrm { ~ ~ i f } \ y", r"x \mathrm { i f } y"),
        (r"x \ \mathrm { ~ ~ i f } \ y", r"x \quad \mathrm { i f } y"),
        (r"x \mod y", r"x \quad \bmod y"),
    ],
    "environments": [
        (r"\begin{matrix} a & b \\ c \\ \end{matrix}", r"\begin{array} { c c } a & b \\ c \end{array}"),
        (r"\begin{pmatrix} a \\ b \end{pmatrix}", r"\left( \begin{array} { c } a \\ b \end{array} \right)"),
        (r"\begin{vmatrix} a \\ b \end{vmatrix}", r"\left| \begin{array} { c } a \\ b \end{array} \right|"),
        (r"\begin{cases} a & b \\ c & d \end{cases}",
         r"\left\{ \begin{array} { l l } a & b \\ c & d \end{array} \right."),
        (r"\begin{split} a & = b \end{split}", r"\begin{aligned} a & = b \end{aligned}"),
        (r"\begin{array} { l l l } { a } & { b } \\ c & \\ \end{array}",
         r"\begin{array} { l l } a & b \\ c \end{array}"),
        (r"\begin{array} { r c l } a & = & b \end{array}", r"\begin{array} { c c c } a & = & b \end{array}"),
        (r"\begin{array} { c } a \\ { [ b ] } \\ * c \end{array}",
         r"\begin{array} { c } a \\ { [ } b ] \\ { * } c \end{array}"),
        (r"\begin{array} { c | c } \hline a & b \\ { } & { } \\ \end{array}",
         r"\begin{array} { c | c } \hline a & b \\ \\ \end{array}"),
        (r"\begin{subarray} { c } { a } \\ b \end{subarray}", r"\begin{subarray} { c } { a } \\ b \end{subarray}"),
    ],
    "negations, stacks, accents": [
        (r"a \not = b \not { \in } c \not \subset d", r"a \neq b \notin c \not \subset d"),
        (r"\overset { a } { = }", r"\stackrel { a } { = }"),
        (r"\Bar { x } \Hat { y } \dfrac { 1 } { 2 }", r"\bar { x } \hat { y } \frac { 1 } { 2 }"),
        (r"\widehat { x } \hat { x }", r"\widehat { x } \hat { x }"),
        (r"\overline { x } \bar { x }", r"\overline { x } \bar { x }"),
        (r"a \bmod b \pmod { c }", r"a \bmod b \pmod { c }"),
    ],
    "styles and sizes": [
        (r"\displaystyle \frac { a } { b }", r"\frac { a } { b }"),
        (r"{ \textstyle \frac { a } { b } } c", r"{ \textstyle \frac { a } { b } } c"),
        (r"\textstyle { \frac { a } { b } }", r"\textstyle \frac { a } { b }"),
        (r"{ \textstyle a } b \frac { \textstyle c } { d }", r"a b \frac { c } { d }"),
        (r"\frac { \displaystyle \sum _ { i } a } { b }", r"\frac { \displaystyle \sum _ { i } a } { b }"),
        (r"x _ { \scriptstyle i } y _ { \scriptscriptstyle i }", r"x _ { i } y _ { \scriptscriptstyle i }"),
        (r"\mathrm { \scriptsize ~ r e n } \boldmath x", r"\mathrm { r e n } x"),
        (r"a \atop b", r"a \atop b"),
        (r"{ a \atop b } c { n \choose k }", r"{ a \atop b } c \binom { n } { k }"),
    ],
    "what is not known": [
        (r"\foo { a } { { b } } { \bar { x } } _ { 1 }", r"\foo { a } { { b } } { \bar { x } } _ { 1 }"),
        (r"\raisebox { 2 p t } { $ { x } $ }", r"\raisebox { 2 p t } { { x } }"),
        (r"\begin{foo} { 2 } { x } \end{foo}", r"\begin{foo} { 2 } { x } \end{foo}"),
        (r"\' { e }", r"\' { e }"),
        (r"\textit { F \' E t } _ { { X } }", r"\textit { F \' E t } _ { X }"),
    ],
    "options": [
        (r"\sqrt [ { 3 } ] { { x } } \sqrt [ { ] } ] x", r"\sqrt [ 3 ] { x } \sqrt [ { ] } ] { x }"),
        (r"\xrightarrow [ { n } ] { { a } } \xrightarrow f", r"\xrightarrow [ n ] { a } \xrightarrow { f }"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("latex", "expected"),
    [pair for pairs in RULES.values() for pair in pairs],
    ids=[pair[0] for pairs in RULES.values() for pair in pairs],
)
def test_rule(latex: str, expected: str) -> None:
    assert normal_form(latex) == expected
    assert normal_form(expected) == expected


@pytest.mark.parametrize("level", LEVELS)
def test_synthetic_formulas_are_in_normal_form(level: str) -> None:
    for formula in formulas(1000, 5, level):
        assert normal_form(formula) == formula


COMMANDS = r"""
{ } _ ^ ' [ ] ( ) | & \\ ~ \, \quad x y 1 2 + - = , . * \ast \alpha \Omega \sum \int \frac \sqrt \hat \mathrm
\mathbf \boldsymbol \cal \rm \it \left( \right) \left. \right| \middle| \big \bigl \Big \mbox \textbf
\operatorname \operatorname* \mathop \stackrel \underset \not \dots \ldots \displaystyle \textstyle \scriptstyle
\atop \choose \over \begin{array}{cc} \end{array} \begin{matrix} \end{matrix} \begin{cases} \end{cases}
\begin{foo} \end{foo} \foo \hspace{1em} \kern \phantom \prime \sin \max \mod \raisebox \tiny \smash \ensuremath
\mathrel
"""


@given(st.lists(st.sampled_from(COMMANDS.split()), max_size=30).map(" ".join))
def test_any_formula_has_one_stable_normal_form_or_cannot_be_parsed(latex: str) -> None:
    try:
        tokens = tokenize(latex)
    except FormulaError:
        with pytest.raises(FormulaError):
            normal_form(latex)
        assert respell(latex, NORMAL) == latex
        return
    form = normal_form(latex)
    assert normal_form(form) == form
    assert tokenize(form) == form.split()
    assert normal_form(" ".join(tokens)) == form


def test_deep_nesting_is_a_formula_error() -> None:
    with pytest.raises(FormulaError, match="nested too deeply"):
        normal_form("{" * 20000 + "x" + "}" * 20000)


def test_the_spelling_of_the_source_can_be_kept() -> None:
    assert respell(r"{ \cal D }", AS_THE_SOURCE) == r"{ \cal D }"
    assert respell(r"{ \cal D }", NORMAL) == r"\mathcal { D }"
    assert respell(r"\ref { a }", NORMAL) == r"\ref { a }"  # nothing would be left
    with pytest.raises(UserError, match="there is no spelling latin; the spellings are normal, im2markup"):
        respell("x", "latin")
