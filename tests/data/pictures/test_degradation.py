from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from data.commands import app
from data.pictures.degradation import KINDS, compress, degrade
from data.pictures.degradation_sheet import STRENGTHS, degradation_sheet
from data.pictures.geometry import corners_of, resample, warp
from im2latex.errors import UserError


def degraded(image: np.ndarray, kind: str, strength: float, seed: int = 0, em: float = 16) -> np.ndarray:
    return degrade(image, kind, strength, np.random.default_rng(seed), em)


def blank(height: int, width: int, level: int = 255) -> np.ndarray:
    return np.full((height, width), level, np.uint8)


def formula() -> np.ndarray:
    """Strokes of 2 pixels across and along, with paper around them."""
    image = blank(48, 120)
    image[8:40, 12:108:12] = image[8:40, 13:108:12] = 0
    image[24:26, 12:108] = 0
    return image


def ink(image: np.ndarray) -> float:
    """Returns the amount of ink, in black pixels."""
    return float((255 - image.astype(float)).sum() / 255)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(1, 40),
    st.integers(1, 90),
    st.floats(0, 1),
    st.floats(6, 60),
    st.booleans(),
    st.integers(0, 9),
)
def test_every_kind_takes_pictures_of_any_size_and_follows_from_the_generator(
    kind, height, width, strength, em, coloured, seed
):
    shape = (height, width, 3) if coloured else (height, width)
    image = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    before = image.copy()
    one, other = (degraded(image, kind, strength, seed, em) for _ in range(2))
    assert one.dtype == np.uint8
    assert one.ndim == (3 if coloured or kind in ("ink", "inverse", "paper", "transparency") else 2)
    assert one.shape[2:] in ((), (4,) if kind == "transparency" else (3,))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"jpeg", "inverse", "transparency", "border", "photo", "scale"}))
def test_at_strength_0_nothing_changes(kind):
    image = formula()
    changed = degraded(image, kind, 0)
    np.testing.assert_array_equal(changed if changed.ndim == 2 else changed[:, :, 1], image)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_at_strength_1_ink_still_stands_out_from_paper(kind):
    for seed in range(8):
        image = Image.fromarray(degraded(formula(), kind, 1, seed))
        grey = np.asarray(image.getchannel("A") if image.mode == "RGBA" else image.convert("L"), float)
        assert np.ptp(grey) > 60


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"scale", "rotation", "shear", "perspective", "border", "photo"}))
def test_a_greater_strength_changes_more(kind):
    soft = degraded(formula(), "blur", 0.5)  # has levels between black and white, which sharpening changes
    unchanged = degraded(soft, kind, 0).astype(float)

    def change(strength: float) -> float:
        return sum(np.abs(degraded(soft, kind, strength, seed) - unchanged).mean() for seed in range(9))

    assert 0 < change(0.3) < change(1)


@pytest.mark.parametrize("kind", ["blur", "motion-blur"])
@pytest.mark.parametrize("em", [32, 64])
def test_blur_spreads_a_point_by_a_share_of_the_em(kind, em):
    image = blank(65, 65)
    image[30:35, 30:35] = 0  # large, since grey levels are whole numbers
    dark = 255 - degraded(image, kind, 0.75, 1, em).astype(float)
    y, x = np.mgrid[:65, :65] - 32.0
    spread = (dark * (x**2 + y**2)).sum() / dark.sum() - 2 * (5**2 - 1) / 12
    # A Gaussian has its variance along x and along y; a way of length L has L^2 / 12 along itself.
    expected = 2 * (0.75 * em / 16) ** 2 if kind == "blur" else (3 * 0.75 * em / 16) ** 2 / 12
    assert spread == pytest.approx(expected, rel=0.15)


def test_rotation_turns_by_three_degrees_and_keeps_every_corner():
    image = blank(40, 300)
    image[20, 10:290] = 0
    turned = degraded(image, "rotation", 1)
    rows, columns = np.nonzero(turned < 128)
    left, right = rows[columns < columns.min() + 5].mean(), rows[columns > columns.max() - 5].mean()
    assert abs(left - right) == pytest.approx(280 * math.sin(math.radians(3)), abs=1)
    assert turned.shape[0] == pytest.approx(40 * math.cos(math.radians(3)) + 300 * math.sin(math.radians(3)), abs=2)
    assert turned[0, 0] == turned[-1, -1] == 255


