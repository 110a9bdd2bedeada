from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.commands import app
from data.formulas.mining import mine
from im2latex.errors import UserError

PAPER = r"""
\documentclass{article}
\input{macros}
\begin{document}
Let $x \in \R^n$ and $x \in \mathbb{R}^n$ and $\unknown$.
\begin{align} a &= b \\ c &= d \end{align}
\section{x} $\a + \frac{1}{2$ $\round$ $y$
\end{document}
"""
MACROS = r"\newcommand{\R}{\mathbb{R}}\def\round{\round\round}"
EXPECTED = [
    r"x \in \mathbb { R } ^ { n }",
    "a = b",
    "c = d",
    r"\begin{aligned} a & = b \\ c & = d \end{aligned}",
    "y",
]


def mined(tmp_path: Path, *sources: Path, **options) -> list[str]:
    mine(sources, tmp_path / "list", **{"max_tokens": 150, "workers": 1, **options})
    return (tmp_path / "list").read_text().splitlines()


def paper(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "paper.tex").write_text(PAPER)
    (folder / "macros.tex").write_text(MACROS)
    return folder


def archive(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, ".")
    return path


def test_folders_archives_and_files_are_read(tmp_path: Path) -> None:
    folder = paper(tmp_path / "hep th")
    expected = [f"hep_th\t{tokens}" for tokens in EXPECTED]
    assert mined(tmp_path, folder) == expected
    assert mined(tmp_path, archive(folder, tmp_path / "hep th.tar.gz")) == expected
    (tmp_path / "0001.gz").write_bytes(gzip.compress((MACROS + PAPER).encode()))
    assert mined(tmp_path, tmp_path / "0001.gz", label="arxiv") == [f"arxiv\t{tokens}" for tokens in EXPECTED]
    (tmp_path / "one.tex").write_text("$x$")
    assert mined(tmp_path, tmp_path / "one.tex") == ["one\tx"]


def test_archives_in_folders_are_read_and_unreadable_ones_reported(tmp_path: Path) -> None:
    archive(paper(tmp_path / "a"), tmp_path / "in.tar.gz")
    folder = tmp_path / "all"
    folder.mkdir()
    (tmp_path / "in.tar.gz").rename(folder / "1.tar.gz")
    (folder / "2.tar.gz").write_bytes(b"no archive")
    (folder / "3.tex").write_text("$z$")
    summary = mine([folder], tmp_path / "list", 150, workers=1)
    assert (tmp_path / "list").read_text().splitlines() == [f"all\t{tokens}" for tokens in [*EXPECTED, "z"]]
    assert summary.unreadable == [str(folder / "2.tar.gz")] and summary.documents == 2 and summary.written == 6


def test_formulas_left_out_are_counted(tmp_path: Path) -> None:
    summary = mine([paper(tmp_path / "a")], tmp_path / "list", 10, workers=1)
    assert dict(summary.rejected) == {
        "a command that is not known: \\unknown": 1,
        "{ without }": 1,
        "more than 10 tokens": 1,
        "macros that do not end": 1,
    }
    # Each document has its first formula in two spellings; the second document repeats the first one.
    again = mine([tmp_path / "a", paper(tmp_path / "b")], tmp_path / "list", 150, workers=1)
    assert again.written == 5 and again.duplicates == 1 + 1 + 5


def test_held_out_formulas_are_left_out_however_they_are_spelled(tmp_path: Path) -> None:
    folder = paper(tmp_path / "a")
    (tmp_path / "held").write_text("{x}\\;\\in \\mathbb R^{n}\nb\n{a} = b\n")
    summary = mine([folder], tmp_path / "list", 150, [tmp_path / "held"], workers=1)
    assert summary.excluded == 2
    assert (tmp_path / "list").read_text().splitlines() == [f"a\t{tokens}" for tokens in EXPECTED[2:]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_encodings_and_line_ends_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "one.tex").write_bytes("caf\u00e9 $x$ % $a$\r\n$y$\r\n".encode(encoding))
    assert mined(tmp_path, tmp_path / "one.tex") == ["one\tx", "one\ty"]


def test_workers_change_nothing(tmp_path: Path) -> None:
    folder = paper(tmp_path / "a")
    for i in range(5):
        (folder / f"{i}.tex").write_text(f"$x + {i}$ $x$")
    assert mined(tmp_path, folder, workers=2) == mined(tmp_path, folder, workers=1)


def test_sources_without_formulas_are_refused_and_leave_no_list(tmp_path: Path) -> None:
    (tmp_path / "one.tex").write_text("no formula")
    for source, message in (
        ("one.tex", "contain no formulas"),
        ("two.tex", "cannot read"),
        ("three.gz", "not a readable archive"),
    ):
        with pytest.raises(UserError, match=message):
            mine([tmp_path / source], tmp_path / "list", 150, workers=1)
    assert not (tmp_path / "list").exists()


def test_the_command_prints_what_it_did(tmp_path: Path) -> None:
    folder = paper(tmp_path / "a")
    out = tmp_path / "list.tsv.gz"
    result = CliRunner().invoke(app, ["mine", str(folder), "--out", str(out), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert r"left out 1 x a command that is not known: \unknown" in result.output
    assert "5 formulas of 1 documents" in result.output
    assert gzip.decompress(out.read_bytes()).decode().splitlines() == [f"a\t{tokens}" for tokens in EXPECTED]
