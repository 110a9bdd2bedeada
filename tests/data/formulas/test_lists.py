from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from data.dataset.record import Record
from data.dataset.writer import DatasetWriter
from data.formulas.lists import Formula, Problem, drawn_key, read_formulas, write_list
from im2latex.errors import UserError
from tests.data.importers.test_im2latex import processed


def read(*paths: Path, max_tokens: int = 150) -> list[Formula | Problem]:
    return list(read_formulas(paths, max_tokens, workers=1))


def fields(formulas: list[Formula | Problem]) -> list[tuple[str, str, str]]:
    return [(formula.source, formula.split, formula.tokens) for formula in formulas if isinstance(formula, Formula)]


@pytest.mark.parametrize("name", ["own list.tsv", "own list.tsv.gz"])
def test_lists_hold_a_formula_a_line_with_or_without_a_source(tmp_path: Path, name: str) -> None:
    text = "x^2\n\narxiv\t\\frac { a } { b }\r\nhep th;1\ty\nz^\nx+y\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    formulas = read(path, max_tokens=7)
    assert fields(formulas) == [
        ("own_list", "", "x ^ { 2 }"),
        ("arxiv", "", "\\frac { a } { b }"),
        ("hep_th_1", "", "y"),
        ("own_list", "", "x + y"),
    ]
    assert formulas[3] == Problem(f"{path}:5", "^ without its argument", "")


def test_long_formulas_are_problems(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("abc\nabcd\n%\n")
    formulas = read(tmp_path / "list", max_tokens=3)
    assert fields(formulas) == [("list", "", "a b c")]
    assert formulas[1:] == [
        Problem(f"{tmp_path}/list:2", "more than 3 tokens", ""),
        Problem(f"{tmp_path}/list:3", "empty formula", ""),
    ]


def test_lists_from_anywhere_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"\xef\xbb\xbfx\ny \x1b[2J\n\0\n")
    assert read(path) == [
        Formula("x", "list", "", "x"),
        Problem(f"{path}:2", "control character in the formula", ""),
        Problem(f"{path}:3", "control character in the formula", ""),
    ]
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"x\n" + bytes(10**6)))
    with pytest.raises(UserError, match=r"bomb.gz, line 2 is longer than a formula"):
        read(tmp_path / "bomb.gz")
    path.write_bytes("x".encode("utf-16"))
    with pytest.raises(UserError, match="list is in UTF-16; save it as UTF-8"):
        read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="list is a link, pipe or device instead of a file"):
        read(path)


def test_data_sets_keep_their_splits(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "set", "a test") as writer:
        for split, latex in (("train", "x"), ("test", "y")):
            writer.write(split, Record(b"", latex, "name"))
    assert fields(read(tmp_path / "set")) == [("set", "train", "x"), ("set", "test", "y")]


def test_the_processed_layout_keeps_its_splits_and_needs_no_images(tmp_path: Path) -> None:
    folder = processed(tmp_path / "source", count=4)
    for image in (folder / "formula_images_processed").iterdir():
        image.unlink()
    assert fields(read(folder)) == [
        ("source", "train", "x _ { 0 }"),
        ("source", "train", "x _ { 1 }"),
        ("source", "eval", "x _ { 2 }"),
        ("source", "eval", "x _ { 3 }"),
    ]


def test_paths_without_formulas_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path / "no")
    with pytest.raises(UserError, match="neither a data set nor a folder with"):
        read(tmp_path)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"x\n" * 1000)[:-20])
    with pytest.raises(UserError, match=r"cut.gz is cut off or damaged"):
        read(tmp_path / "cut.gz")
    folder = processed(tmp_path / "source", count=4)
    (folder / "im2latex_train_filter.lst").write_text("a.png 0\nb.png 9\n")
    with pytest.raises(UserError, match="im2latex_train_filter.lst, line 2"):
        read(folder)


@pytest.mark.parametrize(
    "one, other",
    [
        (r"{ x } ^ { 2 }", r"x ^ { 2 }"),
        (r"x \, = ~ y \quad .", r"x = y ."),
        (r"A \rightarrow B", r"A \to B"),
        (r"{ \cal L }", r"\mathcal { L }"),
    ],
)
def test_formulas_that_look_the_same_have_the_same_key(one: str, other: str) -> None:
    assert drawn_key(one) == drawn_key(other)


@pytest.mark.parametrize("one, other", [("x", "X"), ("x _ { 1 }", "x ^ { 1 }"), ("a b", "b a"), ("1 1", "1")])
def test_formulas_that_look_different_have_different_keys(one: str, other: str) -> None:
    assert drawn_key(one) != drawn_key(other)


def test_a_list_that_is_written_is_read_again(tmp_path: Path) -> None:
    formulas = [("arxiv", "x ^ { 2 }"), ("web", "y")]
    for name in ("list.tsv", "list.tsv.gz", "deep/list.tsv.gz"):
        write_list(tmp_path / name, formulas)
        assert [(source, tokens) for source, _, tokens in fields(read(tmp_path / name))] == formulas
    assert (tmp_path / "list.tsv").read_text() == "arxiv\tx ^ { 2 }\nweb\ty\n"
    assert (tmp_path / "list.tsv.gz").read_bytes() == (tmp_path / "deep" / "list.tsv.gz").read_bytes()


def test_a_list_is_written_atomically(tmp_path: Path) -> None:
    def broken():
        yield "a", "x"
        raise RuntimeError

    (tmp_path / "list").write_text("before\n")
    with pytest.raises(RuntimeError):
        write_list(tmp_path / "list", broken())
    assert [path.name for path in tmp_path.iterdir()] == ["list"]
    assert (tmp_path / "list").read_text() == "before\n"
