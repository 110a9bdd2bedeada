"""The symbols of the built-in typesetter: their glyphs, metrics and bitmaps.

The fonts are the TrueType Computer Modern fonts that matplotlib contains. Metrics, which TeX reads from .tfm files, are
taken from the outlines. Symbols that Computer Modern lacks (most of amssymb, blackboard bold, Fraktur, bold italics)
come from STIX, which matplotlib contains too.
"""

from __future__ import annotations

import functools
import string
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ImageFont

# Fonts: r is cmr10 (roman), m cmmi10 (math italic), y cmsy10 (symbols), x cmex10 (extensible), b cmb10 (bold), i cmti10
# (text italic), s cmss10 (sans serif), t cmtt10 (typewriter), S and B are STIX, upright and bold italic.
_FILES = {
    "r": "cmr10", "m": "cmmi10", "y": "cmsy10", "x": "cmex10", "b": "cmb10", "i": "cmti10", "s": "cmss10",
    "t": "cmtt10", "S": "STIXGeneral", "B": "STIXGeneralBolIta",
}  # fmt: skip

# token -> (class, font, code). Classes as in The TeXbook, chapter 17: Ord, Op, Bin, Rel, oPen, Close, punct(,).
SYMBOLS: dict[str, tuple[str, str, int]] = {}
for _letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
    SYMBOLS[_letter] = ("O", "m", ord(_letter))
for _digit in "0123456789":
    SYMBOLS[_digit] = ("O", "r", ord(_digit))
for _class, _face, _symbols in (
    ("O", "m", r"""\alpha 174 \beta 175 \gamma 176 \delta 177 \epsilon 178 \zeta 179 \eta 180 \theta 181 \iota 182
        \kappa 8729 \lambda 184 \mu 185 \nu 186 \xi 187 \pi 188 \rho 189 \sigma 190 \tau 191 \upsilon 192 \phi 193
        \chi 194 \psi 195 \omega 33 \varepsilon 34 \vartheta 35 \varpi 36 \varrho 37 \varsigma 38 \varphi 39 \partial 64
        \flat 91 \natural 92 \sharp 93 \ell 96 \imath 123 \jmath 124 \wp 125 / 61 . 58 \varGamma 161 \varDelta 162
        \varTheta 163 \varLambda 164 \varXi 165 \varPi 166 \varSigma 167 \varUpsilon 168 \varPhi 169 \varPsi 170
        \varOmega 173"""),
    ("O", "r", r"""\Gamma 161 \Delta 162 \Theta 163 \Lambda 164 \Xi 165 \Pi 166 \Sigma 167 \Upsilon 168 \Phi 169
        \Psi 170 \Omega 173 ! 33 " 34 \# 35 \$ 36 \% 37 \& 38 & 38 ' 39 @ 64 ` 96 -- 123 --- 124 \i 179 \j 180 \ss 188
        \ae 189 \oe 190 \o 191 \AE 192 \OE 193 \O 194"""),
    ("O", "y", r"""\infty 49 \nabla 114 \prime 48 \forall 56 \exists 57 | 106 \| 107 \triangle 52 \neg 58 \emptyset 59
        \Re 60 \Im 61 \top 62 \aleph 64 \surd 112 \S 120 \P 123 \clubsuit 124 \diamondsuit 125 \heartsuit 126
        \spadesuit 196"""),
    ("O", "t", r"\_ 95"),
    ("B", "r", "+ 43"),
    ("B", "y", r"""- 161 \pm 167 \times 163 \cdot 162 \cup 91 \cap 92 \otimes 173 \oplus 169 * 164 \div 165 \diamond 166
        \mp 168 \ominus 170 \oslash 174 \odot 175 \bigcirc 176 \circ 177 \bullet 178 \bigtriangledown 53 \uplus 93
        \wedge 94 \vee 95 \setminus 110 \wr 111 \amalg 113 \sqcup 116 \sqcap 117 \dagger 121 \ddagger 122"""),
    ("B", "m", r"\triangleright 46 \triangleleft 47 \star 63"),
    ("R", "r", "= 61 : 58"),
    ("R", "m", r"""< 60 > 62 \leftharpoonup 40 \leftharpoondown 41 \rightharpoonup 42 \rightharpoondown 43 \smile 94
        \frown 95"""),
    ("R", "y", r"""\leq 8729 \geq 184 \approx 188 \equiv 180 \sim 187 \to 33 \in 50 \subset 189 \asymp 179 \subseteq 181
        \supseteq 182 \preceq 185 \succeq 186 \supset 190 \ll 191 \gg 192 \prec 193 \succ 194 \leftarrow 195
        \uparrow 34 \downarrow 35 \leftrightarrow 36 \nearrow 37 \searrow 38 \simeq 39 \Leftarrow 40 \Rightarrow 41
        \Uparrow 42 \Downarrow 43 \Leftrightarrow 44 \nwarrow 45 \swarrow 46 \propto 47 \ni 51 \perp 63 \vdash 96
        \dashv 97 \updownarrow 108 \Updownarrow 109 \sqsubseteq 118 \sqsupseteq 119"""),
    ("P", "r", "( 40 [ 91"),
    ("C", "r", ") 41 ] 93 ? 63"),
    ("P", "y", r"\{ 102 \langle 104 \lfloor 98 \lceil 100"),
    ("C", "y", r"\} 103 \rangle 105 \rfloor 99 \rceil 101"),
    (",", "m", ", 59"),
    (",", "r", "; 59"),
    ("L", "y", r"\smallint 115"),
):  # fmt: skip
    for _token, _code in zip(_symbols.split()[::2], _symbols.split()[1::2], strict=True):
        SYMBOLS[_token] = (_class, _face, int(_code))
