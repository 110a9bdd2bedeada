from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from data.defaults import HELD_OUT_FONT
from data.pictures import looks
from data.pictures.degradation import KINDS
from data.pictures.looks import FONTS, THEMES, Look, Looks, look_of, read_looks, with_installed_fonts
from im2latex.errors import UserError

COUNT = 6000


@pytest.fixture(scope="module")
def chosen() -> list[Look]:
    return [Looks().choose(1, f"x _ {{ {i} }}", 0) for i in range(COUNT)]


def share(looks: list[Look], condition) -> float:
    return sum(map(condition, looks)) / len(looks)


def test_looks_come_as_often_as_their_shares_say(chosen: list[Look]) -> None:
    # 4 standard deviations of a share of one half among 6,000, the widest, are 0.026.
    assert share(chosen, lambda look: look.renderer == "katex") == pytest.approx(0.2, abs=0.026)
    assert share(chosen, lambda look: not look.display) == pytest.approx(0.35, abs=0.026)
    assert share(chosen, lambda look: look.degradations != ()) == pytest.approx(0.4, abs=0.026)
    latex = [look for look in chosen if look.renderer == "latex"]
    weights = Looks().fonts
    assert share(latex, lambda look: look.font == "cm") == pytest.approx(
        weights["cm"] / sum(weights.values()), abs=0.03
    )
    # Of 16 parts, 5 are 10 pt and 4 are 12 pt.
    assert share(latex, lambda look: look.size == 10) == pytest.approx(5 / 16, abs=0.03)
    assert share(latex, lambda look: look.size == 12) == pytest.approx(4 / 16, abs=0.03)
    assert share(latex, lambda look: 70 <= look.resolution <= 220) > 0.9
    assert {look.font for look in latex} == set(weights)
    assert {kind for look in chosen for kind, _ in look.degradations} == set(KINDS)


def test_looks_stay_within_their_ranges(chosen: list[Look]) -> None:
    for look in chosen:
        assert 0 <= look.border <= 20 and len(look.degradations) <= 2
        assert all(0 <= strength <= 1 for _, strength in look.degradations)
        if look.renderer == "latex":
            assert 8 <= look.size <= 20.74 and 60 <= look.resolution <= 400 and look.theme == "light"
            assert not look.bold or FONTS[look.font].bold
        else:
            assert 12 <= look.size <= 24 and look.resolution in (1, 1.5, 2, 3) and not look.bold


def test_no_look_has_the_held_out_font(chosen: list[Look]) -> None:
    assert HELD_OUT_FONT in FONTS and HELD_OUT_FONT not in {look.font for look in chosen}


def test_light_ink_only_gets_degradations_that_support_it(chosen: list[Look]) -> None:
    """`degrade` requires ink that is darker than its paper."""
    dark = [look for look in chosen if THEMES[look.theme].is_dark and look.degradations]
    assert {look.theme for look in dark} == {"github-dark", "dark", "solarized-dark"}
    assert {kind for look in dark for kind, _ in look.degradations} == {"scale", "blur", "jpeg", "sharpen"}
    for look in chosen:
        kinds = [kind for kind, _ in look.degradations]
        assert not {"inverse", "transparency"} & set(kinds[:-1]) and len(set(kinds)) == len(kinds)


def test_a_look_depends_on_seed_formula_and_copy_only() -> None:
    one = Looks().choose(3, "x", 1)
    assert one == Looks().choose(3, "x", 1)
    others = [Looks().choose(seed, formula, copy) for seed in (3, 4) for formula in "xyz" for copy in range(4)]
    assert Counter(others)[one] == 1 and len(set(others)) == 24


def test_the_name_of_a_record_tells_its_look(chosen: list[Look]) -> None:
    assert str(Look("latex", "times", 10.95, 150, False, False, 4, "light")) == (
        "latex;times;10.95pt;150dpi;inline;regular;4px;light;clean"
    )
    degraded = Look("katex", "katex", 16, 1.5, True, False, 8, "github-dark", (("blur", 0.3), ("jpeg", 0.72)))
    assert str(degraded) == "katex;katex;16px;1.5x;display;regular;8px;github-dark;blur0.30+jpeg0.72"
    for look in [degraded, *chosen]:
        assert look_of(f"mined-0a1b-0;{look}") == look


@pytest.mark.parametrize("name", ["", "synthetic-standard-1-5", "a;latex;times", "a;latex;b;xpt;1dpi;c;d;1px;e;clean"])
def test_other_names_tell_no_look(name: str) -> None:
    assert look_of(name) is None


def test_an_em_is_counted_in_pixels() -> None:
    # 12 pt at 96 dpi: 12 / 72.27 x 96; 16 px at twice the pixels, which KaTeX sets 1.21 times as large.
    assert Look("latex", "cm", 12, 96, True, False, 0, "light").em == pytest.approx(15.94, abs=0.01)
    assert Look("katex", "katex", 16, 2, True, False, 0, "light").em == pytest.approx(38.72)


def test_a_file_sets_some_shares_and_keeps_the_other_defaults(tmp_path: Path) -> None:
    file = tmp_path / "looks.toml"
    file.write_text("katex = 0\nborder = [3, 3]\n[fonts]\ntimes = 1\n[sizes]\n9 = 1\n[resolutions]\n80 = 2\n")
    looks = read_looks(file)
    assert looks.inline == Looks().inline
    for i in range(20):
        look = looks.choose(1, str(i), 0)
        assert (look.font, look.size, look.resolution, look.border) == ("times", 9, 80, 3)


@pytest.mark.parametrize(
    "text, message",
    [
        ("katex = 2", "katex: Input should be less than or equal to 1"),
        ("colour = 1", "colour: Extra inputs are not permitted"),
        ("[fonts]\nwingdings = 1", "fonts: there is no font wingdings; there are cm, "),
        ("[fonts]\ncm = 0", "fonts.cm: "),
        ("[fonts]", "fonts: "),
        ("[themes]\nneon = 1", "there is no theme neon"),
        ("[degradations]\nrain = 1", "there is no degradation rain"),
        ("border = [5, 2]", "the smallest border comes first"),
        ("katex =", "is not a TOML file"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "looks.toml"
    file.write_text(text)
    with pytest.raises(UserError, match="looks.toml") as refusal:
        read_looks(file)
    assert message in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_looks(tmp_path / "no.toml")


def test_fonts_that_are_not_installed_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "installed_fonts", lambda: frozenset({"cm", "times"}))
    assert set(with_installed_fonts(Looks()).fonts) == {"cm", "times"}
    with pytest.raises(UserError, match="none of the fonts arev is installed"):
        with_installed_fonts(Looks(fonts={"arev": 1.0}))
