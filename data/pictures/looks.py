"""Looks: the font, size, resolution, colours and degradations of a drawn formula, and how often each is used.

A look depends only on the seed, the formula and the number of the copy, so a formula looks the same whatever else is
drawn. The name of a drawn record ends with its look, in fields separated by semicolons:

    stacks-3f2a9c81d0e4-0;latex;times;10.95pt;150dpi;inline;regular;4px;light;clean
    stacks-3f2a9c81d0e4-1;katex;katex;16px;1.5x;display;regular;8px;github-light;blur0.31+jpeg0.72
"""

from __future__ import annotations

import functools
import random
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator

from data import toml
from data.pictures.degradation import KINDS
from im2latex.errors import UserError


class Font(NamedTuple):
    r"""A font for mathematics.

    Attributes:
      preamble: LaTeX that loads it, inserted after amsmath and amssymb.
      needs: files that kpsewhich finds if the font is installed.
      bold: whether \boldmath changes it.
    """

    preamble: str
    needs: tuple[str, ...] = ()
    bold: bool = False


def _packages(*packages: str, needs: tuple[str, ...] = (), bold: bool = False) -> Font:
    loads = [f"\\usepackage{name}" if name.startswith("[") else f"\\usepackage{{{name}}}" for name in packages]
    files = [f"{name.rpartition('{')[2].rstrip('}')}.sty" for name in packages]
    return Font("".join(f"{load}\n" for load in loads), (*files, *needs), bold)


# Each font here looks different. Latin Modern differs from Computer Modern only by its hinting, but that is visible.
FONTS = {
    "cm": Font("", bold=True),
    "lm": _packages("lmodern", bold=True),
    "mlmodern": _packages("mlmodern", bold=True),
    "times": _packages("mathptmx"),
    "txfonts": _packages("txfonts", bold=True),
    "newtx": _packages("newtxtext", "newtxmath", needs=("binhex.tex", "xkeyval.sty", "xstring.sty"), bold=True),
    "stix": _packages("stix", bold=True),
    "stix2": _packages("stix2", bold=True),
    "palatino": _packages("mathpazo", bold=True),
    "pxfonts": _packages("pxfonts", bold=True),
    "newpx": _packages("newpxtext", "newpxmath", needs=("binhex.tex", "xkeyval.sty", "xstring.sty"), bold=True),
    "fourier": _packages("fourier"),
    "fouriernc": _packages("fouriernc"),
    "kpfonts": _packages("kpfonts", bold=True),
    "charter": _packages("[charter]{mathdesign}", needs=("mdbchr7t.tfm", "xkeyval.sty"), bold=True),
    "utopia": _packages("[utopia]{mathdesign}", needs=("mdputr7t.tfm", "xkeyval.sty"), bold=True),
    "libertinus": _packages("libertinust1math", needs=("xkeyval.sty",), bold=True),
    "euler": _packages("eulervm"),
    "concrete": _packages("beton", "euler"),
    "cmbright": _packages("cmbright"),
    "sans": _packages("sansmathfonts"),
    "helvetica": _packages("[helvet]{sfmath}"),
    "arev": _packages("arev", bold=True),
    "iwona": _packages("[math]{iwona}", bold=True),
    "bookman": _packages("bookman", "[italic]{mathastext}"),
    "schoolbook": _packages("newcent", "[italic]{mathastext}"),
    "antykwa": _packages("[math]{anttor}", bold=True),
}
# Papers mostly use Computer Modern and Times. data.defaults.HELD_OUT_FONT is missing here on purpose: formulas drawn in
# it show how well a model reads a font that it has never seen.
_FONT_SHARES = {
    **{"cm": 28.0, "lm": 5.0, "mlmodern": 4.0, "times": 5.0, "txfonts": 6.0, "newtx": 4.0, "stix": 4.0, "stix2": 3.0},
    **{"palatino": 5.0, "pxfonts": 3.0, "newpx": 3.0, "fourier": 3.0, "fouriernc": 2.0, "kpfonts": 3.0, "charter": 3.0},
    **{"utopia": 2.0, "libertinus": 4.0, "euler": 2.0, "concrete": 1.5, "cmbright": 2.0, "sans": 2.0},
    **{"helvetica": 2.0, "arev": 1.5, "iwona": 1.5, "bookman": 1.0, "schoolbook": 1.5},
}
# LaTeX's standard sizes, for which all fonts define script sizes.
_SIZES = {8.0: 1.0, 9.0: 1.5, 10.0: 5.0, 10.95: 2.5, 12.0: 4.0, 14.4: 1.0, 17.28: 0.6, 20.74: 0.4}
# Evenly spaced on a logarithmic scale; values outside 70 to 220 are rarer.
_RESOLUTIONS = {
    **{60: 0.6, 65: 0.6},
    **dict.fromkeys((70, 75, 80, 86, 92, 98, 105, 112, 120, 129, 138, 147, 158, 169, 181, 193, 207, 220), 4.0),
    **{240: 0.6, 260: 0.6, 280: 0.6, 300: 1.2, 340: 0.6, 400: 0.6},
}
_KATEX_SIZES = {
    12.0: 1.0,
    13.0: 1.0,
    14.0: 2.0,
    15.0: 1.0,
    16.0: 4.0,
    17.0: 1.0,
    18.0: 2.0,
    20.0: 1.5,
    22.0: 0.7,
    24.0: 0.8,
}
_KATEX_SCALES = {1.0: 4.0, 1.5: 1.5, 2.0: 3.0, 3.0: 1.0}