for _class, _symbols in (
    ("O", r"""\hbar 210f \angle 2220 \Box 25a1 \Diamond 25c7 \complement 2201 \varnothing 2205 \nexists 2204 \eth f0
        \mho 2127 \beth 2136 \gimel 2137 \daleth 2138 \bigstar 2605 \vdots 22ee \ddots 22f1 \measuredangle 2221
        \sphericalangle 2222 \blacksquare 25a0 \lozenge 25ca \varkappa 3f0 \digamma 3dd \pounds a3 \copyright a9
        \circledS 24c8"""),
    ("B", r"""\ltimes 22c9 \rtimes 22ca \boxplus 229e \boxminus 229f \boxtimes 22a0 \boxdot 22a1 \lhd 22b2 \rhd 22b3
        \Cap 22d2 \Cup 22d3 \dotplus 2214 \barwedge 22bc \veebar 22bb \circledast 229b \circledcirc 229a
        \smallsetminus 2216 \curlywedge 22cf \curlyvee 22ce \intercal 22ba"""),
    ("R", r"""\cong 2245 \doteq 2250 \models 22a7 \bowtie 22c8 \notin 2209 \longleftarrow 27f5 \longrightarrow 27f6
        \longleftrightarrow 27f7 \Longleftarrow 27f8 \Longrightarrow 27f9 \Longleftrightarrow 27fa \mapsto 21a6
        \longmapsto 27fc \hookleftarrow 21a9 \hookrightarrow 21aa \rightleftharpoons 21cc \leftrightharpoons 21cb
        \leqslant 2a7d \geqslant 2a7e \leqq 2266 \geqq 2267 \lesssim 2272 \gtrsim 2273 \lessgtr 2276 \gtrless 2277
        \lll 22d8 \ggg 22d9 \sqsubset 228f \sqsupset 2290 \subsetneq 228a \supsetneq 228b \nsubseteq 2288 \vDash 22a8
        \Vdash 22a9 \triangleq 225c \circeq 2257 \approxeq 224a \precsim 227e \succsim 227f \preccurlyeq 227c
        \succcurlyeq 227d \because 2235 \therefore 2234 \leadsto 21dd \twoheadrightarrow 21a0 \rightrightarrows 21c9
        \leftrightarrows 21c6 \rightleftarrows 21c4 \upharpoonright 21be \downharpoonright 21c2 \nrightarrow 219b
        \nleq 2270 \ngeq 2271 \nmid 2224 \ncong 2247 \nsim 2241 \varpropto 221d \backsim 223d \between 226c
        \pitchfork 22d4 \circlearrowleft 21ba \circlearrowright 21bb \multimap 22b8 \doteqdot 2251
        \trianglelefteq 22b4 \trianglerighteq 22b5"""),
):  # fmt: skip
    for _token, _code in zip(_symbols.split()[::2], _symbols.split()[1::2], strict=True):
        SYMBOLS[_token] = (_class, "S", int(_code, 16))

