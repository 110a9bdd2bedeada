from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer_module import augmentation
from trainer_module.augmentation import Augmentation


def formula(height: int = 24, width: int = 60) -> Image.Image:
    pixels = np.full((height, width), 255, np.uint8)
    pixels[4:-4, 6:-6:5] = 0
    return Image.fromarray(pixels)


def darkness(image: Image.Image) -> np.ndarray:
    return 255 - np.asarray(image).astype(float)


def test_augmentation_changes_its_share_of_the_images():
    image = formula()
    changed = sum(Augmentation(0.3, (1, 2))(index, image) is not image for index in range(400))
    assert 80 < changed < 160


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 70), st.integers(1, 400), st.integers(0, 10**6))
def test_no_image_grows_or_becomes_much_smaller(height, width, index):
    image = Image.new("L", (width, height), 255)
    other = Augmentation(1.0, (3, 1))(index, image)
    assert other.mode == "L"
    assert other.width <= width and other.height <= height
    assert min(other.width / width, other.height / height) >= 0.85 - 1 / min(width, height)


def test_augmentation_depends_on_seed_epoch_and_example_only():
    image = formula()

    def pixels(seed, index):
        return np.asarray(Augmentation(1.0, seed)(index, image)).tobytes()

    assert pixels((1, 2), 3) == pixels((1, 2), 3)
    assert len({pixels((1, 2), 3), pixels((1, 3), 3), pixels((2, 2), 3), pixels((1, 2), 4)}) == 4


def test_most_images_change_a_little_and_few_a_lot(monkeypatch):
    # Where nothing moves the same pixels can be compared.
    for name in ("SCALED", "TURNED", "SLANTED", "ASIDE"):
        monkeypatch.setattr(augmentation, name, 0)
    image = formula(40, 160)
    changes = (
        np.array(
            [np.abs(darkness(Augmentation(1.0, (0, 0))(index, image)) - darkness(image)).mean() for index in range(400)]
        )
        / darkness(image).mean()
    )
    assert 0.02 < np.median(changes) < 0.2
    assert (changes > 0.5).mean() < 0.1
    assert changes.max() > 0.5


def test_strokes_keep_some_ink(monkeypatch):
    for name in ("SCALED", "TURNED", "SLANTED", "ASIDE"):
        monkeypatch.setattr(augmentation, name, 0)
    image = formula(40, 160)
    stroke = np.asarray(image) == 0
    for index in range(200):
        changed = darkness(Augmentation(1.0, (0, 0))(index, image))
        assert changed[stroke].mean() > changed[~stroke].mean() + 25


def test_every_change_occurs_with_its_probability(monkeypatch):
    came: list[str] = []
    strengths: list[float] = []

    def degrade(image, kind, strength, rng, em):
        assert em == 20
        came.append(kind)
        strengths.append(strength)
        return image

    monkeypatch.setattr(augmentation, "degrade", degrade)
    images = 1500
    for index in range(images):
        Augmentation(1.0, (0, 0), em=20)(index, formula())
    for kind, probability in augmentation.KINDS:
        assert came.count(kind) / images == pytest.approx(probability, abs=0.035), kind
    # Beta(1, 3): mean 1/4, and (1 - 1/2)^3 of them over a half.
    assert np.mean(strengths) == pytest.approx(0.25, abs=0.02)
    assert np.mean(np.array(strengths) > 0.5) == pytest.approx(0.125, abs=0.02)


def test_a_turned_image_keeps_all_of_its_ink(monkeypatch):
    for name, probability in (("TURNED", 1), ("SLANTED", 1), ("ASIDE", 0)):
        monkeypatch.setattr(augmentation, name, probability)
    monkeypatch.setattr(augmentation, "KINDS", ())
    monkeypatch.setattr(augmentation, "FAINT", 0)
    monkeypatch.setattr(augmentation, "_strength", lambda random: 1.0)
    for height, width in ((24, 60), (60, 24), (20, 400)):
        pixels = np.full((height, width), 255, np.uint8)
        for rows in (slice(0, 4), slice(-4, None)):
            for columns in (slice(0, 4), slice(-4, None)):
                pixels[rows, columns] = 0
        for index in range(30):
            moved = darkness(Augmentation(1.0, (0, 0))(index, Image.fromarray(pixels))) / 255
            quarters = [quarter for half in np.array_split(moved, 2) for quarter in np.array_split(half, 2, axis=1)]
            assert min(quarter.sum() for quarter in quarters) > 0.85**2 * 4 * 4 * 0.85  # Pillow blends no rim
