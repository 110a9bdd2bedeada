"""Histograms of pictures and formulas."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from im2latex.statistics import (
    FEATURES,
    OF_EXAMPLES,
    add_formula,
    add_picture,
    empty,
    from_document,
    of_values,
    to_document,
)


@pytest.mark.parametrize("name", FEATURES)
def test_a_value_at_a_bound_is_in_the_bin_below_it_as_in_prometheus(name: str) -> None:
    bounds = FEATURES[name].bounds
    assert list(bounds) == sorted(set(bounds))
    for index, bound in enumerate(bounds):
        assert of_values(name, [bound]).counts[index] == 1
        assert of_values(name, [np.nextafter(bound, math.inf)]).counts[index + 1] == 1


def test_a_picture_and_a_formula_are_counted() -> None:
    statistics = empty(*OF_EXAMPLES)
    picture = np.full((20, 50), 255, np.uint8)
    picture[5:10, 10:40] = 90
    picture[12, :] = 200  # grey, but no ink
    add_picture(statistics, picture)
    add_formula(statistics, length=7, unknown=2)
    assert {name: histogram.mean for name, histogram in statistics.items()} == {
        "width": 50, "height": 20, "ink": pytest.approx(150 / 1000), "length": 7, "unknown": pytest.approx(2 / 7)
    }  # fmt: skip
    assert statistics["unknown"].counts == [5, 2] and statistics["width"].count == 1


def test_json_gives_the_same_statistics_back_without_those_of_another_version() -> None:
    statistics = empty(*OF_EXAMPLES)
    for length in range(1, 300):
        add_formula(statistics, length, unknown=length // 9)
    document = json.loads(json.dumps(to_document(statistics)))
    assert from_document(document) == statistics
    assert from_document({**document, "area": document["width"]}) == statistics
    document["width"]["bounds"][-1] = 4096
    assert set(from_document(document)) == {*OF_EXAMPLES} - {"width"}
    assert from_document({}) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": [1, 2, 3]}, "unknown has to have 2 counts"),
        ({"counts": [1, -1]}, "unknown has to have 2 counts"),
        ({"counts": [1, 2.5]}, "unknown has to have 2 counts"),
        ({"counts": "12"}, "unknown has to have 2 counts"),
        ({"sum": None}, "a sum"),
        ({"bounds": 7}, "unknown has to be an object with bounds"),
    ],
)
def test_an_invalid_histogram_is_refused(change: dict, message: str) -> None:
    document = to_document(empty("unknown"))
    with pytest.raises(ValueError, match=message):
        from_document({"unknown": {**document["unknown"], **change}})
    others: list[Any] = [{"unknown": 3}, [], None]
    for wrong in others:
        with pytest.raises(ValueError, match="object"):
            from_document(wrong)