# Operators with codes for two sizes, text and display (cmex10). Integrals have their limits beside them (\nolimits).
LARGE_OPERATORS = {
    "\\sum": (80, 88), "\\prod": (81, 89), "\\int": (82, 90), "\\oint": (72, 73), "\\coprod": (96, 97),
    "\\bigcup": (83, 91), "\\bigcap": (84, 92), "\\biguplus": (85, 93), "\\bigwedge": (86, 94), "\\bigvee": (87, 95),
    "\\bigsqcup": (70, 71), "\\bigodot": (74, 75), "\\bigoplus": (76, 77), "\\bigotimes": (78, 79),
}  # fmt: skip
LIMIT_FUNCTIONS = ("\\lim", "\\max", "\\min", "\\sup", "\\inf", "\\det", "\\gcd", "\\Pr", "\\liminf", "\\limsup")
ACCENTS = {
    "\\hat": ("r", 94), "\\tilde": ("r", 126), "\\vec": ("m", 126), "\\dot": ("r", 95), "\\bar": ("r", 185),
    "\\ddot": ("r", 196), "\\check": ("r", 8729), "\\breve": ("r", 184), "\\acute": ("r", 182), "\\grave": ("r", 181),
    "\\mathring": ("r", 186),
}  # fmt: skip
# Accents of text mode: first those that equal a math accent, then those below a letter.
TEXT_ACCENTS = {
    "\\'": "\\acute", "\\`": "\\grave", "\\^": "\\hat", '\\"': "\\ddot", "\\~": "\\tilde", "\\=": "\\bar",
    "\\.": "\\dot", "\\u": "\\breve", "\\v": "\\check",
}  # fmt: skip
ACCENTS_BELOW = {"\\c": ("r", 187), "\\d": ("r", 95), "\\b": ("r", 185)}
# Codes in cmex10, from the narrowest to the widest.
WIDE_ACCENTS = {"\\widehat": (98, 99, 100), "\\widetilde": (101, 102, 103)}
ALPHABETS = {
    "\\mathbf": "b", "\\mathrm": "r", "\\mathcal": "y", "\\mathit": "i", "\\mathsf": "s", "\\mathtt": "t",
}  # fmt: skip
# STIX: where the capitals and the small letters begin, and the letters that are elsewhere.
_DOUBLE_STRUCK = (0x1D538, 0x1D552, "C2102 H210d N2115 P2119 Q211a R211d Z2124")
_FRAKTUR = (0x1D504, 0x1D51E, "C212d H210c I2111 R211c Z2128")
_SCRIPT = (0x1D49C, 0x1D4B6, "B212c E2130 F2131 H210b I2110 L2112 M2133 R211b e212f g210a o2134")
_GREEK = {
    token: 0x3B1 + i
    for i, token in enumerate(
        r"""\alpha \beta \gamma \delta \varepsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu \xi \omicron \pi \rho
        \varsigma \sigma \tau \upsilon \varphi \chi \psi \omega""".split()  # noqa: SIM905
    )
} | {"\\epsilon": 0x3F5, "\\phi": 0x3D5, "\\vartheta": 0x3D1, "\\varrho": 0x3F1, "\\varpi": 0x3D6}


def _letters() -> dict[str, dict[str, tuple[str, int]]]:
    upper, lower, digits = string.ascii_uppercase, string.ascii_lowercase, string.digits
    capitals = {token: code for token, (_, font, code) in SYMBOLS.items() if font == "r" and 161 <= code <= 173}
    letters: dict[str, dict[str, tuple[str, int]]] = {}
    for alphabet, font in ALPHABETS.items():
        letters[alphabet] = {letter: (font, ord(letter)) for letter in upper + lower + digits}
        if font != "y":
            letters[alphabet] |= {token: (font, code) for token, code in capitals.items()}
    for alphabet, (first, first_lower, others) in (
        ("\\mathbb", _DOUBLE_STRUCK), ("\\mathfrak", _FRAKTUR), ("\\mathscr", _SCRIPT)
    ):  # fmt: skip
        places = {letter: first + i for i, letter in enumerate(upper)}
        places |= {letter: first_lower + i for i, letter in enumerate(lower)}
        places |= {other[0]: int(other[1:], 16) for other in others.split()}
        letters[alphabet] = {letter: ("S", code) for letter, code in places.items()}
    letters["\\boldsymbol"] = {letter: ("B", ord(letter)) for letter in upper + lower}
    letters["\\boldsymbol"] |= {token: ("B", code) for token, code in _GREEK.items()}
    letters["\\boldsymbol"] |= {digit: ("b", ord(digit)) for digit in digits}
    letters["\\boldsymbol"] |= {token: ("b", code) for token, code in capitals.items()}
    letters["\\mathnormal"] = {token: ("m", code) for token, code in capitals.items()}
    return letters


# alphabet -> token -> (font, code)
LETTERS = _letters()

