from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.report.predictions import (
    EXTRA,
    MISSING,
    SAME,
    WRONG,
    Prediction,
    choose,
    compare,
    confusions,
    matrix,
    ranked,
    read_predictions,
)


def prediction(target: str, read: str, name: str = "n", log_probability: float = -1.0, record: int = 0) -> Prediction:
    return Prediction(record, name, target, read, log_probability)


def names(predictions: list[Prediction]) -> str:
    return "".join(one.name for one in predictions)


def test_similarity_is_one_minus_edits_over_the_longer_length() -> None:
    assert prediction("a b c d", "a x c d e").similarity == pytest.approx(1 - 2 / 5)
    assert prediction("a b", "a b").similarity == 1
    assert prediction("a b", "").similarity == 0


def test_the_gallery_is_ordered_by_similarity_and_log_probability_and_keeps_the_order_of_equal_ones() -> None:
    predictions = [
        prediction("a b", "a b", "d", -2.0),
        prediction("a b", "a b", "b", -0.5),
        prediction("a b", "x y", "f", -3.0),
        prediction("a b", "x y", "e", -0.1),
        prediction("a b", "a y", "c", -9.0),
        prediction("a b", "a b", "a", -0.5),
    ]
    gallery = choose(predictions, 2)
    assert [names(group) for group in gallery] == ["ba", "dc", "ef"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, ("", "", "")),
        (1, ("a", "", "")),
        (4, ("abcd", "", "")),
        (6, ("abcd", "", "ef")),
        (10, ("abcd", "ef", "ghij")),
        (15, ("abcd", "fghi", "lmno")),
    ],
)
def test_no_prediction_is_shown_twice_however_few_there_are(count: int, expected: tuple[str, str, str]) -> None:
    predictions = [prediction("a", "a", name, -float(index)) for index, name in enumerate("abcdefghijklmno"[:count])]
    assert tuple(names(group) for group in choose(predictions)) == expected


def test_formulas_are_split_where_they_begin_to_differ() -> None:
    target, read = compare(prediction("a b c d e", "a x c d"))
    assert [(part.kind, part.tokens) for part in target] == [
        (SAME, ["a"]), (WRONG, ["b"]), (SAME, ["c", "d"]), (MISSING, ["e"])
    ]  # fmt: skip
    assert [(part.kind, part.tokens) for part in read] == [(SAME, ["a"]), (WRONG, ["x"]), (SAME, ["c", "d"])]
    target, read = compare(prediction("b", "a b"))
    assert [(part.kind, part.tokens) for part in read] == [(EXTRA, ["a"]), (SAME, ["b"])]


TOKENS = st.lists(st.sampled_from("abcd"), max_size=8)


@given(TOKENS, TOKENS)
def test_parts_join_to_the_formulas_and_same_parts_are_equal(target: list, read: list) -> None:
    of_target, of_read = compare(prediction(" ".join(target), " ".join(read)))
    assert [token for part in of_target for token in part.tokens] == target
    assert [token for part in of_read for token in part.tokens] == read
    same = [[part.tokens for part in side if part.kind == SAME] for side in (of_target, of_read)]
    assert same[0] == same[1]
    assert {part.kind for part in of_target} <= {SAME, WRONG, MISSING}
    assert {part.kind for part in of_read} <= {SAME, WRONG, EXTRA}


def test_confusions_count_each_edit_once() -> None:
    counts = confusions([
        prediction("7 + x", "\\gamma + x"),
        prediction("7 7", "\\gamma 7"),
        prediction("x + y", "x y"),
        prediction("x", "x !"),
    ])  # fmt: skip
    assert dict(counts.substitutions) == {("7", "\\gamma"): 2}
    assert dict(counts.missing) == {"+": 1}
    assert dict(counts.extra) == {"!": 1}
    assert counts.tokens == {"7": 3, "+": 2, "x": 3, "y": 1}
    assert ranked(counts.tokens, 3) == [("7", 3), ("x", 3), ("+", 2)]


def test_the_matrix_has_the_most_frequent_errors_and_counts_the_rest() -> None:
    predictions = (
        [prediction("a", "b")] * 3 + [prediction("a", "c")] * 2 + [prediction("d", "b")] * 2 + [prediction("e", "f")]
    )
    predictions += [prediction("a z", "z")]
    table = matrix(confusions(predictions), 2)
    assert (table.targets, table.readings) == (["a", "d"], ["b", "c"])
    assert table.counts == [[3, 2], [2, 0]]
    assert table.missing == [1, 0]
    assert table.others == 1  # e read as f


def test_predictions_have_the_indices_of_the_records(tmp_path: Path) -> None:
    table = pa.table({
        "name": ["n0", "n1"], "target": ["a", "b"], "width": [40, 50], "height": [20, 30], "new": ["a", "c"],
        "new_log_probability": [-0.5, -1.5], "length": [["1-9"], ["1-9"]], "new_statistics": [[1, 2], [3, 4]],
    })  # fmt: skip
    pyarrow.parquet.write_table(table, str(tmp_path / "p.parquet"))
    evaluated = read_predictions(tmp_path / "p.parquet", "new")
    assert list(evaluated.predictions) == [Prediction(0, "n0", "a", "a", -0.5), Prediction(1, "n1", "b", "c", -1.5)]
    assert evaluated.widths.tolist() == [40, 50] and evaluated.heights.tolist() == [20, 30]
    assert evaluated.lengths.tolist() == [1, 1] and evaluated.statistics.tolist() == [4, 6]