def test_new_paper_around_a_turned_picture_has_the_paper_s_colour():
    image = np.full((40, 100, 3), (250, 240, 200), np.uint8)
    image[15:25, 20:80] = 0
    for kind in ("rotation", "shear", "perspective", "border"):
        assert degraded(image, kind, 1)[0].tolist().count([250, 240, 200]) > 20, kind


def test_a_warp_moves_the_centre_to_where_the_diagonals_meet():
    image = blank(101, 201)
    image[49:52, 99:102] = 0
    corners = np.array([(10, 0), (190, 20), (220, 120), (0, 90)], float)
    moved = 255 - warp(image, corners).astype(float)
    y, x = np.mgrid[: moved.shape[0], : moved.shape[1]] + 0.5
    # (10, 0) + s (210, 120) = (190, 20) + t (-190, 70)
    s, t = np.linalg.solve([[210, 190], [120, -70]], [180, 20])
    meeting = (10 + 210 * s, 120 * s)
    assert meeting == pytest.approx((190 - 190 * t, 20 + 70 * t))
    assert ((moved * x).sum() / moved.sum(), (moved * y).sum() / moved.sum()) == pytest.approx(meeting, abs=0.25)
    assert moved.shape == (120, 220)


def test_a_warp_to_the_same_corners_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)
    np.testing.assert_array_equal(warp(image, corners_of(image)), image)


def test_resampling_to_half_takes_means_and_to_double_repeats():
    image = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)
    means = image.reshape(10, 2, 15, 2).mean(axis=(1, 3))
    assert np.abs(resample(image, 0.5, Image.Resampling.BOX) - means).max() <= 1
    np.testing.assert_array_equal(resample(image, 2, Image.Resampling.NEAREST), image.repeat(2, 0).repeat(2, 1))


def test_scale_goes_from_half_to_four_times_but_not_below_8_pixels_an_em():
    widths = {degraded(blank(30, 100), "scale", 1, seed).shape[1] for seed in range(20)}
    assert widths == {50, 400}
    assert {degraded(blank(30, 100), "scale", 1, seed, em=10).shape[1] for seed in range(20)} == {80, 400}


def test_jpeg_goes_down_to_quality_15():
    # Its quantisation of the mean is 16 x 5000 / 15 / 100, rounded: 53, in eighths of a grey level around 128.
    expected = round(72 * 8 / 53) * 53 / 8 + 128
    assert abs(int(degraded(blank(16, 16, 200), "jpeg", 1)[3, 3]) - expected) <= 0.5
    assert compress(blank(16, 16, 200), 90)[3, 3] == 200


@pytest.mark.parametrize(
    ("em", "width", "bolder", "thinner"),
    # A stroke gains and loses half a pixel on each side at 16 pixels an em, twice that at 32.
    # A stroke that would vanish keeps half its ink.
    [(16, 4, 5, 3), (32, 4, 6, 2), (16, 1, 2, 0.5), (32, 1, 3, 0.5)],
)
def test_strokes_grow_and_shrink_by_a_share_of_the_em(em, width, bolder, thinner):
    image = blank(9, 21)
    image[:, 10 : 10 + width] = 0
    assert ink(degraded(image, "dilation", 1, em=em)) / 9 == pytest.approx(bolder, abs=0.01)
    if (em, width) != (32, 4):
        assert ink(degraded(image, "erosion", 1, em=em)) / 9 == pytest.approx(thinner, abs=0.01)
    else:  # both sides keep only half of their ink
        assert ink(degraded(image, "erosion", 1, em=em)) / 9 == pytest.approx(thinner + 1, abs=0.01)


def test_contrast_leaves_a_quarter_of_the_range():
    for seed in range(9):
        changed = degraded(formula(), "contrast", 1, seed)
        assert int(changed.max()) - int(changed.min()) == pytest.approx(0.25 * 255, abs=1)
        assert changed.max() > 150


def test_noise_has_the_deviation_it_says_or_is_salt_and_pepper():
    image, kinds = blank(200, 200, 128), set()
    for seed in range(12):
        changed = degraded(image, "noise", 1, seed).astype(float)
        if (levels := set(np.unique(changed))) <= {0, 128, 255}:
            kinds.add("salt and pepper")
            assert (changed != 128).mean() == pytest.approx(0.02, rel=0.15)
            assert levels == {0, 128, 255}
        else:
            kinds.add("gaussian")
            assert changed.std() == pytest.approx(25, rel=0.03)
    assert kinds == {"gaussian", "salt and pepper"}


