from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from components.evaluator.gate import parse
from components.evaluator.pictures import NATIVE, PICTURES, UNSEEN_FONT, RobustnessTest, Trial, trials
from data.dataset.record import Record
from data.defaults import HELD_OUT_FONT
from data.pictures.looks import Look


def picture(width: int = 80, height: int = 32, mode: str = "L") -> bytes:
    """Draws black strokes of two pixels on white or, in modes with transparency, on a transparent ground."""
    pixels = np.full((height, width), 255, np.uint8)
    pixels[8:-8, 10:-10:9] = pixels[8:-8, 11:-10:9] = 0
    image = Image.fromarray(pixels)
    if mode == "RGBA":
        image = Image.merge("RGBA", [Image.new("L", image.size)] * 3 + [Image.fromarray(255 - pixels)])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def look(font: str = "cm", size: float = 10, resolution: float = 144, renderer: str = "latex") -> str:
    return f"list-0123456789ab-0;{Look(renderer, font, size, resolution, True, False, 4, 'light')}"


def opened(trial: Trial) -> Image.Image:
    return Image.open(io.BytesIO(trial.image))


RECORDS = [Record(picture(60 + 2 * number), "x", f"{number}.png") for number in range(12)]


def by_kind(pictures: list[Trial]) -> dict[str, list[Trial]]:
    return {
        kind: [trial for trial in pictures if trial.kind == kind] for kind in dict.fromkeys(t.kind for t in pictures)
    }


def test_the_seed_determines_the_pictures_and_all_kinds_share_examples() -> None:
    reported: list[int] = []
    pictures_made = trials(RECORDS, RobustnessTest(5, 3), reported.append)
    assert pictures_made == trials(RECORDS, RobustnessTest(5, 3))
    assert sum(reported) == len(pictures_made) == 5 * (len(PICTURES) - 1)  # no example is in the held-out font
    chosen = {kind: [trial.example for trial in of] for kind, of in by_kind(pictures_made).items()}
    assert list(chosen) == [kind for kind in PICTURES if kind != UNSEEN_FONT]
    assert len({tuple(examples) for examples in chosen.values()}) == 1
    assert len(set(chosen[NATIVE])) == 5
    other = trials(RECORDS, RobustnessTest(5, 4))
    assert [trial.example for trial in other] != [trial.example for trial in pictures_made]
    everything = by_kind(trials(RECORDS, RobustnessTest(12, 3)))["noise"]
    again = by_kind(trials(RECORDS, RobustnessTest(12, 4)))["noise"]
    assert len(everything) == 12 and all(a.image != b.image for a, b in zip(everything, again, strict=True))


def test_the_number_of_examples_is_limited_to_the_records() -> None:
    grouped = by_kind(trials(RECORDS, RobustnessTest(1000)))
    assert {len(of) for of in grouped.values()} == {12}
    assert [trial.example for trial in grouped["blur"]] == list(range(12))


def test_pictures_match_their_names() -> None:
    grouped = by_kind(trials(RECORDS[:1], RobustnessTest(1)))
    native = np.asarray(opened(grouped[NATIVE][0]))
    assert grouped[NATIVE][0].image == RECORDS[0].image
    for factor in (0.5, 0.75, 1.5, 2, 3, 4):
        assert opened(grouped[f"size-{factor:g}"][0]).size == (60 * factor, 32 * factor)
    file = io.BytesIO()
    Image.fromarray(native).save(file, "JPEG", quality=30)
    np.testing.assert_array_equal(np.asarray(opened(grouped["jpeg-30"][0])), np.asarray(Image.open(file)))
    assert opened(grouped["transparency"][0]).mode == "RGBA"
    assert opened(grouped["ink"][0]).mode == opened(grouped["inverse"][0]).mode == "RGB"
    assert np.median(np.asarray(opened(grouped["inverse"][0]))) < 70
    changed = {kind for kind, (trial,) in grouped.items() if trial.image != RECORDS[0].image}
    assert changed == set(PICTURES) - {NATIVE, UNSEEN_FONT}


def test_transparent_examples_are_put_on_white_before_they_are_changed() -> None:
    records = [Record(picture(mode="RGBA"), "x", "a"), Record(picture(), "x", "b")]
    clear, solid = by_kind(trials(records, RobustnessTest(2)))["size-2"]
    np.testing.assert_array_equal(np.asarray(opened(clear).convert("L")), np.asarray(opened(solid)))


@pytest.mark.parametrize(
    ("name", "em"),
    # 10 pt at 144 dpi are 20 pixels; 15 CSS pixels on a screen of scale 2 are 30, and KaTeX's text is larger by 1.21.
    [("a.png", 16), (look(), 20), (look("katex", 15, 2, "katex"), 36.3)],
)
def test_blur_depends_on_the_font_size_of_a_drawn_record(name: str, em: float) -> None:
    image = Image.new("L", (101, 101), 255)
    image.paste(0, (46, 46, 55, 55))
    file = io.BytesIO()
    image.save(file, "PNG")
    (trial,) = by_kind(trials([Record(file.getvalue(), "x", name)], RobustnessTest(1)))["blur"]
    dark = 255 - np.asarray(opened(trial)).astype(float)
    x = np.arange(101) - 50.0
    # The variance of a square of 9 pixels, and of a Gaussian of 1/32 em.
    assert (dark * x**2).sum() / dark.sum() == pytest.approx((9**2 - 1) / 12 + (em / 32) ** 2, abs=0.08)


def test_the_held_out_font_is_a_separate_kind() -> None:
    held_out = [Record(picture(), "y", look(HELD_OUT_FONT)) for _ in range(3)]
    grouped = by_kind(trials([*RECORDS, *held_out], RobustnessTest(100)))
    assert [trial.example for trial in grouped[UNSEEN_FONT]] == [12, 13, 14]
    assert all(trial.image == held_out[0].image for trial in grouped[UNSEEN_FONT])
    assert [trial.example for trial in grouped["photo"]] == list(range(12))
    # If there are no other records, they are changed like any others.
    assert {len(of) for of in by_kind(trials(held_out, RobustnessTest(100))).values()} == {3}


def test_a_rule_can_name_every_kind() -> None:
    for kind in PICTURES:
        rule = parse(f"bleu >= 0.5 where picture={kind}")
        assert rule.of_picture and rule.slice == f"picture={kind}"
    assert not parse("bleu >= 0.5 where length=1-9").of_picture
