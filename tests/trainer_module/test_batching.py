from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from trainer_module import batching
from trainer_module.batching import Buckets, Share, collate, padding, plan, rounded
from trainer_module.config.image import STRIDE
from trainer_module.examples import Example
from trainer_module.feeding import batches


def example(height: int, width: int, length: int, grey: int = 0) -> Example:
    file = io.BytesIO()
    Image.new("L", (width, height), grey).save(file, "PNG")
    return Example(file.getvalue(), height, width, np.arange(4, 4 + length, dtype=np.int32))


def sized(height: int, width: int, length: int) -> Example:
    """Returns an example of this size; its image is never decoded."""
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


def listed(planned: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in planned]


def test_seed_and_epoch_decide_the_plan():
    examples = mixed(200)
    first = listed(plan(examples, 16, 1, 0))
    assert listed(plan(examples, 16, 1, 0)) == first
    assert listed(plan(examples, 16, 1, 1)) != first
    assert listed(plan(examples, 16, 2, 0)) != first


def neighbours(planned: list[np.ndarray]) -> set[tuple[int, int]]:
    """Returns all pairs of examples that are in the same batch."""
    return {pair for batch in planned for pair in itertools.combinations(sorted(batch.tolist()), 2)}


def test_most_pairs_in_a_batch_change_in_the_next_epoch(monkeypatch):
    examples = mixed(8000)

    def met_again() -> float:
        one, other = (neighbours(plan(examples, 20, 1, epoch)) for epoch in (0, 1))
        return len(one & other) / len(one)

    drawn_anew = met_again()
    monkeypatch.setattr(batching, "JITTER", np.zeros(3))
    # Without the jitter, only examples of equal rounded sizes are in random order.
    assert drawn_anew < 0.75 * met_again()
    assert drawn_anew < 0.3


def test_short_formulas_come_first_in_the_first_epoch_alone():
    examples = mixed(200)

    def longest(epoch: int) -> list[int]:
        return [max(len(examples[i].tokens) for i in batch) for batch in plan(examples, 16, 1, epoch, short_first=True)]

    assert longest(0) == sorted(longest(0))
    assert len(set(longest(0))) > 1
    assert longest(1) != sorted(longest(1))
    assert listed(plan(examples, 16, 1, 1, short_first=True)) == listed(plan(examples, 16, 1, 1))


def test_a_plan_groups_similar_sizes():
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


def test_cells_count_for_more_than_steps(monkeypatch):
    # Lengths are independent of sizes here, so a batch cannot have both similar sizes and similar lengths.
    lengths = np.random.default_rng(3).permutation(np.arange(640) % 40)
    examples = [one._replace(tokens=np.zeros(n, np.int32)) for one, n in zip(mixed(640), lengths, strict=True)]
    favoured = padding(examples, plan(examples, 16, 0, 0))
    monkeypatch.setattr(batching, "COST_OF_CELLS", 1)
    equal = padding(examples, plan(examples, 16, 0, 0))
    assert favoured.pixels < equal.pixels - 0.02
    assert favoured.steps > equal.steps


extents_of_any_size = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 41)), min_size=2, max_size=12
)


@given(extents_of_any_size, st.integers(1, 5), st.sampled_from([1, 5]))
def test_a_cut_saves_more_than_any_other(extents, multiple, cells):
    if len(extents) <= multiple:
        extents = extents * (multiple + 1)
    extents_array = np.array(extents, float)
    cells_of = sum(rows * columns for rows, columns, _ in extents) / len(extents)
    steps_of = sum(steps for _, _, steps in extents) / len(extents)

    def cost(part):
        """Returns the cost of a part when all its examples are padded to its largest extents."""
        rows, columns, steps = (max(axis) for axis in zip(*part, strict=True))
        return len(part) * (cells * rows * columns / cells_of + steps / steps_of)

    saved, order, position = batching._Work(extents_array, cells).cut(extents_array, extents_array.T, multiple)
    assert sorted(order.tolist()) == list(range(len(extents)))
    assert position % multiple == 0 and 0 < position < len(extents)
    chosen = [extents[i] for i in order]
    assert saved == pytest.approx(cost(extents) - cost(chosen[:position]) - cost(chosen[position:]), abs=1e-9)
    for axis in range(3):
        ordered = sorted(extents, key=lambda one: one[axis])
        for other in range(multiple, len(extents), multiple):
            assert saved >= cost(extents) - cost(ordered[:other]) - cost(ordered[other:]) - 1e-9