def test_shadows_are_soft_and_never_darker_than_60_percent():
    darkest = []
    for seed in range(30):
        changed = degraded(blank(60, 200), "shadow", 1, seed).astype(int)
        darkest.append(changed.min())
        assert changed.min() >= 152  # 0.6 x 255 = 153
        assert max(np.abs(np.diff(changed, axis=axis)).max() for axis in (0, 1)) < 40
    assert sorted(darkest)[len(darkest) // 2] < 165


def test_colours_are_put_on_ink_and_paper():
    for seed in range(20):
        coloured = degraded(formula(), "ink", 1, seed)
        assert coloured[0, 0].tolist() == [255, 255, 255]
        red, green, blue = coloured[24, 20]
        assert 0.299 * red + 0.587 * green + 0.114 * blue <= 151
        inverse = degraded(formula(), "inverse", 1, seed)
        assert inverse[24, 20].mean() > inverse[0, 0].mean() + 100
        paper = degraded(formula(), "paper", 1, seed)
        assert paper[24, 20].tolist() == [0, 0, 0]
        assert paper[0, 0].min() > 100
    np.testing.assert_array_equal(degraded(formula(), "inverse", 0), np.dstack([255 - formula()] * 3))


def test_a_transparent_picture_has_its_ink_in_the_alpha_channel():
    picture = degraded(formula(), "transparency", 0.8, 3)
    np.testing.assert_array_equal(picture[:, :, 3], 255 - formula())
    assert len(np.unique(picture[:, :, :3].reshape(-1, 3), axis=0)) == 1
    black = Image.fromarray(degraded(formula(), "transparency", 0))
    white = Image.new("RGBA", black.size, "white")
    np.testing.assert_array_equal(np.asarray(Image.alpha_composite(white, black).convert("L")), formula())


def test_remnants_of_a_border_do_not_touch_the_formula():
    for seed in range(20):
        changed = degraded(formula(), "border", 1, seed)
        gap = (changed.shape[0] - 48) // 2
        assert gap == math.ceil(0.6 * 16)
        np.testing.assert_array_equal(changed[gap:-gap, gap:-gap], formula())
        outside = ink(changed) - ink(formula())
        assert outside > 5
        assert ink(changed[gap - 4 : 4 - gap, gap - 4 : 4 - gap]) == ink(formula())


def test_dust_is_dark_and_smaller_than_a_dot():
    image = blank(160, 160)
    changed = np.mean([255 - degraded(image, "dust", 1, seed).astype(float) for seed in range(20)], axis=0)
    specks = 0.15 * 160 * 160 / 16**2
    largest = math.pi * (0.03 * 16) ** 2
    assert 0.2 * specks * largest < changed.sum() / 255 < specks * largest


def test_broken_strokes_lose_ink_alone():
    changed = degraded(formula(), "broken", 1)
    assert (changed >= formula()).all()
    assert 0.005 < 1 - ink(changed) / ink(formula()) < 0.1


def test_unknown_degradations_are_refused():
    with pytest.raises(UserError, match=r"there is no degradation 'fog'; the degradations are scale, rotation.*photo"):
        degraded(formula(), "fog", 1)
    with pytest.raises(ValueError, match="from 0 to 1"):
        degraded(formula(), "blur", 1.5)
    with pytest.raises(ValueError, match=r"\(4, 4, 4\)"):
        degraded(np.zeros((4, 4, 4), np.uint8), "blur", 1)


def test_the_sheet_shows_each_kind_at_each_strength(tmp_path):
    image = formula()
    degradation_sheet(image, tmp_path / "sheet.png", ["contrast", "transparency"], seed=5)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    cell = degrade(image, "contrast", STRENGTHS[3], np.random.default_rng((5, 0, 3)))
    top, left = 24 + 12, 110 + 12 + 3 * (120 + 12)
    np.testing.assert_array_equal(sheet[top : top + 48, left : left + 120], cell)


def test_the_command_draws_a_sheet_of_any_picture(tmp_path):
    Image.fromarray(formula()).save(tmp_path / "formula.png")
    sheet = tmp_path / "sheet.png"
    run = CliRunner().invoke(app, ["degradations", "--out", str(sheet), "--image", str(tmp_path / "formula.png")])
    assert run.exit_code == 0, run.output
    assert [line.split()[0] for line in run.output.splitlines()] == list(KINDS)
    assert Image.open(sheet).height > 48 * len(KINDS)
    run = CliRunner().invoke(app, ["degradations", "--out", str(sheet), "--image", str(tmp_path)])
    assert isinstance(run.exception, UserError)
    assert "is not an image" in str(run.exception)
