from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from trainer_module import batching
from trainer_module.batching import Example, collate, padding, plan


def example(height: int, width: int, length: int, grey: int = 0) -> Example:
    file = io.BytesIO()
    Image.new("L", (width, height), grey).save(file, "PNG")
    return Example(file.getvalue(), height, width, np.arange(4, 4 + length, dtype=np.int32))


def sized(height: int, width: int, length: int) -> Example:
    """An example whose image is never looked at."""
    return Example(b"", height, width, np.zeros(length, np.int32))


def mixed(count: int) -> list[Example]:
    rng = np.random.default_rng(7)
    lengths = rng.integers(2, 40, count)
    return [sized(int(rng.integers(16, 64)), int(8 * length + rng.integers(0, 60)), int(length)) for length in lengths]


examples_of_any_size = st.lists(
    st.builds(sized, st.integers(1, 64), st.integers(1, 320), st.integers(0, 40)), min_size=1, max_size=120
)


@settings(deadline=None)
@given(examples_of_any_size, st.integers(1, 20), st.integers(0, 3), st.integers(0, 2), st.booleans())
def test_every_example_is_in_exactly_one_batch(examples, batch_size, seed, epoch, short_first):
    planned = plan(examples, batch_size, seed, epoch, short_first)
    assert sorted(np.concatenate(planned).tolist()) == list(range(len(examples)))
    assert all(1 <= len(batch) <= batch_size for batch in planned)
    assert len(planned) == -(-len(examples) // batch_size)


def test_parts_are_cut_one_after_another(monkeypatch):
    monkeypatch.setattr(batching, "BATCHES_PER_PART", 2)
    planned = plan(mixed(103), 10, 0, 0)
    assert sorted(np.concatenate(planned).tolist()) == list(range(103))
    assert len(planned) == 11


def listed(planned: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in planned]


def test_seed_and_epoch_decide_the_plan():
    examples = mixed(200)
    first = listed(plan(examples, 16, 1, 0))
    assert listed(plan(examples, 16, 1, 0)) == first
    assert listed(plan(examples, 16, 1, 1)) != first
    assert listed(plan(examples, 16, 2, 0)) != first


def test_short_formulas_come_first_in_the_first_epoch_alone():
    examples = mixed(200)

    def longest(epoch: int) -> list[int]:
        return [max(len(examples[i].tokens) for i in batch) for batch in plan(examples, 16, 1, epoch, short_first=True)]

    assert longest(0) == sorted(longest(0))
    assert len(set(longest(0))) > 1
    assert longest(1) != sorted(longest(1))
    assert listed(plan(examples, 16, 1, 1, short_first=True)) == listed(plan(examples, 16, 1, 1))


def test_a_plan_keeps_like_sizes_together():
    # Two sizes, ten of each, in batches of five: no batch needs to mix them.
    examples = [sized(16, 16, 5), sized(40, 160, 5)] * 10
    for batch in plan(examples, 5, 0, 0):
        assert len({examples[i].width for i in batch}) == 1
    # The same with lengths.
    examples = [sized(16, 16, 5), sized(16, 16, 30)] * 10
    for batch in plan(examples, 5, 0, 0):
        assert len({len(examples[i].tokens) for i in batch}) == 1


def test_a_plan_pads_far_less_than_random_batches():
    examples = mixed(640)
    order = np.random.default_rng(0).permutation(len(examples))
    random = padding(examples, [order[start : start + 16] for start in range(0, len(examples), 16)])
    planned = padding(examples, plan(examples, 16, 0, 0))
    assert planned.pixels < random.pixels / 2
    assert planned.steps < random.steps / 2


def test_padding_is_the_share_of_pixels_and_steps_that_no_example_fills():
    examples = [sized(8, 16, 3), sized(10, 8, 1), sized(5, 5, 0)]
    # First batch: both images in 16 x 16, 4 steps each. Second: one of 8 x 8, one step.
    share = padding(examples, [np.array([0, 1]), np.array([2])])
    assert share.pixels == pytest.approx(1 - (8 * 16 + 10 * 8 + 5 * 5) / (2 * 16 * 16 + 8 * 8))
    assert share.steps == pytest.approx(1 - (4 + 2 + 1) / (2 * 4 + 1))


def test_collate_pads_images_with_white_and_tokens_at_the_end():
    batch = collate([example(8, 17, 2, grey=3), example(11, 4, 0, grey=9)])
    image = np.full((2, 16, 24, 1), 255, np.uint8)
    image[0, :8, :17], image[1, :11, :4] = 3, 9
    np.testing.assert_array_equal(batch.inputs["image"], image)
    assert batch.inputs["size"].tolist() == [[8, 17], [11, 4]]
    # Pad 0, start 1, end 2.
    assert batch.inputs["tokens"].tolist() == [[1, 4, 5], [1, 0, 0]]
    assert batch.targets.tolist() == [[4, 5, 2], [2, 0, 0]]
    assert batch.weights.tolist() == [[1, 1, 1], [1, 0, 0]]
    types = [array.dtype.name for array in (*batch.inputs.values(), batch.targets, batch.weights)]
    assert types == ["uint8", "int32", "int32", "int32", "float32"]


def test_batches_are_the_planned_ones_in_their_order():
    examples = [example(8, 8, i) for i in range(5)]
    planned = [np.array([3, 1]), np.array([4]), np.array([0, 2])]
    steps = [batch.weights.sum(axis=1).tolist() for batch in batching.batches(examples, planned)]
    assert steps == [[4, 2], [5], [1, 3]]


def test_what_is_no_image_cannot_be_collated():
    with pytest.raises(UnidentifiedImageError):
        collate([Example(b"no image", 8, 8, np.array([4], np.int32))])