def test_equal_examples_are_divided_in_half():
    alike = np.ones((1000, 3)) * (2, 7.3, 0.1)
    assert batching._Work(alike).cut(alike, alike.T, 10)[2] == 500


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
    steps = [batch.weights.sum(axis=1).tolist() for batch in batches(examples, planned)]
    assert steps == [[4, 2], [5], [1, 3]]


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 4))
def test_the_shares_of_all_hosts_are_the_batches(sizes, hosts):
    examples = [example(8, 8, i) for i in range(sum(sizes))]
    planned = np.split(np.random.default_rng(0).permutation(len(examples)), np.cumsum(sizes)[:-1])
    whole = list(batches(examples, planned))
    shares = [list(batches(examples, planned, share=Share(host, hosts))) for host in range(hosts)]
    for i, batch in enumerate(whole):
        rows = [tuple(row) for share in shares for row in steps_with_weight(share[i])]
        assert sorted(rows) == sorted(tuple(row) for row in steps_with_weight(batch))
        most = -(-len(planned[i]) // hosts)
        assert all(1 <= len(share[i].weights) <= most for share in shares)


def steps_with_weight(batch: batching.Batch) -> list[list[int]]:
    """Returns the tokens of each example that has weight."""
    pairs = zip(batch.targets, batch.weights, strict=True)
    return [targets[weights > 0].tolist() for targets, weights in pairs if weights.any()]


def test_an_invalid_image_cannot_be_collated():
    with pytest.raises(UnidentifiedImageError):
        collate([Example(b"no image", 8, 8, np.array([4], np.int32))])


# --- few shapes -------------------------------------------------------------------------------


def test_columns_and_steps_are_rounded_up_and_rows_are_not():
    numbers = np.arange(1, 129)
    up = batching._rounded_extents(np.stack([numbers] * 3, axis=1))
    np.testing.assert_array_equal(up[:, 0], numbers)
    columns = [*range(1, 17), *range(18, 33, 2), *range(36, 65, 4), *range(72, 129, 8)]
    steps = [*range(1, 9), *range(10, 17, 2), *range(20, 33, 4), *range(40, 65, 8), *range(80, 129, 16)]
    for axis, levels in ((1, columns), (2, steps)):
        # The next level, found without bits.
        assert up[:, axis].tolist() == [min(level for level in levels if level >= n) for n in numbers]


def test_a_rounded_batch_has_more_padding_and_the_same_examples():
    batch = collate([example(11, 8 * 16 + 1, 8, grey=3), example(8, 4, 2, grey=9)])
    assert (batch.inputs["image"].shape, batch.targets.shape) == ((2, 16, 8 * 17, 1), (2, 9))
    wider = rounded(batch)
    assert (wider.inputs["image"].shape, wider.targets.shape) == ((2, 16, 8 * 18, 1), (2, 10))
    assert wider.weights.shape == wider.inputs["tokens"].shape == (2, 10)
    for name, unpadded, padded, value in (
        ("image", batch.inputs["image"], wider.inputs["image"], 255),
        ("tokens", batch.inputs["tokens"], wider.inputs["tokens"], 0),
        ("targets", batch.targets, wider.targets, 0),
        ("weights", batch.weights, wider.weights, 0),
    ):
        old = tuple(map(slice, unpadded.shape))
        np.testing.assert_array_equal(padded[old], unpadded, err_msg=name)
        outside = np.ones(padded.shape, bool)
        outside[old] = False
        assert outside.any() and (padded[outside] == value).all()
        assert padded.dtype == unpadded.dtype
    np.testing.assert_array_equal(wider.inputs["size"], batch.inputs["size"])


def test_the_batches_of_several_epochs_have_few_shapes_and_little_more_padding(monkeypatch):
    examples = mixed(8000)

    def shapes_and_work() -> tuple[int, float]:
        """Returns the number of shapes in six epochs, and the work of the last."""
        extents = batching._rounded_extents(batching._extents(examples))
        work = batching._Work(batching._extents(examples), batching.COST_OF_CELLS)
        of = [np.array([extents[batch].max(axis=0) for batch in plan(examples, 20, 1, i)]) for i in range(6)]
        return len(np.unique(np.concatenate(of), axis=0)), work(of[-1]).sum()

    few, more_work = shapes_and_work()
    monkeypatch.setattr(batching, "BITS", (31, 31))
    many, work = shapes_and_work()
    assert few < many / 2
    assert more_work < 1.05 * work


def filled(buckets: Buckets, examples: list[Example], planned: list[np.ndarray], size: int) -> list[batching.Batch]:
    return [buckets.fill(batch, size) for batch in batches(examples, planned)]


def shapes(filled_batches: list[batching.Batch]) -> set[tuple[int, ...]]:
    """Returns the shapes of all arrays of a batch, without the channel."""
    return {
        (*batch.inputs["image"].shape[:3], *batch.inputs["tokens"].shape, *batch.targets.shape)
        for batch in filled_batches
    }


def test_the_shares_of_a_batch_have_the_shape_of_the_batch():
    examples = [example(STRIDE * (1 + i % 3), STRIDE * (1 + i % 4), i % 5) for i in range(24)]
    buckets = Buckets(examples, 4)
    planned = buckets.cut(examples, 8, 0, 0)
    assert {len(batch) for batch in planned} != {8}  # some are not full
    for i, whole in enumerate(filled(buckets, examples, planned, 8)):
        for host in range(2):
            share = buckets.fill(list(batches(examples, planned, share=Share(host, 2)))[i], 4)
            assert share.inputs["image"].shape == (4, *whole.inputs["image"].shape[1:])
            assert share.targets.shape == (4, *whole.targets.shape[1:])


@settings(deadline=None)
@given(examples_of_any_size, st.integers(1, 20), st.integers(1, 9), st.integers(0, 2), st.booleans())
def test_buckets_have_every_example_once_in_at_most_the_given_shapes(examples, batch_size, count, epoch, short_first):
    buckets = Buckets(examples, count)
    planned = buckets.cut(examples, batch_size, 3, epoch, short_first)
    assert sorted(np.concatenate(planned).tolist()) == list(range(len(examples)))
    assert all(1 <= len(batch) <= batch_size for batch in planned)
    assert 1 <= len(buckets.shapes) <= count
    for batch in planned:
        of = {int(buckets._least(batching._extents([examples[i]]))[0]) for i in batch}
        assert len(of) == 1


def test_filled_batches_have_bucket_shapes_and_count_each_example_once():
    # Only example i contains token 4 + i, so the targets identify the examples of a batch.
    rng = np.random.default_rng(5)
    examples = [
        example(int(rng.integers(1, 30)), int(rng.integers(1, 90)), int(rng.integers(1, 9)))._replace(
            tokens=np.full(rng.integers(1, 9), 4 + i, np.int32)
        )
        for i in range(60)
    ]
    buckets = Buckets(examples, 4)
    planned = buckets.cut(examples, 8, 0, 0)
    filled_batches = filled(buckets, examples, planned, 8)
    assert len(shapes(filled_batches)) == len(buckets.shapes) == 4
    assert all(batch.inputs["image"].shape[0] == 8 for batch in filled_batches)
    counted = [int(row) - 4 for batch in filled_batches for row in batch.targets[batch.weights.any(axis=1), 0]]
    assert sorted(counted) == list(range(60))
    for batch, indices in zip(filled_batches, planned, strict=True):
        expected = collate([examples[i] for i in indices])
        real = len(indices)
        assert batch.weights.sum() == expected.weights.sum()
        np.testing.assert_array_equal(batch.inputs["size"][:real], expected.inputs["size"])
        _, height, width, _ = expected.inputs["image"].shape
        np.testing.assert_array_equal(batch.inputs["image"][:real, :height, :width], expected.inputs["image"])
        assert (batch.inputs["image"][:real, height:] == 255).all() and (
            batch.inputs["image"][:, :, width:] == 255
        ).all()
        # A batch is filled with copies of its own examples.
        np.testing.assert_array_equal(batch.targets[real:], batch.targets[np.arange(real, 8) % real])


def test_seed_and_epoch_decide_the_buckets():
    examples = mixed(200)
    buckets = Buckets(examples, 5)
    first = listed(buckets.cut(examples, 16, 1, 0))
    assert listed(Buckets(examples, 5).cut(examples, 16, 1, 0)) == first
    assert listed(buckets.cut(examples, 16, 1, 1)) != first
    assert listed(buckets.cut(examples, 16, 2, 0)) != first
    lengths = [max(len(examples[i].tokens) for i in batch) for batch in buckets.cut(examples, 16, 1, 0, True)]
    assert lengths == sorted(lengths)


def test_one_shape_is_the_largest_of_all_and_more_never_pad_more():
    examples = mixed(2000)
    widest = [max(part) for part in zip(*batching._extents(examples), strict=True)]
    np.testing.assert_array_equal(Buckets(examples, 1).shapes, [widest])
    used = sum(example.height * example.width for example in examples)

    def pixels(count: int) -> float:
        buckets = Buckets(examples, count)
        of = buckets._least(batching._extents(examples))
        return 1 - used / sum(buckets.shapes[i, 0] * buckets.shapes[i, 1] * STRIDE**2 for i in of)

    shares = [pixels(count) for count in (1, 4, 16)]
    assert shares == sorted(shares, reverse=True)
    # `plan`, whose batches may have any shape, pads 0.23 of the pixels here.
    assert shares[2] < 0.4 < shares[0]
