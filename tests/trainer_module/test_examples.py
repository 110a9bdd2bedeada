from __future__ import annotations

import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trainer_module import examples as module
from trainer_module.batching import plan
from trainer_module.examples import Example, Examples, part_of, sizes_of


def random_examples(count: int, seed: int = 0) -> list[Example]:
    """Examples of random bytes, some twice, some without tokens."""
    random = np.random.default_rng(seed)
    examples = [
        Example(
            random.bytes(int(random.integers(1, 60))), int(random.integers(1, 90)), int(random.integers(1, 900)),
            random.integers(4, 70_000, int(random.integers(0, 12))).astype(np.int32),
        )
        for _ in range(count)
    ]  # fmt: skip
    return [*examples, *examples[: count // 10]]


def plain(examples) -> list[tuple]:
    return [(e.image, e.height, e.width, e.tokens.dtype.name, e.tokens.tolist()) for e in examples]


def test_examples_come_back_as_they_were_one_by_one_in_parts_and_in_sizes(tmp_path: Path) -> None:
    examples = random_examples(50)
    kept = Examples.write(iter(examples), tmp_path)
    assert plain(kept) == plain(examples)
    assert plain([kept[-1], kept[3]]) == plain([examples[-1], examples[3]])
    chosen = np.array([7, 0, 41, 7])
    assert plain(kept[chosen]) == plain(part_of(kept, chosen)) == plain(part_of(examples, chosen))
    assert plain(kept[10:20][2:4]) == plain(examples[12:14])
    assert plain(kept[:2] + kept[40:42]) == plain(examples[:2] + examples[40:42])
    np.testing.assert_array_equal(sizes_of(kept), sizes_of(examples))
    assert sizes_of(kept).tolist() == [[e.height, e.width, len(e.tokens)] for e in examples]
    with pytest.raises(IndexError):
        kept[len(examples)]
    assert not list(tmp_path.iterdir())  # the file has no name


def test_no_examples_can_be_written_and_read(tmp_path: Path) -> None:
    for kept in (Examples.write([], tmp_path), Examples.write_sorted([], tmp_path)):
        assert (len(kept), list(kept), sizes_of(kept).shape) == (0, [], (0, 3))


@pytest.mark.parametrize("run_bytes", [1, 500, 1 << 20])
def test_sorted_examples_are_in_the_order_of_their_bytes_however_many_are_sorted_at_once(
    run_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RUN_BYTES", run_bytes)
    examples = random_examples(80)
    expected = sorted(examples, key=lambda example: (example.image, example.tokens.tobytes()))
    assert plain(Examples.write_sorted(iter(examples), tmp_path)) == plain(expected)


def test_tokens_can_be_renumbered_and_left_out(tmp_path: Path) -> None:
    examples = [Example(b"x", 1, 2, np.array([2, 0, 1, 1], np.int32)), Example(b"y", 3, 4, np.zeros(0, np.int32))]
    kept = Examples.write(examples, tmp_path)
    ids = np.array([10, 30, 20], np.int32)
    assert [e.tokens.tolist() for e in kept.renumbered(ids)[:]] == [[20, 10, 30, 30], []]
    assert kept.renumbered(ids)[0].tokens.dtype == np.int32
    assert plain(kept.without_tokens()) == plain(e._replace(tokens=e.tokens[:0]) for e in examples)
    assert kept[0].tokens.tolist() == [2, 0, 1, 1]


def test_another_process_reads_a_part_that_it_was_sent(tmp_path: Path) -> None:
    examples = random_examples(50)
    ids = np.arange(70_000, dtype=np.int32)[::-1]
    part = Examples.write(examples, tmp_path).renumbered(ids)[np.array([3, 1])]
    program = "import pickle, sys; print([e._replace(tokens=e.tokens.tolist()) for e in pickle.load(sys.stdin.buffer)])"
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(part), capture_output=True, check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    expected = [examples[i]._replace(tokens=ids[examples[i].tokens].tolist()) for i in (3, 1)]
    assert done.stdout.decode().strip() == str(expected)
    assert len(pickle.dumps(part.renumbered(None))) < 1000  # not the other examples


def test_memory_is_the_index_and_planning_some_bytes_an_example(tmp_path: Path) -> None:
    count = 60_000
    tokens = np.arange(4, 64, dtype=np.int32)

    def large() -> Iterator[Example]:
        for i in range(count):
            yield Example(i.to_bytes(4, "big") * 100, 32, 100 + i % 400, tokens[: i % 60])

    tracemalloc.start()
    try:
        kept = Examples.write(large(), tmp_path)
        assert tracemalloc.get_traced_memory()[0] < 30 * count
        assert tracemalloc.get_traced_memory()[1] < 80 * count
        tracemalloc.reset_peak()
        planned = plan(kept, 20, 0, 0)
        assert tracemalloc.get_traced_memory()[1] < 170 * count
    finally:
        tracemalloc.stop()
    assert sum(map(len, planned)) == count