class Theme(NamedTuple):
    """CSS colours of a page."""

    text: str
    background: str

    @property
    def is_dark(self) -> bool:
        """Whether the text is lighter than the background."""
        text, background = (int(colour[3:5], 16) for colour in self)  # green contributes most of the brightness
        return text > background


THEMES = {
    "light": Theme("#000000", "#ffffff"),
    "github-light": Theme("#1f2328", "#ffffff"),
    "github-dark": Theme("#e6edf3", "#0d1117"),
    "stackexchange": Theme("#0c0d0e", "#ffffff"),
    "wikipedia": Theme("#202122", "#f8f9fa"),
    "sepia": Theme("#433422", "#fbf0d9"),
    "dark": Theme("#d4d4d4", "#1e1e1e"),
    "solarized-dark": Theme("#93a1a1", "#002b36"),
    "blue": Theme("#0645ad", "#ffffff"),
    "red": Theme("#b3261e", "#ffffff"),
}
_THEME_SHARES = {
    **{"light": 6.0, "github-light": 4.0, "github-dark": 2.0, "stackexchange": 3.0, "wikipedia": 1.5, "sepia": 0.7},
    **{"dark": 1.5, "solarized-dark": 0.5, "blue": 0.5, "red": 0.5},
}


# KaTeX's font size relative to that of the surrounding text (katex.css).
_KATEX_EM = 1.21
# Common processing steps have the largest shares. data.pictures.degradation describes the kinds.
_DEGRADATION_SHARES = {kind: 1.0 for kind in KINDS} | {
    "scale": 3.0,
    "jpeg": 2.0,
    "blur": 2.0,
    "photo": 3.0,
    "noise": 1.5,
}
# Kinds that also work with light ink on dark paper, and kinds that must come last because they make light ink or
# transparent paper.
_OF_ANY_INK = {"scale", "blur", "jpeg", "sharpen"}
_LAST = {"inverse", "transparency"}


@dataclass(frozen=True, order=True)
class Look:
    """How one picture is drawn.

    Attributes:
      renderer: `latex` or `katex`.
      font: one of FONTS; `katex` for KaTeX.
      size: text size in points; for KaTeX in CSS pixels.
      resolution: dots per inch; for KaTeX device pixels per CSS pixel.
      display: display style; otherwise inline.
      bold: use the font's bold mathematics.
      border: empty pixels around the ink.
      theme: one of THEMES.
      degradations: kinds of `data.pictures.degradation` with their strengths, in the order in which they are applied.
    """

    renderer: str
    font: str
    size: float
    resolution: float
    display: bool
    bold: bool
    border: int
    theme: str
    degradations: tuple[tuple[str, float], ...] = ()

    @property
    def em(self) -> float:
        """The font size in pixels of the image."""
        return self.size * self.resolution * (1 / 72.27 if self.renderer == "latex" else _KATEX_EM)

    def __str__(self) -> str:
        size, resolution = ("pt", "dpi") if self.renderer == "latex" else ("px", "x")
        return ";".join(
            [
                self.renderer,
                self.font,
                f"{self.size:g}{size}",
                f"{self.resolution:g}{resolution}",
                "display" if self.display else "inline",
                "bold" if self.bold else "regular",
                f"{self.border}px",
                self.theme,
                "+".join(f"{kind}{strength:.2f}" for kind, strength in self.degradations) or "clean",
            ]
        )


def look_of(name: str) -> Look | None:
    """Parses the look in the name of a drawn record; None if the name has none."""
    fields = name.split(";")[1:]
    if len(fields) != 9 or fields[0] not in ("latex", "katex"):
        return None
    renderer, font, size, resolution, style, weight, border, theme, degradations = fields
    try:
        return Look(
            renderer,
            font,
            float(size.rstrip("ptx")),
            float(resolution.rstrip("dpix")),
            style == "display",
            weight == "bold",
            int(border.removesuffix("px")),
            theme,
            tuple((kind, float(strength)) for kind, strength in _DEGRADATION.findall(degradations)),
        )
    except ValueError:
        return None


_DEGRADATION = re.compile(r"([a-z-]+)(\d\.\d+)")

