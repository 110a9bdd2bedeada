from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from im2latex.errors import UserError
from pipeline.lineage import store as stores
from pipeline.lineage.graph import read_store
from pipeline.lineage.store import choose_run, read, run_ids
from pipeline.workspace import Workspace
from tests.pipeline.lineage.conftest import FIRST, SECOND, THIRD


@pytest.fixture
def copy(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A workspace with only a copy of the store, which tests may damage."""
    copied = Workspace(tmp_path / "copy")
    copied.home.mkdir()
    shutil.copy(workspace.metadata, copied.metadata)
    return copied


def files(workspace: Workspace) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(workspace.home.iterdir())}


def refused(workspace: Workspace) -> str:
    """Reads the store, which fails and changes nothing. Returns the error message."""
    before = files(workspace)
    with pytest.raises(UserError) as error:
        read(workspace, read_store)
    assert files(workspace) == before
    sentence = str(error.value)
    assert "\n" not in sentence and str(workspace.home) in sentence
    return sentence


def sql(workspace: Workspace, statement: str) -> None:
    with sqlite3.connect(workspace.metadata) as file:
        file.execute(statement)
    file.close()


def test_reading_does_not_change_the_file(copy: Workspace) -> None:
    before = files(copy)
    assert len(read(copy, read_store).runs) == 3
    assert files(copy) == before


def test_reading_needs_no_write_permission(copy: Workspace) -> None:
    copy.metadata.chmod(0o444)
    assert len(read(copy, read_store).runs) == 3


def test_a_workspace_without_runs_says_what_makes_one(tmp_path: Path) -> None:
    empty = Workspace(tmp_path)
    assert "`im2latex run` makes one" in refused(empty)
    assert list(tmp_path.iterdir()) == []


def _newer(workspace: Workspace) -> None:
    sql(workspace, "UPDATE MLMDEnv SET schema_version = 99")


def _older(workspace: Workspace) -> None:
    sql(workspace, "UPDATE MLMDEnv SET schema_version = 6")


def _cut(workspace: Workspace) -> None:
    os.truncate(workspace.metadata, 40_000)


def _overwritten(workspace: Workspace) -> None:
    workspace.metadata.write_bytes(b"no database " * 1000)


def _holed(workspace: Workspace) -> None:
    """Overwrites a page of the file with noise, in the table of artifacts, and keeps its beginning."""
    content = workspace.metadata.read_bytes()
    with sqlite3.connect(workspace.metadata) as file:
        (page,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'Artifact'").fetchone()
        (size,) = file.execute("PRAGMA page_size").fetchone()
    file.close()
    start = (page - 1) * size
    workspace.metadata.write_bytes(content[:start] + b"\xa5" * size + content[start + size :])


def _emptied(workspace: Workspace) -> None:
    workspace.metadata.write_bytes(b"")


def _without_types(workspace: Workspace) -> None:
    """Simulates that the first run was killed when ML Metadata had created only its tables."""
    for table in ("Type", "ParentType", "TypeProperty", "Context", "Execution", "Artifact"):
        sql(workspace, f"DELETE FROM {table}")


def _of_something_else(workspace: Workspace) -> None:
    workspace.metadata.unlink()
    sql(workspace, "CREATE TABLE songs (title TEXT)")


def _half_written(workspace: Workspace) -> None:
    """Simulates that a process was killed during a large transaction."""
    code = """import os, sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("PRAGMA cache_size = 2")
file.execute("BEGIN")
file.execute("UPDATE Artifact SET uri = uri || 'x'")
file.execute("UPDATE ExecutionProperty SET string_value = string_value || hex(zeroblob(4000))")
os._exit(9)"""
    subprocess.run([sys.executable, "-c", code, str(workspace.metadata)], check=False)
    assert Path(f"{workspace.metadata}-journal").stat().st_size > 512


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_newer, "was written by a newer ML Metadata"),
        (_older, "was written by an older ML Metadata"),
        (_cut, "is damaged"),
        (_overwritten, "is damaged"),
        (_holed, "is damaged"),
        (_emptied, "there are no runs"),
        (_without_types, "there are no runs"),
        (_of_something_else, "is no store of ML Metadata"),
    ],
)
def test_a_store_that_cannot_be_read_is_one_sentence(
    copy: Workspace, spoil: Callable[[Workspace], None], words: str
) -> None:
    spoil(copy)
    assert words in refused(copy)


def test_the_last_run_is_the_newest_even_if_the_clock_was_set_back(copy: Workspace) -> None:
    sql(copy, f"UPDATE Context SET create_time_since_epoch = 1 WHERE name = '{THIRD}'")
    assert read(copy, run_ids) == [FIRST, SECOND, THIRD] == list(read(copy, read_store).runs)


def test_an_unfinished_transaction_is_rolled_back(copy: Workspace) -> None:
    before = read(copy, read_store)
    _half_written(copy)
    assert read(copy, read_store) == before


def test_tables_that_were_not_finished_are_rolled_back_and_are_no_run(copy: Workspace) -> None:
    """ML Metadata creates its tables in one transaction, during which the first run may be killed."""
    copy.metadata.unlink()
    code = """import os, sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("PRAGMA cache_size = 2")
file.execute("BEGIN")
for name in ("MLMDEnv", "Type", *(f"Other{i}" for i in range(40))):
    file.execute(f"CREATE TABLE {name} (schema_version, id)")
os._exit(9)"""
    subprocess.run([sys.executable, "-c", code, str(copy.metadata)], check=False)
    assert copy.metadata.stat().st_size and Path(f"{copy.metadata}-journal").stat().st_size > 512
    with pytest.raises(UserError, match="there are no runs"):
        read(copy, run_ids)


def test_a_locked_store_is_reported_soon(copy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "LOCKED_SECONDS", 0.2)
    code = """import sqlite3, sys, time
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(60)"""
    holder = subprocess.Popen([sys.executable, "-c", code, str(copy.metadata)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout and holder.stdout.readline()
        started = time.monotonic()
        assert "is locked by another process" in refused(copy)
        assert time.monotonic() - started < 5
    finally:
        holder.kill()
        holder.wait()
    assert len(read(copy, read_store).runs) == 3


def test_a_run_is_named_by_the_beginning_of_its_id(workspace: Workspace) -> None:
    ids = read(workspace, run_ids)
    assert ids == [FIRST, SECOND, THIRD]
    assert choose_run(ids, None, workspace) == THIRD
    assert choose_run(ids, "2020-01-02", workspace) == SECOND
    for beginning, words in (("2020", "3 runs .* begin with '2020'"), ("2021", "no runs .* the last ones are")):
        with pytest.raises(UserError, match=words):
            choose_run(ids, beginning, workspace)
    with pytest.raises(UserError, match="there are no runs"):
        choose_run([], None, workspace)


def test_the_workspace_stores_the_connection_of_its_last_run(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert workspace.connection == ""
    workspace.keep_connection("")
    assert list(tmp_path.iterdir()) == []
    workspace.keep_connection("mysql://me@host/db")
    assert workspace.connection == "mysql://me@host/db"
    workspace.keep_connection("")
    assert workspace.connection == ""


def test_a_locked_workspace_is_recognised_and_stays_locked(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert not workspace.is_locked() and list(tmp_path.iterdir()) == []
    with workspace.lock():
        assert workspace.is_locked() and workspace.is_locked()
        with pytest.raises(UserError, match="another run is using"), workspace.lock():
            pass
    assert not workspace.is_locked()
