"""Batches made in advance, by worker processes and by a thread."""

from __future__ import annotations

import io
import itertools
import threading
import time

import numpy as np
import pytest
from PIL import Image

from data.parallel import ProcessPool
from trainer_module.augmentation import Augmentation
from trainer_module.examples import Example, Examples
from trainer_module.feeding import batches, prefetched


def formula(height: int = 24, width: int = 60) -> Image.Image:
    pixels = np.full((height, width), 255, np.uint8)
    pixels[4:-4, 6:-6:5] = 0
    return Image.fromarray(pixels)


def test_augmented_images_are_in_the_upper_left_corner_with_their_own_size():
    file = io.BytesIO()
    formula().save(file, "PNG")
    examples = [Example(file.getvalue(), 24, 60, np.array([4, 5], np.int32))] * 3
    augmentation = Augmentation(1.0, (0, 0))
    (batch,) = batches(examples, [np.arange(3)], augmentation)
    assert batch.inputs["image"].shape == (3, 24, 64, 1)
    for i, (height, width) in enumerate(batch.inputs["size"]):
        image = np.asarray(augmentation(i, formula()))
        assert image.shape == (height, width)
        np.testing.assert_array_equal(batch.inputs["image"][i, :height, :width, 0], image)
        assert (batch.inputs["image"][i, height:] == 255).all()


def test_worker_processes_make_the_same_batches_in_the_same_order(tmp_path):
    file = io.BytesIO()
    formula().save(file, "PNG")
    examples = [Example(file.getvalue(), 24, 60, np.arange(4, 5 + i, dtype=np.int32)) for i in range(12)]
    planned = [np.array(indices) for indices in ([3, 0, 11], [5], [7, 1, 2, 4], [6, 8], [9, 10])]
    augmentation = Augmentation(1.0, (3, 1))
    expected = list(batches(examples, planned, augmentation))
    with ProcessPool(2, with_main=False) as pool:
        # Two epochs with one pool, of which the first is abandoned.
        next(batches(Examples.write(examples, tmp_path), planned, augmentation, pool))
        actual = list(batches(Examples.write(examples, tmp_path), planned, augmentation, pool))
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        for name, array in one.inputs.items():
            np.testing.assert_array_equal(array, other.inputs[name])
        np.testing.assert_array_equal(one.targets, other.targets)
        np.testing.assert_array_equal(one.weights, other.weights)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetched"]


def wait_for(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_prefetched_items_are_the_same_and_end():
    assert list(prefetched(iter(range(20)), 3)) == list(range(20))
    wait_for(lambda: not threads())


def test_at_most_the_given_number_of_items_is_prefetched():
    produced = []
    ahead = prefetched((produced.append(i) or i for i in itertools.count()), 3)
    assert next(ahead) == 0
    # One item is consumed, three wait, and the thread has one.
    wait_for(lambda: len(produced) == 5)
    time.sleep(0.05)
    assert produced == list(range(5))
    ahead.close()
    wait_for(lambda: not threads())
    assert len(produced) <= 6


def test_an_exception_is_raised_in_the_place_of_its_item():
    def broken():
        yield 1
        raise ZeroDivisionError("of the thread")

    ahead = prefetched(broken(), 3)
    assert next(ahead) == 1
    with pytest.raises(ZeroDivisionError, match="of the thread"):
        next(ahead)
    wait_for(lambda: not threads())
