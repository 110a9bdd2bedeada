from __future__ import annotations

from pathlib import Path

import pytest

from data.files import atomic_file, atomic_folder, write_atomically
from im2latex.errors import UserError


def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    with atomic_file(file) as opened:
        opened.write(b"text")
        assert not file.exists()
    assert file.read_bytes() == b"text"
    assert list(file.parent.iterdir()) == [file]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, "old")
    with pytest.raises(ZeroDivisionError), atomic_file(file) as opened:
        opened.write(b"half")
        raise ZeroDivisionError
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_partial_file_of_a_killed_process_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file.writing").write_bytes(b"half of a longer one")
    write_atomically(tmp_path / "file", "whole")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/file/page.html"):
        write_atomically(tmp_path / "file" / "page.html", "text")


def test_a_folder_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "new" / "model") as folder:
        folder.mkdir()
        (folder / "file").touch()
        assert not (tmp_path / "new" / "model").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]
    assert (tmp_path / "new" / "model" / "file").exists()


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "model") as folder:
        folder.mkdir()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