# Glyphs of each delimiter: normal size, then four sizes of cmex10. Taller delimiters scale the last one.
DELIMITERS: dict[str, list[tuple[str, int]]] = {
    "(": [("r", 40), ("x", 161), ("x", 179), ("x", 181), ("x", 195)],
    ")": [("r", 41), ("x", 162), ("x", 180), ("x", 182), ("x", 33)],
    "[": [("r", 91), ("x", 163), ("x", 104), ("x", 8729), ("x", 34)],
    "]": [("r", 93), ("x", 164), ("x", 105), ("x", 184), ("x", 35)],
    "\\{": [("y", 102), ("x", 169), ("x", 110), ("x", 189), ("x", 40)],
    "\\}": [("y", 103), ("x", 170), ("x", 111), ("x", 190), ("x", 41)],
    "|": [("y", 106)],
    "\\|": [("y", 107)],
    "\\lfloor": [("y", 98), ("x", 165), ("x", 106), ("x", 185), ("x", 36)],
    "\\rfloor": [("y", 99), ("x", 166), ("x", 107), ("x", 186), ("x", 37)],
    "\\lceil": [("y", 100), ("x", 167), ("x", 108), ("x", 187), ("x", 38)],
    "\\rceil": [("y", 101), ("x", 168), ("x", 109), ("x", 188), ("x", 39)],
    "\\langle": [("y", 104), ("x", 173), ("x", 68), ("x", 191), ("x", 42)],
    "\\rangle": [("y", 105), ("x", 174), ("x", 69), ("x", 192), ("x", 43)],
    "/": [("m", 61), ("x", 177), ("x", 46), ("x", 193), ("x", 44)],
    "\\setminus": [("y", 110), ("x", 178), ("x", 47), ("x", 194), ("x", 45)],
    "\\uparrow": [("y", 34)],
    "\\downarrow": [("y", 35)],
    "\\updownarrow": [("y", 108)],
    "\\Uparrow": [("y", 42)],
    "\\Downarrow": [("y", 43)],
    "\\Updownarrow": [("y", 109)],
    "\\sqrt": [("y", 112), ("x", 112), ("x", 113), ("x", 114), ("x", 115)],
}

# For each glyph of a symbol with several sizes, the glyph of normal size.
NORMAL_SIZE: dict[tuple[str, int], tuple[str, int]] = {
    size: sizes[0]
    for sizes in (
        *DELIMITERS.values(),
        *([("x", text), ("x", display)] for text, display in LARGE_OPERATORS.values()),
        *([ACCENTS[f"\\{name[5:]}"], *(("x", code) for code in codes)] for name, codes in WIDE_ACCENTS.items()),
    )
    for size in sizes
}


class SymbolPart(NamedTuple):
    """A part of a symbol: the symbol's name, and the number of the part, from 0."""

    name: str
    number: int = 0


class Glyph(NamedTuple):
    """A character of a font, with the size in pixels per em and the symbol that it is part of, if any."""

    font: str
    code: int
    em: float
    part: SymbolPart | None = None


class GlyphMetrics(NamedTuple):
    """A glyph's metrics in em: its advance, and the outline's left, top, right and bottom (y upwards)."""

    advance: float
    left: float
    top: float
    right: float
    bottom: float


@functools.cache
def _font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{_FILES[name]}.ttf")
    return ImageFont.truetype(str(path), pixels, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def metrics(font: str, code: int) -> GlyphMetrics:
    """Returns the metrics of a glyph, measured on its outline at 1000 pixels per em."""
    mask, (left, top) = _font(font, 1000).getmask2(chr(code), mode="L", anchor="ls")
    width, height = mask.size
    advance = _font(font, 1000).getlength(chr(code))
    return GlyphMetrics(advance / 1000, left / 1000, -top / 1000, (left + width) / 1000, -(top + height) / 1000)


_OVERSAMPLING = 8


@functools.cache
def bitmap(font: str, code: int, em: float) -> tuple[int, int, np.ndarray]:
    """Draws a glyph.

    It is drawn eight times as large and averaged, so that hinting does not distort small sizes. Thin strokes are
    darkened (coverage ** 0.75), because the hairlines of Computer Modern are a quarter of a pixel wide at ten pixels
    per em.

    Returns:
      Column and row of the upper left corner relative to the origin, and the ink, uint8 (H, W), 255 is full coverage.
    """
    face = _font(font, round(em * _OVERSAMPLING))
    mask, (left, top) = face.getmask2(chr(code), mode="L", anchor="ls")
    width, height = mask.size
    x0, y0 = left // _OVERSAMPLING, top // _OVERSAMPLING
    x1, y1 = -(-(left + width) // _OVERSAMPLING), -(-(top + height) // _OVERSAMPLING)
    canvas = np.zeros(((y1 - y0) * _OVERSAMPLING, (x1 - x0) * _OVERSAMPLING), np.float32)
    row, column = top - y0 * _OVERSAMPLING, left - x0 * _OVERSAMPLING
    canvas[row : row + height, column : column + width] = np.array(mask, np.float32).reshape(height, width)
    coverage = canvas.reshape(y1 - y0, _OVERSAMPLING, x1 - x0, _OVERSAMPLING).mean(axis=(1, 3)) / 255
    ink = np.round(255 * coverage**0.75).astype(np.uint8)
    # Crop the mask, which spans the advance; otherwise its white sides would count as ink.
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if rows.size:
        ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        x0, y0 = x0 + int(columns[0]), y0 + int(rows[0])
    return x0, y0, ink
