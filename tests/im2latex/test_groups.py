from __future__ import annotations

import numpy as np

from im2latex.groups import groups_of


def test_tokens_open_and_close_groups() -> None:
    vocabulary = ["", "{", "}", "x", "\\left(", "\\right]", "\\right.", "\\{", "\\begin{array}", "\\end{array}"]
    groups = groups_of(vocabulary, end=0)

    def tokens(of_vocabulary: np.ndarray) -> set[str]:
        return {vocabulary[i] for i in np.flatnonzero(of_vocabulary)}

    all_closers = {"}", "\\right]", "\\right.", "\\end{array}"}
    assert tokens(groups.forbidden[0]) == all_closers and not groups.ending[0].any()
    closers = {"{": {"}"}, "\\left(": {"\\right]", "\\right."}, "\\begin{array}": {"\\end{array}"}}
    assert tokens(groups.opened) == closers.keys() and tokens(groups.closed) == all_closers
    for opener, of_opener in closers.items():
        kind = groups.opened[vocabulary.index(opener)]
        assert tokens(groups.closed == kind) == of_opener
        assert tokens(groups.forbidden[kind]) == all_closers - of_opener | {""}
        assert tokens(groups.ending[kind]) == of_opener - {"\\right]"}


def test_groups_that_only_open_or_only_close_are_left_out() -> None:
    groups = groups_of(["{", "x", "\\right)", "\\begin{array}", "\\end{aligned}"], end=1)
    assert groups.forbidden.shape == (1, 5)
    assert not any(part.any() for part in groups)


def test_without_an_invisible_delimiter_the_first_one_ends_a_formula() -> None:
    groups = groups_of(["", "\\left(", "\\right]", "\\right)"], end=0)
    assert groups.ending.tolist() == [[False] * 4, [False, False, True, False]]
