from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from components import serving_folder
from components.serving_folder import WITHDRAWN, activate, delete_old, lock, version_status, versions


def push(folder: Path, *names: int | str) -> None:
    for name in names:
        (folder / str(name) / "variables").mkdir(parents=True)
        (folder / str(name) / "variables" / "variables.index").write_text(str(name))


def numbers(folder: Path) -> tuple[list[int], list[int]]:
    return versions(folder), versions(folder / WITHDRAWN)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the newest version after each rename."""
    seen: list[int] = []
    rename = Path.rename

    def watched(path: Path, target: Path) -> None:
        rename(path, target)
        folder = path.parent.parent if path.parent.name == WITHDRAWN else path.parent
        seen.append(versions(folder)[-1])

    monkeypatch.setattr(Path, "rename", watched)
    return seen


def test_only_numbers_are_versions(tmp_path: Path) -> None:
    push(tmp_path, 10, 9, "007", "11.partial", WITHDRAWN)
    assert versions(tmp_path) == [9, 10]
    assert versions(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("withdrawn", "to", "expected"),
    [
        ((), 4, ([1, 2, 3, 4], [5])),
        ((), 2, ([1, 2], [3, 4, 5])),
        ((3, 8), 8, ([1, 2, 4, 5, 8], [3])),
        ((3, 8), 3, ([1, 2, 3], [4, 5, 8])),
        ((3, 8), 5, ([1, 2, 4, 5], [3, 8])),
    ],
)
def test_the_serving_version_changes_once_and_to_the_given_one(
    withdrawn: tuple[int, ...], to: int, expected: tuple[list[int], list[int]], tmp_path: Path, served: list[int]
) -> None:
    push(tmp_path, *(number for number in (1, 2, 3, 4, 5) if number not in withdrawn))
    push(tmp_path / WITHDRAWN, *withdrawn)
    with lock(tmp_path):
        newer, back = activate(tmp_path, to)
    assert numbers(tmp_path) == expected
    assert newer == [number for number in expected[1] if number not in withdrawn]
    assert back == (to in withdrawn)
    if to != 5:
        assert served == [5] * (len(served) - 1) + [to]
    for number in expected[0]:
        assert (tmp_path / str(number) / "variables" / "variables.index").read_text() == str(number)


def test_an_activation_can_be_undone(tmp_path: Path) -> None:
    push(tmp_path, 1, 2, 3)
    with lock(tmp_path):
        activate(tmp_path, 1)
        activate(tmp_path, 3)
    assert numbers(tmp_path) == ([1, 3], [2])
    with lock(tmp_path):
        activate(tmp_path, 2)
        activate(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]


def test_the_newest_versions_and_newest_withdrawn_versions_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_folder, "GRACE_SECONDS", -60.0)
    push(tmp_path, 1, 3, 5, 7, 9)
    push(tmp_path / WITHDRAWN, 2, 4, 6, 8)
    with lock(tmp_path):
        assert delete_old(tmp_path, 0) == []
        assert numbers(tmp_path) == ([1, 3, 5, 7, 9], [2, 4, 6, 8])
        assert delete_old(tmp_path, 3) == [1, 3, 2]
        assert numbers(tmp_path) == ([5, 7, 9], [4, 6, 8])
        assert delete_old(tmp_path, 3) == []
        assert delete_old(tmp_path, 9) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "7", "9", WITHDRAWN]


def test_a_version_that_served_recently_is_kept(tmp_path: Path) -> None:
    push(tmp_path, 1, 2, 3)
    push(tmp_path / WITHDRAWN, 4, 5, 6)
    with lock(tmp_path):
        assert delete_old(tmp_path, 2) == []


def test_a_killed_deletion_leaves_no_incomplete_version(tmp_path: Path) -> None:
    push(tmp_path, 1, 2, 3)
    program = f"""
import os, shutil
from pathlib import Path
from components import serving_folder
serving_folder.GRACE_SECONDS = -60.0
shutil.rmtree = lambda path: (os.unlink(path / "variables" / "variables.index"), os.kill(os.getpid(), 9))
serving_folder.delete_old(Path({str(tmp_path)!r}), 2)
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], timeout=60)
    assert killed.returncode == -9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.partial", "2", "3"]
    assert versions(tmp_path) == [2, 3]


def test_the_state_of_a_version_is_described(tmp_path: Path) -> None:
    push(tmp_path, 3, 5)
    push(tmp_path / WITHDRAWN, 7)
    assert [version_status(tmp_path / str(number)) for number in (1, 3, 5, 7)] == [
        "deleted", "a newer version serves", "serves now", "withdrawn"
    ]  # fmt: skip
    assert version_status(tmp_path / "elsewhere" / "5") == ""