Weights = Annotated[dict[str, PositiveFloat], Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Key = TypeVar("Key", str, float, int)


class Looks(BaseModel):
    """Settings of --looks: how often each look is drawn.

    Attributes:
      katex: share of formulas drawn with KaTeX.
      inline: share drawn in inline style.
      bold: share drawn in bold, for fonts that have it.
      degraded: share degraded in one or two ways.
      border: smallest and largest border in pixels.
      fonts, sizes, resolutions, katex_sizes, katex_scales, themes, degradations: relative weight of each value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    katex: Share = 0.2
    inline: Share = 0.35
    bold: Share = 0.03
    degraded: Share = 0.4
    border: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(le=200)]] = (0, 20)
    fonts: Weights = _FONT_SHARES
    sizes: Annotated[dict[float, PositiveFloat], Field(min_length=1)] = _SIZES
    resolutions: Annotated[dict[int, PositiveFloat], Field(min_length=1)] = _RESOLUTIONS
    katex_sizes: Annotated[dict[float, PositiveFloat], Field(min_length=1)] = _KATEX_SIZES
    katex_scales: Annotated[dict[float, PositiveFloat], Field(min_length=1)] = _KATEX_SCALES
    themes: Weights = _THEME_SHARES
    degradations: Weights = _DEGRADATION_SHARES

    @field_validator("fonts")
    @classmethod
    def _known_fonts(cls, fonts: dict[str, float]) -> dict[str, float]:
        return _known(fonts, FONTS, "font")

    @field_validator("themes")
    @classmethod
    def _known_themes(cls, themes: dict[str, float]) -> dict[str, float]:
        return _known(themes, THEMES, "theme")

    @field_validator("degradations")
    @classmethod
    def _known_degradations(cls, kinds: dict[str, float]) -> dict[str, float]:
        return _known(kinds, KINDS, "degradation")

    @field_validator("border")
    @classmethod
    def _ordered(cls, border: tuple[int, int]) -> tuple[int, int]:
        if border[0] > border[1]:
            raise ValueError("the smallest border comes first")
        return border

    def choose(self, seed: int, formula: str, copy: int) -> Look:
        """Chooses the look of a copy of a formula; the same arguments give the same look."""
        rng = random.Random(f"{seed} {copy} {formula}")
        katex = rng.random() < self.katex
        display = rng.random() >= self.inline
        bold = rng.random() < self.bold
        border = rng.randint(*self.border)
        theme = _pick(rng, self.themes) if katex else "light"
        degradations = self._degradations(rng, theme) if rng.random() < self.degraded else ()
        if katex:
            size, scale = _pick(rng, self.katex_sizes), _pick(rng, self.katex_scales)
            return Look("katex", "katex", size, scale, display, False, border, theme, degradations)
        font = _pick(rng, self.fonts)
        size, dpi = _pick(rng, self.sizes), _pick(rng, self.resolutions)
        bold = bold and FONTS[font].bold
        return Look("latex", font, size, dpi, display, bold, border, theme, degradations)

    def _degradations(self, rng: random.Random, theme: str) -> tuple[tuple[str, float], ...]:
        """Chooses one or two kinds with random strengths; at most one of `_LAST`, as the last one."""
        kinds = self.degradations
        if THEMES[theme].is_dark:
            kinds = {kind: share for kind, share in kinds.items() if kind in _OF_ANY_INK}
        chosen = {_pick(rng, kinds): None for _ in range(rng.randint(1, 2))} if kinds else {}
        ordered = sorted(chosen, key=lambda kind: kind in _LAST)
        if len(ordered) == 2 and ordered[0] in _LAST:
            ordered.pop()
        return tuple((kind, round(rng.uniform(0.1, 1), 2)) for kind in ordered)


def _known(weights: dict[str, float], known: Mapping[str, object], what: str) -> dict[str, float]:
    for name in weights:
        if name not in known:
            raise ValueError(f"there is no {what} {name}; there are {', '.join(known)}")
    return weights


def _pick(rng: random.Random, weights: Mapping[Key, float]) -> Key:
    return rng.choices(list(weights), list(weights.values()))[0]


def read_looks(path: Path | None) -> Looks:
    """Reads a TOML file with fields of `Looks`. Missing fields have their defaults, as has everything without a file.

    Raises:
      UserError: the file cannot be read or is invalid.
    """
    if path is None:
        return Looks()
    try:
        return Looks.model_validate(toml.loads(path.read_text("utf-8")))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}; correct it") from error
    except ValueError as error:
        raise UserError(f"{path} is not a TOML file: {error}; correct it") from error


@functools.cache
def installed_fonts() -> frozenset[str]:
    """Returns the names of the FONTS whose files TeX finds."""
    files = sorted({file for font in FONTS.values() for file in font.needs})
    if shutil.which("kpsewhich") is None:
        return frozenset()
    result = subprocess.run(["kpsewhich", *files], capture_output=True, text=True, check=False)
    found_files = {Path(line).name for line in result.stdout.splitlines()}
    return frozenset(name for name, font in FONTS.items() if found_files.issuperset(font.needs))


def with_installed_fonts(looks: Looks) -> Looks:
    """Returns the looks without the fonts that are not installed.

    Raises:
      UserError: none of the fonts is installed.
    """
    fonts = {name: share for name, share in looks.fonts.items() if name in installed_fonts()}
    if not fonts:
        raise UserError(
            f"none of the fonts {', '.join(looks.fonts)} is installed; install texlive-fonts-recommended and "
            "texlive-fonts-extra, or name others with --looks"
        )
    return looks.model_copy(update={"fonts": fonts})
