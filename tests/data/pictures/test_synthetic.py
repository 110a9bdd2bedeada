from __future__ import annotations

import json
import statistics
from collections import Counter
from pathlib import Path

import pytest

from data.dataset.record import SPLITS
from data.dataset.tfrecords import read_records
from data.latex.typesetting import draw
from data.pictures.synthetic import DEFAULT_DPI, DEFAULT_LEVEL, LEVELS, formulas, synthesize
from im2latex.errors import UserError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(tmp_path: Path) -> None:
    for name, seed, workers in (("one", 7, 1), ("two", 7, 2), ("other", 8, 1)):
        synthesize(tmp_path / name, 200, seed, workers=workers)
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert all(one[file] != other[file] for file in one if "tfrecord" in file)


def test_splits_have_the_requested_counts_and_no_formula_in_common(tmp_path: Path) -> None:
    wanted = {"train": 150, "eval": 30, "test": 20}
    seen: list[int] = []
    summary = synthesize(tmp_path / "set", 200, 1, level="digits", splits=wanted, workers=1, progress=seen.append)
    split = {name: [record.latex for record in read_records(tmp_path / "set" / name)] for name in SPLITS}
    assert {name: len(split[name]) for name in SPLITS} == wanted == summary.counts
    assert len(set().union(*split.values())) == 200
    assert sum(seen) == 200
    described = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert (described["level"], described["seed"], described["counts"]) == ("digits", 1, wanted)


def test_the_default_level_has_the_structures_of_the_quickstart() -> None:
    sample = [formula.split() for formula in formulas(2000, 1)]
    assert DEFAULT_LEVEL == "standard"
    assert 10 <= statistics.median(map(len, sample)) <= 14
    assert max(map(len, sample)) <= 40
    share = Counter(token for tokens in sample for token in set(tokens))
    for token, least in (("\\frac", 0.15), ("\\sqrt", 0.05), ("^", 0.3), ("_", 0.3), ("\\sum", 0.03), ("\\int", 0.02)):
        assert share[token] > least * 2000, token
    for tokens in (("\\alpha", "\\omega", "\\Gamma"), ("\\sin", "\\log"), ("=", "\\leq"), ("(", ")")):
        assert all(share[token] > 10 for token in tokens)


def test_levels_grow() -> None:
    vocabularies = [{token for f in formulas(1500, 1, level) for token in f.split()} for level in LEVELS]
    assert all(smaller < larger for smaller, larger in zip(vocabularies, vocabularies[1:], strict=False))
    assert "\\begin{array}" in vocabularies[-1] and vocabularies[0] <= set("0123456789+-") | {
        "\\cdot",
        "\\times",
        "\\pm",
    }


@pytest.mark.parametrize("level", LEVELS)
def test_no_two_formulas_look_the_same(level: str) -> None:
    seen: dict[bytes, str] = {}
    for formula in formulas(1500, 2, level):
        image = draw(formula.split(), DEFAULT_DPI * 10 / 72)
        assert seen.setdefault(repr(image.shape).encode() + image.tobytes(), formula) == formula
    assert len(seen) == 1500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "hard"}, "no level hard; the levels are digits, simple"),
        ({"examples": 2}, "at least 3"),
        ({"dpi": 10}, "10 dpi"),
        ({"splits": {"train": 50}}, "do not add up to 100"),
        ({"splits": {"train": 50, "valid": 50}}, "do not add up to 100"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        synthesize(**{"out": tmp_path / "set", "examples": 100, "seed": 1, **options})
    assert list(tmp_path.iterdir()) == []
